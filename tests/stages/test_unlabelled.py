"""Runs with unlabelled photos: beside synthetic images and instead of them; teachers that learn; towers as students."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipstill.cli.main import main
from clipstill.core.files import read_json
from clipstill.core.seeds import generator_for
from clipstill.runtime import load_bundle
from clipstill.stages import calibration as calibrating
from clipstill.teachers import load_teacher
from clipstill.teachers import prompted as prompted_module
from clipstill.teachers.prompted import load_prompts
from tests.stages.test_examples import CLASSES, TINY, example_folder

PROMPTKD = (
    "prompts.images_per_class=0",
    "refusal.near_misses=0",
    "student.name=tower:embedded-s",
    "student.head=class-vectors",
    "student.projector_layers=2",
    "distillation.keep=last",
    "distillation.held_out_styles=0",
)


def photo_folder(folder: Path, count: int) -> Path:
    (folder / "anywhere").mkdir(parents=True)
    for number in range(count):
        pixels = torch.randint(0, 256, (9, 9, 3), generator=generator_for("photo", number), dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).resize((90, 70)).save(folder / "anywhere" / f"{number}.png")
    (folder / "anywhere" / "notes.txt").write_text("no image")
    return folder


def run(out: Path, *more: str, settings: tuple[str, ...] = ()) -> int:
    given = [part for setting in (*TINY, *settings) for part in ("--set", setting)]
    return main(["run", "--classes", ",".join(CLASSES), "--out", str(out), "--quiet", "--json", *given, *more])


@pytest.mark.usefixtures("own_torch_settings")
def test_unlabelled_photos_teach_beside_synthetic_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = photo_folder(tmp_path / "photos", 5)
    # The calibration asks both models about few of them: a folder may hold a hundred thousand.
    monkeypatch.setattr(calibrating, "_MOST_PHOTOS", 2)
    asked, answers = [], calibrating._answers
    monkeypatch.setattr(
        calibrating, "_answers", lambda bench, images, view: asked.append(len(images)) or answers(bench, images, view)
    )
    assert run(tmp_path / "run", "--unlabelled", str(photos), settings=("refusal.near_misses=0",)) == 0
    history = read_json(tmp_path / "run" / "stages" / "student" / "history.json")
    assert (history["images_made"], history["unlabelled"]) == (8, 5)
    assert history["train_count"] + history["held_out_count"] == history["images"] + 5
    assert asked == [history["images"] + 2] * 3
    assert "5 unlabelled photos" in (tmp_path / "run" / "bundle" / "card.md").read_text()
    assert "5&nbsp;unlabelled photos" in (tmp_path / "run" / "report.html").read_text()


@pytest.mark.usefixtures("own_torch_settings")
def test_a_tower_learns_from_photos_alone_by_the_stored_vectors_of_a_teacher_that_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, photos = tmp_path / "run", photo_folder(tmp_path / "photos", 6)
    examples = example_folder(tmp_path / "examples", CLASSES[:1], 2)
    settings = (*PROMPTKD, "prompt_teacher.method=auto", "prompt_teacher.epochs=2", "prompt_teacher.lr=0.1")
    given = ("--unlabelled", str(photos), "--examples", str(examples))
    assert run(out, *given, settings=settings) == 0
    told = json.loads(capsys.readouterr().out)
    assert set(told["seconds"]) >= {"teacher_prompts", "class_vectors", "student"}
    assert not {"prompts", "surrogate", "near_misses"} & set(told["seconds"])
    teacher = load_prompts(
        load_teacher("embedded-s", torch.device("cpu")), out / "stages" / "teacher_prompts" / "prompts.safetensors"
    )
    stored = load_file(out / "stages" / "class_vectors" / "class_vectors.safetensors")
    # Of both classes, though one alone had examples; made after the prompts were learned.
    torch.testing.assert_close(stored["class_vectors"], teacher.class_vectors(CLASSES).detach(), atol=1e-5, rtol=0)
    assert not torch.allclose(stored["class_vectors"], stored["text_vectors"], atol=1e-4)
    shipped = load_file(out / "bundle" / "class_vectors.safetensors")["class_vectors"]
    assert torch.equal(shipped, stored["class_vectors"])
    student = load_file(out / "stages" / "student" / "student.safetensors")
    assert torch.equal(student["head.class_vectors"], stored["class_vectors"])
    assert len(load_bundle(out).predict(next((photos / "anywhere").glob("*.png")))) == 2
    # The bundle alone knows the teacher with what it learned.
    test = example_folder(tmp_path / "test", CLASSES, 3)
    asked: list[bool] = []
    learned = prompted_module.PromptedEmbedded.encode_image
    monkeypatch.setattr(
        prompted_module.PromptedEmbedded, "encode_image", lambda own, x: asked.append(True) or learned(own, x)
    )
    assert main(["evaluate", str(out / "bundle"), "--images", str(test), "--json", "--quiet"]) == 0
    assert json.loads(capsys.readouterr().out)["teacher_top1"] is not None
    assert asked
    tuned = ("fine-tune", str(out), "--examples", str(test), "--out", str(tmp_path / "tuned"), "--json", "--quiet")
    assert main([*tuned, "--set", "distillation.steps=2", "--set", "distillation.views=1", "--set", "threads=1"]) == 0
    assert json.loads(capsys.readouterr().out)["examples"] == 6

    assert run(out, *given, settings=(*settings, "distillation.steps=4")) == 0
    again = json.loads(capsys.readouterr().out)
    assert {"teacher_prompts", "class_vectors"} <= set(again["skipped"])
    assert "student" not in again["skipped"]


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        (PROMPTKD, (), "nothing is left to teach by"),
        (("prompt_teacher.method=regularised",), (), "learns from labelled examples"),
        (("student.name=tower:embedded-x",), (), "embedded-s"),
        (("prompts.images_per_class=0",), ("--unlabelled", "{}"), "refusal.near_misses needs synthetic images"),
        ((), ("--unlabelled", "{}/nowhere"), "there is no image folder"),
        ((), ("--unlabelled", "{}", "--images", "{}"), "no sub-folder"),
    ],
)
def test_what_does_not_fit_together_is_told_before_any_work(
    settings: tuple[str, ...], more: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = str(photo_folder(tmp_path / "photos", 1))
    assert run(tmp_path / "run", *(part.format(photos) for part in more), settings=settings) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
