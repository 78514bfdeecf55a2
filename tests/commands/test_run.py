"""The whole path at its smallest, on the embedded teacher: run, resume, skip, run out of disk."""

import errno
import html
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import clipstill
from clipstill.cli.main import main
from clipstill.core.files import read_json, sha256_file
from clipstill.evaluation.ladder import Recommendation
from clipstill.workflow.records import read_events
from run_fixtures import (
    CLASSES,
    MEASURED,
    QUICK,
    kill_before_file,
    noise_photos,
    run_arguments,
    stopped_before,
    student_of,
)

pytestmark = pytest.mark.usefixtures("own_torch_settings")


def test_a_run_leaves_bundle_report_and_manifests(measured_run: Path) -> None:
    files = "MANIFEST.json advice.json config.yaml events.jsonl plan.json preview.png report.html run.json steps.json"
    expected = ["bundle", "stages", "task.json", "zero-shot", *files.split()]
    assert sorted(path.name for path in measured_run.iterdir() if not path.name.startswith(".")) == sorted(expected)
    assert "dog" in (measured_run / "report.html").read_text()
    assert not (measured_run / "stages" / "student" / "work").exists()


def test_a_whole_run_never_asks_for_the_network(measured_run: Path) -> None:
    assert (measured_run / "bundle" / "model.onnx").exists()
    assert json.loads(measured_run.with_name("measured-run-calls.json").read_text()) == []


def test_bundle_was_checked_on_the_photos_of_the_run(measured_run: Path) -> None:
    assert json.loads((measured_run / "bundle" / "parity.json").read_text())["pictures"] == "given"


def test_card_and_manifest_say_what_made_the_student(measured_run: Path) -> None:
    card = (measured_run / "bundle" / "card.md").read_text()
    origin = json.loads((measured_run / "bundle" / "MANIFEST.json").read_text())["info"]["origin"]
    before = [path for path in (measured_run / "stages").glob("*/MANIFEST.json") if path.parent.name != "ladder"]
    digests = {stage: facts["manifest_sha256"] for stage, facts in origin["stages"].items()}
    assert digests == {path.parent.name: sha256_file(path) for path in before}
    model = sha256_file(measured_run / "bundle" / "model.onnx")
    for digest in (student_of(measured_run), model, *digests.values()):
        assert f"`{digest}`" in card
    assert origin["given"]["photos measured on"]["photos"] == 19
    assert origin["prompts"]["styles"] == ["photo", "sketch"]
    assert "strategy styles" in card


def test_manifest_and_report_say_what_became_of_the_images(measured_run: Path) -> None:
    surrogate = measured_run / "stages" / "surrogate"
    classes = json.loads((surrogate / "curation.json").read_text())["classes"]
    assert [(each["name"], each["made"], each["not_made"]) for each in classes] == [("dog", 8, 0), ("guitar", 8, 0)]
    assert all(1 <= each["effective_number"] <= 8 for each in classes)
    assert "curation.json" in json.loads((surrogate / "MANIFEST.json").read_text())["files"]
    kept = json.loads((measured_run / "stages" / "student" / "kept.json").read_text())
    assert [each["kept"] for each in kept] == [8, 8]
    assert "Diversity of the images" in (measured_run / "report.html").read_text()


def test_class_vectors_are_of_the_sentences_that_suit_the_teacher(measured_run: Path) -> None:
    facts = json.loads((measured_run / "stages" / "class_vectors" / "teacher.json").read_text())
    assert facts["templates"] == ["{class}"]
    assert facts["image_parameters"] > 4_000_000


def test_records_describe_each_picture(measured_run: Path) -> None:
    from clipstill.surrogate.dataset import SurrogateSet

    records = SurrogateSet.open(measured_run / "stages" / "surrogate").records
    assert [record.class_id for record in records] == [0, 1] * 8
    assert len({record.seed for record in records}) == 16
    assert {record.prompt for record in records} >= {"a dog in the style of photo", "a guitar in the style of sketch"}
    assert all(0 <= record.score <= 1 and record.loss > 0 and record.image_size == 64 for record in records)


def test_second_run_does_nothing_and_says_so(
    measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path: path.stat().st_mtime_ns for path in (measured_run / "stages").rglob("*")}
    assert main(run_arguments(measured_run, MEASURED, "--images", str(photos), "--json")) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert result["up_to_date"] is True
    assert "nothing to do" in captured.err
    assert {path: path.stat().st_mtime_ns for path in (measured_run / "stages").rglob("*")} == before


