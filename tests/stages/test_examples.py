"""Image mode: examples make class vectors and targets, and teach where every class has some."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from clipstill.assembly.training import TrainingSet
from clipstill.cli.main import main
from clipstill.core.files import read_json
from clipstill.core.image_folder import ImageFolder
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.surrogate.shards import ShardWriter
from clipstill.workflow.photos import limited
from clipstill.workflow.recipes import load_settings
from run_fixtures import CLASSES, QUICK, noise_photos, run_arguments


def arguments(out: Path, examples: Path, *more: str) -> list[str]:
    return run_arguments(out, QUICK, "--examples", str(examples), "--quiet", "--json", *more)


@pytest.mark.usefixtures("own_torch_settings")
@pytest.mark.slow
def test_a_run_with_examples_is_drawn_towards_them_and_trained_on_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, examples = tmp_path / "run", noise_photos(tmp_path / "examples", CLASSES, 3)
    assert main(arguments(out, examples, "--set", "examples.per_class=2", "--set", "examples.style_share=0")) == 0
    assert json.loads(capsys.readouterr().out)["classes"] == list(CLASSES)
    teacher = read_json(out / "stages" / "class_vectors" / "teacher.json")
    assert teacher["examples"] == {"dog": 2, "guitar": 2}
    vectors = load_file(out / "stages" / "class_vectors" / "class_vectors.safetensors")
    targets = load_file(out / "stages" / "prompts" / "targets.safetensors")["targets"]
    torch.testing.assert_close(targets, vectors["prototypes"].repeat(4, 1))
    assert not torch.allclose(vectors["class_vectors"], vectors["text_vectors"])
    assert read_json(out / "stages" / "student" / "history.json")["examples"] == 4
    assert "4 example images" in (out / "bundle" / "card.md").read_text()
    assert "4&nbsp;example images" in (out / "report.html").read_text()


def test_an_example_that_would_be_measured_on_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = noise_photos(tmp_path / "photos", CLASSES, 1)
    assert main(arguments(tmp_path / "run", examples, "--images", str(examples))) == 2
    assert "would be learned from and measured on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_fewer_examples_are_among_more_of_them(tmp_path: Path) -> None:
    folder = ImageFolder.open(noise_photos(tmp_path / "examples", CLASSES, 6), CLASSES)
    chosen = [set(limited(folder, per_class, seed=3).items) for per_class in (1, 3, 6, 9)]
    assert [len(one) for one in chosen] == [2, 6, 12, 12]
    assert chosen[0] < chosen[1] < chosen[2]
    assert chosen[1] != set(limited(folder, 3, seed=4).items)


def training_set(folder: Path, images: int, examples: ImageFolder) -> TrainingSet:
    """Black synthetic images that the teacher tells apart, beside examples."""
    records = [ImageRecord(n % 2, n % 3, n, n, "", 0.0, 1.0, 32, "pixels", 2) for n in range(images)]
    writer = ShardWriter(folder, "key")
    pixels_NHW3 = np.zeros((images, 32, 32, 3), np.uint8)
    writer.write_group(0, pixels_NHW3, records, features_ND=np.eye(images, dtype=np.float16))
    writer.finish()
    settings = load_settings(overrides=["examples.teach_share=0.3", "student.image_size=48", "curation.min_score=0"])
    return TrainingSet.of(settings, SurrogateSet.open(folder), examples, None)


def test_examples_are_repeated_to_their_share_and_count_as_no_synthetic_image(tmp_path: Path) -> None:
    examples = ImageFolder.open(noise_photos(tmp_path / "examples", CLASSES, 2), CLASSES)
    found = training_set(tmp_path / "images", 28, examples)
    assert (found.examples, found.repeats) == (4, 3)
    assert found.data.photos is not None
    assert (len(found.data.pixels_M3HW), len(found.data.photos), len(found.data)) == (28, 12, 40)
    assert (found.data.class_id_N[28:] == -1).all()
    assert (found.data.class_id_N[:28] >= 0).all()


def test_examples_of_some_classes_only_are_not_trained_on(tmp_path: Path) -> None:
    """All photos that the student saw would be of those classes, and so would every photo it is shown."""
    examples = ImageFolder.open(noise_photos(tmp_path / "examples", CLASSES[:1], 2), CLASSES)
    found = training_set(tmp_path / "images", 10, examples)
    assert found.examples == 0
    assert len(found.data) == len(found.data.pixels_M3HW) == 10
