"""The ladder of a tiny run: in the run, of the finished run, killed and gone on with; and a teacher as a bundle."""

from __future__ import annotations

import copy
import json
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from clipstill.assembly.training import pictures_of_nothing
from clipstill.cli.main import main
from clipstill.core.files import read_json
from clipstill.generators.procedural import DeadLeaves, Noise, pictures
from clipstill.runtime import load_bundle
from clipstill.teachers import class_vectors, load_teacher
from clipstill.workflow.store import LOCK, lock
from run_fixtures import CLASSES, kill_before, noise_photos, stopped_before

pytestmark = pytest.mark.usefixtures("own_torch_settings")
CHEAP = "noise,procedural,ours"
# Of a clock, and so of no two calls.
TIMED = ("minutes", "latency_ms")


def measured(capsys: pytest.CaptureFixture[str], measured_run: Path, photos: Path, *more: str) -> dict[str, Any]:
    assert main(["ladder", str(measured_run), "--images", str(photos), "--json", "--quiet", *more]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def measured_rungs(run: Path) -> dict[str, Any]:
    rungs = read_json(run / "stages" / "ladder" / "ladder.json")["rungs"]
    return {rung["name"]: rung["measured"] for rung in rungs}


def untimed(result: dict[str, Any]) -> list[dict[str, Any]]:
    for rung in result["rungs"]:
        for name in TIMED if rung["measured"] else ():
            del rung["measured"]["cost"][name]
    rungs: list[dict[str, Any]] = result["rungs"]
    return rungs


def test_a_run_with_photos_measures_its_ladder_and_the_report_shows_it(measured_run: Path, photos: Path) -> None:
    stage = measured_run / "stages" / "ladder"
    result = read_json(stage / "ladder.json")
    by_name = {rung["name"]: rung for rung in result["rungs"]}
    assert result["n"] == 18  # the nineteenth is cut short
    assert [name for name, rung in by_name.items() if rung["measured"]] == ["teacher", "ours"]
    assert "it is the teacher itself" in by_name["small-teacher"]["missing"]
    assert by_name["noise"]["missing"].startswith("19 photos are too few to tell the two apart, it takes 50; clipstill")
    assert "--examples DIR" in by_name["examples"]["missing"]
    assert "--unlabelled DIR" in by_name["unlabelled"]["missing"]
    assert not (stage / "work").exists()
    page = (measured_run / "report.html").read_text()
    assert "Was distillation worth it?" in page
    assert result["recommendation"]["choice"].split(".")[0] in page
    assert "not measured: give --examples DIR" in page


def test_teacher_and_student_are_right_as_often_as_the_evaluation_says(measured_run: Path) -> None:
    evaluation = read_json(measured_run / "stages" / "evaluation" / "evaluation.json")
    rungs = {
        rung["name"]: rung["measured"]
        for rung in read_json(measured_run / "stages" / "ladder" / "ladder.json")["rungs"]
    }
    assert rungs["teacher"]["top1"] == evaluation["teacher_top1"]
    assert rungs["ours"]["top1"] == evaluation["student_top1"]
    assert rungs["ours"]["ece"] == pytest.approx(evaluation["student"]["ece"], abs=1e-4)
    assert rungs["ours"]["per_class"] == evaluation["student"]["per_class"]


def test_the_ladder_measures_the_small_teachers_bundle_that_the_run_has_made(measured_run: Path) -> None:
    rungs = {rung["name"]: rung for rung in read_json(measured_run / "stages" / "ladder" / "ladder.json")["rungs"]}
    teacher, export = rungs["teacher"], read_json(measured_run / "zero-shot" / "metrics.json")["export"]
    # The teacher of this run is the small one. A second export would have been timed anew.
    assert teacher["measured"]["cost"]["latency_ms"] == export["latency_ms"]
    assert (
        teacher["measured"]["top1"]
        == read_json(measured_run / "zero-shot" / "metrics.json")["evaluation"]["student_top1"]
    )


@pytest.fixture(scope="module")
def cheap_ladder(measured_run: Path, photos: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Rungs of a call of its own, which measures the controls on few photos too."""
    folder, out = tmp_path_factory.mktemp("ladder"), StringIO()
    with redirect_stdout(out):
        command = ["ladder", str(measured_run), "--images", str(photos), "--json", "--quiet", "--out", str(folder)]
        assert main([*command, "--rungs", CHEAP]) == 0
    rungs: list[dict[str, Any]] = json.loads(out.getvalue())["rungs"]
    return rungs


def test_costs_are_of_real_files(measured_run: Path, cheap_ladder: list[dict[str, Any]]) -> None:
    rungs = measured_rungs(measured_run) | {rung["name"]: rung["measured"] for rung in cheap_ladder}
    ours, teacher, noise = (rungs[name]["cost"] for name in ("ours", "teacher", "noise"))
    assert ours["onnx_bytes"] == noise["onnx_bytes"] == (measured_run / "bundle" / "model.onnx").stat().st_size
    assert teacher["onnx_bytes"] > 4 * 6_000_000
    # EfficientNet-Lite0 has 0.4 billion multiply-adds at 224 px; both are convolutions of that network.
    assert ours["gflop"] == pytest.approx(2 * 0.39 * (64 / 224) ** 2, rel=0.15)
    assert teacher["gflop"] == pytest.approx(2 * 0.39 * (160 / 224) ** 2, rel=0.15)
    assert 0 < noise["minutes"] < 1


@pytest.mark.slow
def test_a_ladder_that_was_interrupted_equals_one_that_was_not(
    measured_run: Path,
    photos: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    cheap_ladder: list[dict[str, Any]],
) -> None:
    command = ["ladder", str(measured_run), "--images", str(photos), "--rungs", CHEAP, "--out", str(tmp_path)]
    # It says so when a rung is measured and safe.
    with stopped_before("ladder"):
        assert main(command) == 130
    capsys.readouterr()
    safe = {path: path.stat().st_mtime_ns for path in (tmp_path / "measured").rglob("*") if path.is_file()}
    assert [path.name.rpartition("-")[0] for path in (tmp_path / "measured").iterdir()] == ["noise"]
    again = untimed(measured(capsys, measured_run, photos, "--rungs", CHEAP, "--out", str(tmp_path)))
    assert {path: path.stat().st_mtime_ns for path in safe} == safe
    assert again == untimed({"rungs": copy.deepcopy(cheap_ladder)})


@pytest.mark.slow
@pytest.mark.parametrize("change", ["rmdir */models/*/work", "rename */measured/*/MANIFEST.json"])
def test_a_ladder_that_was_killed_leaves_nothing_behind_the_next_one(
    measured_run: Path, photos: Path, tmp_path: Path, change: str
) -> None:
    command = ["ladder", str(measured_run), "--images", str(photos), "--rungs", "noise", "--out", str(tmp_path)]
    kill_before(change, command)
    assert main([*command, "--quiet"]) == 0
    names = {path.name for path in tmp_path.rglob("*") if path.is_file()}
    assert names == {".lock", "MANIFEST.json", "facts.json", "student.safetensors"}
    assert list(tmp_path.rglob("work")) == []


def test_two_ladders_in_one_folder_do_not_meet(
    measured_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with lock(tmp_path / LOCK):
        assert main(["ladder", str(measured_run), "--images", str(photos), "--out", str(tmp_path), "--quiet"]) == 2
    assert f"another clipstill process is working on {tmp_path}" in capsys.readouterr().err


@pytest.mark.slow
def test_examples_and_unlabelled_photos_make_their_rungs(
    measured_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, unlabelled = (
        noise_photos(tmp_path / "shown", CLASSES, 3, "shown"),
        noise_photos(tmp_path / "more", CLASSES, 5, "more"),
    )
    more = (
        "--examples",
        str(examples),
        "--shots",
        "2",
        "--unlabelled",
        str(unlabelled),
        "--out",
        str(tmp_path / "out"),
    )
    (examples / "zebra").mkdir()
    names = "small-teacher-examples,ours,examples,unlabelled"
    command = ["ladder", str(measured_run), "--images", str(photos), *more, "--rungs", names]
    assert main([*command, "--json"]) == 0
    captured = capsys.readouterr()
    assert captured.err.count("not used: zebra (no class is called 'zebra')") == 1
    result = json.loads(captured.out)
    costs = {rung["name"]: rung["measured"]["cost"] for rung in result["rungs"]}
    assert {name: (cost["photos"], cost["labels"]) for name, cost in costs.items()} == {
        "small-teacher-examples": (0, 4),
        "ours": (0, 0),
        "examples": (0, 4),
        "unlabelled": (10, 0),
    }
    # The same tower as that of the run's own bundle, with other class vectors.
    made = read_json(measured_run / "zero-shot" / "metrics.json")["export"]
    assert costs["small-teacher-examples"]["latency_ms"] == made["latency_ms"]
    assert costs["small-teacher-examples"]["parameters"] == made["parameters"]
    assert main(command) == 0
    again = capsys.readouterr()
    table = again.out
    assert "ladder: 4 of 4 ways were measured before on these photos" in again.err
    assert "tuned on 4 labelled photos" in table
    assert "distilled on 10 unlabelled photos too" in table


def test_a_small_teacher_that_cannot_be_exported_is_a_row_and_no_end(
    measured_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    both = ("--small-teacher", "embedded-s+embedded-s", "--rungs", "small-teacher", "--out", str(tmp_path / "out"))
    [rung] = measured(capsys, measured_run, photos, *both)["rungs"]
    assert rung["measured"] is None
    assert "cannot be a student" in rung["missing"]


def test_pictures_of_noise_are_noise_and_have_no_class() -> None:
    data = pictures_of_nothing(Noise(), 40, 32, 0)
    pixels = data.pixels_M3HW.double() / 255
    assert pixels.mean().item() == pytest.approx(0.5, abs=0.005)
    assert pixels.var().item() == pytest.approx(1 / 12, rel=0.02)
    neighbours = torch.corrcoef(torch.stack([pixels[..., :-1].flatten(), pixels[..., 1:].flatten()]))[0, 1]
    assert abs(neighbours.item()) < 0.01
    assert data.class_id_N.unique().tolist() == [-1]


def test_dead_leaves_have_edges_of_every_size_and_depend_on_the_seed_alone() -> None:
    images = pictures(DeadLeaves(), 6, 64, 0)
    assert images.dtype == torch.uint8
    assert torch.equal(pictures(DeadLeaves(), 2, 64, 0), images[:2])
    assert not torch.equal(pictures(DeadLeaves(), 2, 64, 1), images[:2])
    grey = images.double().mean(1).numpy()
    power = (np.abs(np.fft.fft2(grey - grey.mean((1, 2), keepdims=True))) ** 2).mean(0)
    frequency = np.hypot(np.fft.fftfreq(64)[:, None], np.fft.fftfreq(64)[None, :])
    bins = [power[(frequency > low) & (frequency <= 2 * low)].mean() for low in (1 / 32, 1 / 16, 1 / 8, 1 / 4)]
    slope = np.polyfit(np.log2([1, 2, 4, 8]), np.log2(bins), 1)[0]
    assert -3 < slope < -1  # as that of photos, whose power falls as 1 / frequency ** 2


def test_the_noise_rung_sees_as_many_pictures_as_the_student(
    measured_run: Path, cheap_ladder: list[dict[str, Any]]
) -> None:
    kept = read_json(measured_run / "stages" / "student" / "history.json")["images"]
    titles = {rung["name"]: rung["title"] for rung in cheap_ladder}
    assert titles["noise"] == f"Control: the student distilled on {kept} pictures of noise"
    pixels_N3HW = pictures_of_nothing(Noise(), kept, 64, 3).pixels_M3HW
    assert torch.equal(pixels_N3HW, pictures(Noise(), kept, 64, 3))


@pytest.mark.slow
def test_zero_shot_bundle_gives_the_teachers_own_answers(
    tmp_path: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "zoo"
    command = [
        "zero-shot",
        "--classes",
        ",".join(CLASSES),
        "--out",
        str(out),
        "--images",
        str(photos),
        "--quiet",
        "--json",
    ]
    assert main(command) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["teacher"] == "embedded-s"
    assert told["evaluation"]["n"] == 18
    bundle, teacher = load_bundle(out), load_teacher("embedded-s", torch.device("cpu"))
    pixels_NHW3 = np.stack([bundle.pixels(path) for path in sorted((photos / "guitar").glob("*.png"))])
    x_N3HW = torch.from_numpy(pixels_NHW3).permute(0, 3, 1, 2).float() / 255
    vectors_CD = class_vectors(teacher, [[name] for name in CLASSES])
    with torch.no_grad():
        expected_NC = teacher.logit_scale * teacher.encode_image(x_N3HW) @ vectors_CD.T
    np.testing.assert_allclose(bundle.logits(pixels_NHW3), expected_NC.numpy(), atol=1e-3)
    assert bundle.preprocess.size == teacher.preprocess.size
    card = (out / "card.md").read_text()
    assert "Nothing was trained" in card
    assert "SYNTHETIC" not in card
    assert main(["fine-tune", str(out), "--examples", str(photos), "--out", str(tmp_path / "tuned")]) == 2
    assert "has nothing that learns" in capsys.readouterr().err


def test_stored_vectors_with_examples_are_those_of_the_run(tmp_path: Path, photos: Path) -> None:
    from clipstill.assembly.class_vectors import encode_folder, task_vectors
    from clipstill.core.image_folder import ImageFolder
    from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes, text_trust, whitened
    from clipstill.text.task import parse_task
    from clipstill.workflow.recipes import load_settings

    cpu, config = torch.device("cpu"), load_settings()
    teacher, folder = load_teacher("embedded-s", cpu), ImageFolder.open(photos, CLASSES)
    task = parse_task(list(CLASSES))
    text_CD = task_vectors(teacher, task, config, None).class_CD
    assert torch.equal(text_CD, class_vectors(teacher, [[name] for name in CLASSES]))
    feat_ND, labels = encode_folder(teacher, folder, cpu)
    text_count = config.examples.text_count * text_trust(feat_ND, labels, text_CD)
    expected = class_vectors_with_examples(text_CD, prototypes(feat_ND, labels, text_CD), text_count)
    expected = whitened(expected, feat_ND, labels, config.examples.whitening)
    torch.testing.assert_close(task_vectors(teacher, task, config, folder).class_CD, expected)


def failed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    [line] = captured.err.splitlines()
    assert line.startswith("error: ")
    return line


def test_mistakes_are_told_in_a_line(
    measured_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert "file" in failed(capsys, "ladder", measured_run, "--images", photos, "--out", tmp_path / "file")
    (tmp_path / "other" / "bus").mkdir(parents=True)
    Image.new("RGB", (40, 40)).save(tmp_path / "other" / "bus" / "a.png")
    assert "is not a clipstill run" in failed(capsys, "ladder", tmp_path, "--images", photos)
    assert "there is no image folder" in failed(capsys, "ladder", measured_run, "--images", tmp_path / "gone")
    assert "no sub-folder" in failed(capsys, "ladder", measured_run, "--images", tmp_path / "empty")
    assert "named after a class" in failed(capsys, "ladder", measured_run, "--images", tmp_path / "other")
    line = failed(capsys, "ladder", measured_run, "--images", photos, "--examples", tmp_path / "other")
    assert "named after a class" in line
    assert "flatters" in failed(capsys, "ladder", measured_run, "--images", photos, "--unlabelled", photos / "dog")
    assert "Did you mean 'noise'?" in failed(capsys, "ladder", measured_run, "--images", photos, "--rungs", "nois")
    line = failed(capsys, "ladder", measured_run, "--images", photos, "--small-teacher", "embeded-s")
    assert "Did you mean 'embedded-s'?" in line
    both = ("zero-shot", "--classes", "dog,cat", "--run", measured_run, "--out", tmp_path / "zoo")
    assert "both name the classes" in failed(capsys, *both)
    assert not (tmp_path / "zoo").exists()


def test_an_unfinished_run_is_named(
    measured_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    shutil.copytree(measured_run, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "bundle")
    assert "its stage 'bundle' is missing" in failed(capsys, "ladder", tmp_path / "run", "--images", photos)
