"""Image mode: examples make class vectors and targets, and teach where every class has some."""

import json
from pathlib import Path

import pytest
import torch
from clipstill.assembly.photos import limited
from PIL import Image
from safetensors.torch import load_file

from clipstill.assembly.training import TeachingSet
from clipstill.cli.main import main
from clipstill.core.files import read_json
from clipstill.core.images import ImageFolder
from clipstill.core.seeds import generator_for
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet

CLASSES = ("dog", "guitar")
TINY = (
    "threads=1",
    "device=cpu",
    "evaluation.ladder=false",
    "export.formats=[onnx]",
    "teacher.name=embedded-s",
    "generator.name=pixels",
    "prompts.images_per_class=4",
    "synthesis.steps=2",
    "synthesis.image_size=64",
    "student.image_size=64",
    "distillation.steps=3",
    "distillation.batch=4",
    "distillation.views=1",
)


def example_folder(folder: Path, names: tuple[str, ...], each: int) -> Path:
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = torch.randint(0, 256, (9, 9, 3), generator=generator_for(name, number), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).resize((80, 70)).save(folder / name / f"{number}.png")
    return folder


def arguments(out: Path, examples: Path, *more: str) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    names = ["--classes", ",".join(CLASSES), "--examples", str(examples)]
    return ["run", *names, "--out", str(out), "--quiet", "--json", *settings, *more]


@pytest.mark.usefixtures("own_torch_settings")
def test_a_run_with_examples_is_drawn_towards_them_and_taught_by_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, examples = tmp_path / "run", example_folder(tmp_path / "examples", CLASSES, 3)
    assert main(arguments(out, examples, "--set", "examples.per_class=2", "--set", "examples.style_share=0")) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(CLASSES)
    told = read_json(out / "stages" / "class_vectors" / "teacher.json")
    assert told["examples"] == {"dog": 2, "guitar": 2}
    vectors = load_file(out / "stages" / "class_vectors" / "class_vectors.safetensors")
    targets = load_file(out / "stages" / "prompts" / "targets.safetensors")["targets"]
    torch.testing.assert_close(targets, vectors["prototypes"].repeat(4, 1))
    assert not torch.allclose(vectors["class_vectors"], vectors["text_vectors"])
    assert read_json(out / "stages" / "student" / "history.json")["examples"] == 4
    assert "4 example images" in (out / "bundle" / "card.md").read_text()
    assert "4&nbsp;example images" in (out / "report.html").read_text()


def test_an_example_that_would_be_measured_on_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = example_folder(tmp_path / "photos", CLASSES, 1)
    assert main(arguments(tmp_path / "run", examples, "--images", str(examples))) == 2
    assert "measured on too" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fewer_examples_are_among_more_of_them(tmp_path: Path) -> None:
    folder = ImageFolder.open(example_folder(tmp_path / "examples", CLASSES, 6), CLASSES)
    chosen = [set(limited(folder, per_class, seed=3).items) for per_class in (1, 3, 6, 9)]
    assert [len(one) for one in chosen] == [2, 6, 12, 12]
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[1] != set(limited(folder, 3, seed=4).items)


def made_set(images: int) -> SurrogateSet:
    records = [ImageRecord(n % 2, n % 3, n, n, "", 0.0, 1.0, 32, "pixels", 2) for n in range(images)]
    made = SurrogateSet([(Path("none"), "")] * images, records)
    made.pixels_N3HW = torch.zeros(images, 3, 32, 32, dtype=torch.uint8)
    return made


def test_examples_are_repeated_to_their_share_and_count_as_no_synthetic_image(tmp_path: Path) -> None:
    folder = ImageFolder.open(example_folder(tmp_path / "examples", CLASSES, 2), CLASSES)
    teaching = TeachingSet.of(made_set(28), folder, None, 0.3, 48, 3)
    assert (teaching.examples, teaching.repeats) == (4, 3)
    assert teaching.images_N3HW.shape == (28 + 12, 3, 48, 48)
    assert (teaching.class_id_N[28:] == -1).all()
    assert (teaching.class_id_N[:28] >= 0).all()


def test_examples_of_some_classes_only_do_not_teach(tmp_path: Path) -> None:
    """All photos that the student saw would be of those classes, and so would every photo it is shown."""
    folder = ImageFolder.open(example_folder(tmp_path / "examples", CLASSES[:1], 2), CLASSES)
    teaching = TeachingSet.of(made_set(10), folder, None, 0.3, 48, 3)
    assert teaching.examples == 0
    assert len(teaching.images_N3HW) == 10