def test_result_holds_what_was_measured(measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(measured_run, MEASURED, "--images", str(photos), "--json", "--quiet")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["n"] == 18  # the nineteenth is cut short
    assert result["chance"] == 0.5
    assert 0 <= result["student_top1"] <= 1
    assert 0 <= result["teacher_top1"] <= 1
    assert result["onnx_bytes"] == (measured_run / "bundle" / "model.onnx").stat().st_size


def test_evaluate_verb_agrees_with_the_run(
    measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(measured_run), "--images", str(photos), "--json", "--quiet", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out)
    stored = json.loads((measured_run / "stages" / "evaluation" / "evaluation.json").read_text())
    for name in ("n", "classes", "teacher_top1", "student_top1", "chance"):
        assert result[name] == stored[name]
    assert [Path(each["file"]).name for each in result["skipped"]] == ["cut.png"]


def test_a_photo_that_cannot_be_read_is_named_once(
    measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["evaluate", str(measured_run), "--images", str(photos), "--device", "cpu"]) == 0
    assert capsys.readouterr().err.count("cut.png") == 1


def test_predict_verb_answers_and_names_what_it_cannot_read(
    measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good, bad = str(photos / "dog" / "1.png"), str(photos / "dog" / "cut.png")
    assert main(["predict", str(measured_run / "bundle"), good, bad, "--top", "1", "--json"]) == 2
    captured = capsys.readouterr()
    answers = json.loads(captured.out)
    assert answers[0]["predictions"][0]["label"] in CLASSES
    assert "cut.png" in answers[1]["error"]
    assert captured.err.count("error:") == 1


def test_python_interface_finds_the_same_run(measured_run: Path, photos: Path) -> None:
    result = clipstill.distil(classes=CLASSES, out=measured_run, images=photos, settings=MEASURED)
    assert result.up_to_date
    assert result.bundle.labels == CLASSES
    assert sum(each.score for each in result.bundle.predict(photos / "dog" / "1.png")) == pytest.approx(1)


@pytest.mark.slow
def test_killed_in_synthesis_and_in_distillation_gives_the_same_student(quick_run: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    arguments = run_arguments(out, QUICK)
    kill_before_file("*/surrogate/shard-00002.tar", arguments)
    assert (out / "stages" / "surrogate" / "shard-00001.json").exists()
    assert not (out / "stages" / "surrogate" / "MANIFEST.json").exists()
    first = (out / "stages" / "surrogate" / "shard-00000.tar").stat().st_mtime_ns
    kill_before_file("*/student/work/*", arguments, at=3)
    assert (out / "stages" / "surrogate" / "shard-00000.tar").stat().st_mtime_ns == first
    assert list((out / "stages" / "student" / "work").iterdir())
    assert not (out / "stages" / "student" / "student.safetensors").exists()
    with stopped_before("near_misses"):
        assert main(arguments) == 130
    assert student_of(out) == student_of(quick_run)


def test_full_disk_in_synthesis_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    surrogate = out / "stages" / "surrogate"
    real = os.fsync

    def fsync(handle: int) -> None:
        if (surrogate / "shard-00001.json").exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    assert main(run_arguments(out, QUICK, "--quiet")) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: the disk is full")
    kept = {path.name: path.stat().st_mtime_ns for path in surrogate.glob("shard-0000[01].tar")}
    assert len(kept) == 2

    # Space again: the same command goes on, with the two groups that were safe.
    monkeypatch.setattr(os, "fsync", real)
    with stopped_before("student"):
        assert main(run_arguments(out, QUICK)) == 130
    assert {name: (surrogate / name).stat().st_mtime_ns for name in kept} == kept
    assert (surrogate / "MANIFEST.json").exists()


def test_damaged_stage_is_made_again_and_kept_aside(quick_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    vectors = quick_copy / "stages" / "class_vectors" / "class_vectors.safetensors"
    expected = vectors.read_bytes()
    vectors.write_bytes(expected[:-1] + bytes([expected[-1] ^ 1]))
    with stopped_before("prompts"):
        assert main(run_arguments(quick_copy, QUICK)) == 130
    assert "was altered" in capsys.readouterr().err
    assert vectors.read_bytes() == expected
    assert (quick_copy / "stages" / "old" / "class_vectors-damaged").is_dir()


def test_files_of_the_system_in_a_run_and_its_bundle_stop_nothing(quick_copy: Path) -> None:
    strays = [folder / name for folder in (quick_copy, quick_copy / "bundle") for name in (".DS_Store", "Thumbs.db")]
    for stray in strays:
        stray.write_text("of the system")
    old = sha256_file(quick_copy / "bundle" / "MANIFEST.json")
    assert main(run_arguments(quick_copy, QUICK, "--set=export.page=false")) == 0
    assert sha256_file(quick_copy / "bundle" / "MANIFEST.json") != old
    assert [stray.read_text() for stray in strays] == ["of the system"] * 4


def test_a_file_of_the_user_in_the_bundle_is_told_before_the_work(
    quick_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (quick_copy / "bundle" / "notes.txt").write_text("mine")
    before = read_events(quick_copy)
    assert main(run_arguments(quick_copy, QUICK, "--set=distillation.steps=4")) == 2
    assert "bundle holds 'notes.txt', which is no part of a bundle" in capsys.readouterr().err
    assert read_events(quick_copy) == before
    assert main(run_arguments(quick_copy, QUICK)) == 0  # What is done stays done.


@pytest.mark.slow
def test_photos_whose_names_are_not_utf8_are_photos(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name, out = os.fsdecode(b"caf\xe9.png"), tmp_path / "run"
    for kind in ("measured", "examples", "unlabelled"):
        folder = noise_photos(tmp_path / kind, CLASSES, 3, kind)
        for photo in folder.glob("*/0.png"):
            photo.rename(photo.with_name(name))
            photo.with_name(f"damaged {name}").write_text(f"{kind} {photo.parent.name}")
            photo.with_name(f"no picture {name}.txt").write_text("x")
    monkeypatch.chdir(tmp_path)
    given = ["--set=evaluation.images=measured", "--examples", "examples", "--unlabelled", "unlabelled"]
    arguments = run_arguments(out, QUICK, *given, "--set=unlabelled.limit=4", "--set=examples.per_class=3")
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 6
    stored = json.loads((out / "stages" / "evaluation" / "evaluation.json").read_text(encoding="utf-8"))
    files = {Path(each["file"]).name for each in stored["skipped"]}
    assert files == {r"damaged caf\udce9.png", r"no picture caf\udce9.png.txt"}
    for page in ("report.html", "config.yaml", "bundle/card.md"):
        assert (out / page).read_text(encoding="utf-8")
    # Settings hold no path that depends on the working folder.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert main([*run_arguments(out, (), "--config", str(out / "config.yaml"))]) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("events.jsonl", '{"event": "done"}\n7\n', "nothing to do"),
        ("stages/student/stage.json", "{", "nothing to do"),
        ("steps.json", "{", "nothing to do"),
        ("task.json", "[]", "nothing to do"),
        ("run.json", "", "run.json is damaged and made again"),
        ("bundle/MANIFEST.json", "", "bundle: running"),
        ("bundle/MANIFEST.json", "[]", "bundle: running"),
        ("MANIFEST.json", "{}", "report: running"),
    ],
)
def test_a_damaged_file_of_a_finished_run_heals(
    quick_copy: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, says: str
) -> None:
    (quick_copy / name).write_text(content)
    assert main(run_arguments(quick_copy, QUICK)) == 0
    assert says in capsys.readouterr().err
    assert main(run_arguments(quick_copy, QUICK)) == 0
    assert "nothing to do" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name",
    [
        *("run.json", "steps.json", "task.json", "bundle/MANIFEST.json", "bundle/metrics.json"),
        *("stages/calibration/calibration.json", "stages/class_vectors/teacher.json", "stages/student/MANIFEST.json"),
    ],
)
@pytest.mark.parametrize("content", ["", "[7]", "[" * 100_000, "9" * 5000])
def test_a_verb_that_reads_a_damaged_run_says_so_in_one_line(
    quick_copy: Path, photos: Path, capsys: pytest.CaptureFixture[str], name: str, content: str
) -> None:
    (quick_copy / name).write_text(content)
    assert main(["ladder", str(quick_copy), "--images", str(photos), "--quiet"]) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


def test_synthetic_pictures_differ_by_seed_and_class(measured_run: Path) -> None:
    from clipstill.surrogate.dataset import SurrogateSet

    images = SurrogateSet.open(measured_run / "stages" / "surrogate")
    assert len({np.asarray(image).tobytes() for image in images.pixels_N3HW}) == len(images) == 16


def test_a_copied_run_is_the_same_run(measured_run: Path, photos: Path, tmp_path: Path) -> None:
    shutil.copytree(measured_run, tmp_path / "run")
    assert clipstill.distil(classes=CLASSES, out=tmp_path / "run", images=photos, settings=MEASURED).up_to_date


def test_the_end_of_a_run_leads_with_five_photos_and_says_what_could_be_had_without_training(
    measured_run: Path, photos: Path
) -> None:
    result = clipstill.distil(classes=CLASSES, out=measured_run, images=photos, settings=MEASURED)
    facts = result.facts()
    assert facts["verdict"] == result.advice.text
    assert result.advice.verdict == "do not use so far"  # As often right as a coin.
    assert facts["next 1"] is not None
    assert facts["next 1"].startswith("Give five photos of each class")
    assert f"clipstill fine-tune {measured_run} --examples five_photos" in facts["next 1"]
    assert result.to_json()["right_and_answered"] == result.evaluation.student.right_and_answered  # type: ignore[union-attr]
    assert facts["other ways"] is None  # Below fifty photos nothing is told apart.
    assert result.ladder is not None
    ladder = replace(result.ladder, recommendation=Recommendation("ours", None, "Ship it.", more="Photos add to it."))
    assert replace(result, ladder=ladder).facts()["other ways"] == "Photos add to it."
    told = str(facts["which to ship"])
    assert f"50 photos tell which of the two is right more often: clipstill ladder {measured_run}" in told
    assert f"embedded-s without training ({measured_run}/zero-shot) takes 27.8 MB" in told
    assert read_json(measured_run / "advice.json")["which_to_ship"] == told
    assert told in html.unescape(result.report.read_text())
    assert result.advice.text in result.report.read_text()
    assert result.advice.text in (result.bundle_folder / "card.md").read_text()
