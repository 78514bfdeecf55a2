"""Runs with unlabelled photos instead of synthetic images; teachers that learn; towers as students."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from clipstill.cli.main import main
from clipstill.core.image_folder import ImageFolder
from clipstill.evaluation.evaluate import evaluate, teacher_predictor
from clipstill.runtime import load_bundle
from clipstill.teachers import load_teacher
from clipstill.teachers.prompted import load_prompts
from run_fixtures import (
    CLASSES,
    PROMPTKD,
    QUICK,
    kill_before_file,
    noise_photos,
    run_arguments,
    steps_done,
    stopped_before,
    student_of,
)


def photo_folder(folder: Path, count: int) -> Path:
    noise_photos(folder, ["anywhere"], count)
    (folder / "anywhere" / "notes.txt").write_text("no image")
    return folder


def run(out: Path, *more: str, settings: tuple[str, ...] = ()) -> int:
    return main(run_arguments(out, (*QUICK, *settings), "--quiet", "--json", *more))


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_a_tower_learns_from_photos_alone_by_the_stored_vectors_of_a_teacher_that_learned(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, photos = tmp_path / "run", photo_folder(tmp_path / "photos", 6)
    examples = noise_photos(tmp_path / "examples", CLASSES[:1], 2)
    settings = (*PROMPTKD, "prompt_teacher.method=auto", "prompt_teacher.epochs=2", "prompt_teacher.lr=0.1")
    given = ("--unlabelled", str(photos), "--examples", str(examples))
    assert run(out, *given, settings=settings) == 0
    result = json.loads(capsys.readouterr().out)
    assert set(result["seconds"]) >= {"teacher_prompts", "class_vectors", "student"}
    assert not {"prompts", "surrogate", "near_misses"} & set(result["seconds"])
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
    bundle = load_bundle(out)
    assert len(bundle.predict(next((photos / "anywhere").glob("*.png")))) == 2
    # Without near misses nothing is refused.
    assert bundle.refusal_threshold is None
    assert "none of these" not in (out / "report.html").read_text()
    # The bundle alone knows the teacher with what it learned.
    test = noise_photos(tmp_path / "test", CLASSES, 3)
    assert main(["evaluate", str(out / "bundle"), "--images", str(test), "--json", "--quiet"]) == 0
    measured = json.loads(capsys.readouterr().out)["teacher"]
    predict = teacher_predictor(teacher, stored["class_vectors"])
    expected = evaluate(predict, ImageFolder.open(test, CLASSES), teacher.preprocess)
    assert measured["top1"] == expected.top1
    assert measured["ece"] == pytest.approx(expected.ece, abs=1e-4)
    # Training goes on with it too; it ends before the export, which takes longer than all else.
    tuned = ("fine-tune", str(out), "--examples", str(test), "--out", str(tmp_path / "tuned"))
    with stopped_before("calibration"):
        short = ("distillation.steps=2", "distillation.views=1", "threads=1")
        assert main([*tuned, *(f"--set={setting}" for setting in short)]) == 130

    with stopped_before("bundle"):
        assert main(run_arguments(out, (*QUICK, *settings, "distillation.steps=4"), *given)) == 130
    assert "student" in steps_done(out)
    assert not {"teacher_prompts", "class_vectors"} & set(steps_done(out))


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_a_run_with_photos_goes_on_after_a_kill_to_the_same_student(tmp_path: Path) -> None:
    """It is killed between two validations of an epoch, and goes on with another number of processes that read."""
    photos = photo_folder(tmp_path / "photos", 130)
    learning = ("distillation.freeze=none", "distillation.steps=9", "distillation.checkpoint_every=3")
    settings = (*QUICK, "prompts.images_per_class=0", "refusal.near_misses=0", *learning)

    def arguments(out: Path, workers: int) -> list[str]:
        return run_arguments(out, (*settings, f"reading.workers={workers}"), "--unlabelled", str(photos))

    for out, workers in ((tmp_path / "straight", 0), (tmp_path / "killed", 1)):
        if workers:
            kill_before_file("*/checkpoint.safetensors", arguments(out, 2), at=2)
        with stopped_before("calibration"):
            assert main(arguments(out, workers)) == 130
    assert student_of(tmp_path / "killed") == student_of(tmp_path / "straight")


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_a_student_is_taught_and_ships_with_vectors_adapted_to_its_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, photos = tmp_path / "run", photo_folder(tmp_path / "photos", 12)
    settings = ("prompts.images_per_class=0", "refusal.near_misses=0", "student.head=class-vectors")
    assert run(out, "--unlabelled", str(photos), settings=settings) == 0
    stages = out / "stages"
    stored = load_file(stages / "class_vectors" / "class_vectors.safetensors")["class_vectors"]
    adapted = load_file(stages / "adapted_vectors" / "class_vectors.safetensors")["class_vectors"]
    for file, name in (("stages/student/student", "head.class_vectors"), ("bundle/class_vectors", "class_vectors")):
        assert torch.equal(load_file(out / f"{file}.safetensors")[name], adapted)
    assert "class vectors adapted to 12 unlabelled photos" in (out / "report.html").read_text()
    # The same vectors without a run: photos of noise show neither class, and hardly move them.
    zoo = tmp_path / "zoo"
    command = ("zero-shot", "--classes", ",".join(CLASSES), "--teacher", "embedded-s", "--out", str(zoo))
    capsys.readouterr()
    assert main([*command, "--unlabelled", str(photos), "--seed", "3", "--json", "--quiet"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["unlabelled"] == 12
    assert "of which about" in told["adaptation"]
    shipped = load_file(zoo / "class_vectors.safetensors")["class_vectors"]
    torch.testing.assert_close(shipped, adapted, atol=2e-3, rtol=0)  # The run keeps its photos' vectors as float16.
    torch.testing.assert_close(adapted, stored, atol=0.05, rtol=0)


@pytest.mark.parametrize(
    ("settings", "more", "message"),
    [
        (PROMPTKD, (), "nothing is left to teach by"),
        (("prompt_teacher.method=regularised",), (), "learns from labelled examples"),
        (("distillation.meta=exact", "prompts.images_per_class=1"), (), "and these prompts give one"),
        (("distillation.meta=exact", "prompts.strategy=plain"), (), "and these prompts give one"),
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
