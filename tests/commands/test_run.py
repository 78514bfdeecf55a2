"""The whole path at its smallest, on the embedded teacher: run, resume, skip, run out of disk."""

import errno
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipstill.cli.main import main
from clipstill.core.files import sha256_file
from clipstill.core.seeds import generator_for

TINY = (
    "threads=1",
    "device=cpu",
    "export.formats=[onnx]",
    "prompts.images_per_class=4",
    "prompts.styles=[photo, sketch]",
    "synthesis.steps=2",
    "synthesis.image_size=64",
    "synthesis.group_size=2",
    "curation.min_score=0",
    "refusal.near_misses=0",
    "evaluation.ladder=false",
    "student.image_size=64",
    "distillation.steps=12",
    "distillation.batch=4",
    "distillation.views=1",
    "distillation.held_out_styles=1",
    "distillation.checkpoint_every=4",
)
CLASSES = "dog,guitar"
pytestmark = pytest.mark.usefixtures("own_torch_settings")


def arguments(out: Path, *more: str) -> list[str]:
    settings = [part for setting in TINY for part in ("--set", setting)]
    return ["run", "--classes", CLASSES, "--out", str(out), "--seed", "3", *settings, *more]


def student_of(out: Path) -> str:
    return sha256_file(out / "stages" / "student" / "student.safetensors")


# Ends the process as SIGKILL does, from inside, so that the moment does not hang on the speed of the machine.
KILLER = """
import os, signal, sys
from clipstill.cli.main import main
import {module} as module

calls = 0
owner, _, name = "{owner}".rpartition(".")
place = getattr(module, owner) if owner else module
original = getattr(place, name)

def counted(*arguments, **named):
    global calls
    calls += 1
    if calls == {at}:
        os.kill(os.getpid(), signal.SIGKILL)
    return original(*arguments, **named)

setattr(place, name, counted)
main(sys.argv[1:])
"""


def killed(out: Path, module: str, owner: str, at: int) -> None:
    """Run until the ``at``-th call of a function, then be killed."""
    code = KILLER.format(module=module, owner=owner, at=at)
    done = subprocess.run([sys.executable, "-c", code, *arguments(out)], capture_output=True, text=True)
    assert done.returncode == -9, done.stderr


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number, name in enumerate(("dog", "guitar")):
        (folder / name).mkdir()
        for index in range(3):
            pixels = torch.randint(0, 256, (9, 9, 3), generator=generator_for(number, index), dtype=torch.uint8)
            Image.fromarray(pixels.numpy()).resize((90, 70)).save(folder / name / f"{index}.png")
    (folder / "dog" / "cut.png").write_bytes((folder / "dog" / "0.png").read_bytes()[:200])
    return folder


@pytest.fixture(scope="module")
def calls_abroad() -> list[str]:
    """Every attempt of the uninterrupted run to reach the network."""
    return []


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, photos: Path, calls_abroad: list[str]) -> Path:
    """A run that nobody interrupted, with sockets blocked."""
    out = tmp_path_factory.mktemp("whole") / "run"

    def blocked(*address: object, **_: object) -> None:
        calls_abroad.append(repr(address))
        raise OSError(errno.ENETUNREACH, "sockets are blocked")

    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, blocked)
        patch.setattr(socket, "getaddrinfo", blocked)
        assert main([*arguments(out), "--images", str(photos), "--quiet"]) == 0
    return out


def test_a_run_leaves_bundle_report_and_manifests(whole: Path) -> None:
    files = "MANIFEST.json config.yaml events.jsonl plan.json preview.png report.html run.json task.json"
    expected = ["bundle", "stages", *files.split()]
    assert sorted(path.name for path in whole.iterdir() if not path.name.startswith(".")) == sorted(expected)
    assert "dog" in (whole / "report.html").read_text()
    assert not (whole / "stages" / "student" / "work").exists()


def test_a_whole_run_never_asks_for_the_network(whole: Path, calls_abroad: list[str]) -> None:
    assert (whole / "bundle" / "model.onnx").exists()
    assert calls_abroad == []


def test_bundle_was_checked_on_the_photos_of_the_run(whole: Path) -> None:
    assert json.loads((whole / "bundle" / "parity.json").read_text())["pictures"] == "given"


def test_card_and_manifest_tell_what_made_the_student(whole: Path) -> None:
    card = (whole / "bundle" / "card.md").read_text()
    origin = json.loads((whole / "bundle" / "MANIFEST.json").read_text())["info"]["origin"]
    manifests = sorted((whole / "stages").glob("*/MANIFEST.json"))
    told = {stage: facts["manifest_sha256"] for stage, facts in origin["stages"].items()}
    assert told == {path.parent.name: sha256_file(path) for path in manifests}
    for digest in (student_of(whole), sha256_file(whole / "bundle" / "model.onnx"), *told.values()):
        assert f"`{digest}`" in card
    assert origin["given"]["photos measured on"]["photos"] == 7
    assert origin["prompts"]["styles"] == ["photo", "sketch"]
    assert "strategy styles" in card


def test_manifest_and_report_tell_what_became_of_the_images(whole: Path) -> None:
    surrogate = whole / "stages" / "surrogate"
    classes = json.loads((surrogate / "curation.json").read_text())["classes"]
    assert [(each["name"], each["made"], each["not_made"]) for each in classes] == [("dog", 4, 0), ("guitar", 4, 0)]
    assert all(1 <= each["effective_number"] <= 4 for each in classes)
    assert "curation.json" in json.loads((surrogate / "MANIFEST.json").read_text())["files"]
    assert [each["kept"] for each in json.loads((whole / "stages" / "student" / "kept.json").read_text())] == [4, 4]
    assert "How different the images are" in (whole / "report.html").read_text()


def test_class_vectors_are_of_the_sentences_that_suit_the_teacher(whole: Path) -> None:
    facts = json.loads((whole / "stages" / "class_vectors" / "teacher.json").read_text())
    assert facts["templates"] == ["{class}"]
    assert facts["image_parameters"] > 4_000_000


def test_records_tell_of_each_picture(whole: Path) -> None:
    from clipstill.surrogate.dataset import SurrogateSet

    records = SurrogateSet.open(whole / "stages" / "surrogate").records
    assert [record.class_id for record in records] == [0, 1] * 4
    assert len({record.seed for record in records}) == 8
    assert {record.prompt for record in records} >= {"a dog in the style of photo", "a guitar in the style of sketch"}
    assert all(0 <= record.score <= 1 and record.loss > 0 and record.image_size == 64 for record in records)


def test_second_run_does_nothing_and_says_so(whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "stages").rglob("*")}
    assert main([*arguments(whole), "--images", str(photos), "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["up_to_date"] is True
    assert "nothing to do" in captured.err
    assert {path: path.stat().st_mtime_ns for path in (whole / "stages").rglob("*")} == before


def test_result_holds_what_was_measured(whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments(whole), "--images", str(photos), "--json", "--quiet"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 6  # the seventh is cut short
    assert result["chance"] == 0.5
    assert 0 <= result["student_top1"] <= 1
    assert 0 <= result["teacher_top1"] <= 1
    assert result["onnx_bytes"] == (whole / "bundle" / "model.onnx").stat().st_size


def test_evaluate_verb_agrees_with_the_run(whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", str(whole), "--images", str(photos), "--json", "--quiet", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    stored = json.loads((whole / "stages" / "evaluation" / "evaluation.json").read_text())
    for name in ("n", "classes", "teacher_top1", "student_top1", "chance"):
        assert result[name] == stored[name]
    assert [Path(each["file"]).name for each in result["skipped"]] == ["cut.png"]


def test_a_photo_that_cannot_be_read_is_told_once(
    whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(whole), "--images", str(photos), "--device", "cpu"]) == 0
    assert capsys.readouterr().err.count("cut.png") == 1


def test_predict_verb_answers_and_names_what_it_cannot_read(
    whole: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = str(photos / "dog" / "1.png"), str(photos / "dog" / "cut.png")
    assert main(["predict", str(whole / "bundle"), good, bad, "--top", "1", "--json"]) == 2
    captured = capsys.readouterr()
    answers = json.loads(captured.out)
    assert answers[0]["predictions"][0]["label"] in ("dog", "guitar")
    assert "cut.png" in answers[1]["error"]
    assert captured.err.count("error:") == 1


def test_python_interface_finds_the_same_run(whole: Path, photos: Path) -> None:
    import clipstill

    bundle = clipstill.customize(CLASSES.split(","), out=whole, images=photos, overrides=TINY, seed=3)
    assert bundle.labels == ("dog", "guitar")
    assert sum(each.score for each in bundle.predict(photos / "dog" / "1.png")) == pytest.approx(1)


def test_killed_in_synthesis_and_in_distillation_gives_the_same_student(whole: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed(out, "clipstill.surrogate.shards", "ShardWriter.write_group", at=3)
    assert (out / "stages" / "surrogate" / "shard-00001.json").exists()
    assert not (out / "stages" / "surrogate" / "MANIFEST.json").exists()
    first = (out / "stages" / "surrogate" / "shard-00000.tar").stat().st_mtime_ns
    killed(out, "clipstill.distillation.trainer", "save_state", at=3)
    assert (out / "stages" / "surrogate" / "shard-00000.tar").stat().st_mtime_ns == first
    assert list((out / "stages" / "student" / "work").iterdir())
    assert not (out / "stages" / "student" / "student.safetensors").exists()
    killed(out, "clipstill.stages.stages", "make_bundle", at=1)
    assert student_of(out) == student_of(whole)


def test_full_disk_in_synthesis_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    real = os.fsync

    def fsync(handle: int) -> None:
        if (out / "stages" / "surrogate" / "shard-00001.json").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert main([*arguments(out), "--quiet"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: the disk is full")
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "stages" / "surrogate").glob("shard-0000[01].tar")}
    assert len(kept) == 2

    # Space again: the same command goes on, with the two groups that were safe.
    monkeypatch.setattr(os, "fsync", real)
    monkeypatch.setattr("clipstill.stages.stages.make_bundle", stopped)
    assert main([*arguments(out), "--quiet"]) == 130
    assert {name: (out / "stages" / "surrogate" / name).stat().st_mtime_ns for name in kept} == kept
    assert (out / "stages" / "surrogate" / "MANIFEST.json").exists()


def stopped(*_: object) -> None:
    raise KeyboardInterrupt


def test_damaged_stage_is_made_again_and_kept_aside(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    out = tmp_path / "run"
    shutil.copytree(whole, out)
    vectors = out / "stages" / "class_vectors" / "class_vectors.safetensors"
    expected = vectors.read_bytes()
    vectors.write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    monkeypatch.setattr("clipstill.stages.stages.make_bundle", stopped)
    main(arguments(out))
    assert "was altered" in capsys.readouterr().err
    assert vectors.read_bytes() == expected
    assert (out / "stages" / "old" / "class_vectors-damaged").is_dir()


def test_synthetic_pictures_differ_by_seed_and_class(whole: Path) -> None:
    from clipstill.surrogate.dataset import SurrogateSet

    made = SurrogateSet.open(whole / "stages" / "surrogate")
    assert len({np.asarray(image).tobytes() for image in made.pixels_N3HW}) == len(made) == 8
