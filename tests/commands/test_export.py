"""Formats of a whole run: what the run writes by itself, and what ``clipstill export`` adds."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from clipstill.cli.main import main
from clipstill.core.files import read_manifest, verify_files
from clipstill.runtime import load_bundle
from run_fixtures import CLASSES, MEASURED, kill_before_file, run_arguments

pytestmark = pytest.mark.usefixtures("own_torch_settings")


@pytest.fixture
def copy(measured_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(measured_run, tmp_path / "run"))


def test_a_run_writes_int8_beside_float_and_tells_of_both(measured_run: Path) -> None:
    export = json.loads((measured_run / "bundle" / "metrics.json").read_text())["export"]
    assert list(export["formats"]) == ["onnx", "onnx-int8"]
    told = export["formats"]["onnx-int8"]
    assert told["pictures"] == {"held out": 8, "photos": 18}
    assert set(told["accuracy"]) == {"photos"}
    assert told["bytes"] == (measured_run / "bundle" / "model.int8.onnx").stat().st_size < 0.4 * export["onnx_bytes"]
    assert "`model.int8.onnx`" in (measured_run / "bundle" / "card.md").read_text()
    if told["warning"]:
        assert "model.int8.onnx" in (measured_run / "report.html").read_text()


def test_format_added_to_a_run_keeps_it_up_to_date(
    copy: Path, measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["export", str(copy), "--format", "onnx-fp16", "--images", f"mine={photos}"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert printed[0].split()[-1] == "mine"
    assert [line.split()[:2] for line in printed[1:3]] == [["onnx", "model.onnx"], ["onnx-fp16", "model.fp16.onnx"]]
    manifest = read_manifest(copy / "bundle")
    assert manifest is not None
    verify_files(copy / "bundle", manifest)
    assert {"model.onnx", "model.int8.onnx", "model.fp16.onnx"} <= set(manifest.files)
    before, after = (json.loads((run / "bundle" / "metrics.json").read_text()) for run in (measured_run, copy))
    # The table compares the formats as they are now; the model keeps the one time that the run has said.
    assert after["export"]["formats"]["onnx"]["latency_ms"] == before["export"]["latency_ms"]
    assert "on this machine, now" in printed[3]
    assert main(run_arguments(copy, MEASURED, "--images", str(photos))) == 0
    assert "nothing to do" in capsys.readouterr().err


def test_int8_of_a_bundle_without_its_run_asks_for_pictures_and_takes_them(
    copy: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = tmp_path / "alone"
    shutil.copytree(copy / "bundle", alone)
    assert main(["export", str(alone), "--format", "onnx-int8", "--out", str(tmp_path / "new")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: onnx-int8 is refused")
    assert "it needs 8 pictures to calibrate on, there are 0." in error
    assert "--calibration DIR" in error
    assert not (tmp_path / "new" / "model.int8.onnx").exists()
    given = ["--calibration", str(photos), "--set", "export.int8_refuse=1", "--json"]
    assert main(["export", str(alone), "--format", "onnx-int8", "--out", str(tmp_path / "new"), *given]) == 0
    told = json.loads(capsys.readouterr().out)["formats"]["onnx-int8"]
    assert told["pictures"] == {"held out": 9}
    assert load_bundle(tmp_path / "new", model="int8").labels == ("dog", "guitar")


def test_refused_format_is_told_and_ends_with_2(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["export", str(copy), "--format", "onnx-fp16", "--format", "torch", "--out", str(tmp_path / "new")]
    # No file in float32 is within this of the student; int8 and fp16 are judged by their answers.
    monkeypatch.setattr("clipstill.export.parity.TOLERANCE", 1e-12)
    assert main(arguments) == 2
    assert "is not the student" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_a_place_that_cannot_be_replaced_is_told_before_the_work(
    measured_run: Path, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    more = ["--images", str(photos), "--out", str(tmp_path / "mine")]
    assert main(["export", str(measured_run), "--format", "torch", *more]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "holds 'notes.txt'" in line


def test_unknown_format_is_one_line_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "clipstill.commands.export", None)  # What loads torch.
    assert main(["export", "runs/zoo", "--format", "onnx-in8"]) == 2
    assert "Did you mean 'onnx-int8'? All of them: clipstill list formats" in capsys.readouterr().err
    assert main(["list", "formats"]) == 0
    assert "executorch" in capsys.readouterr().out.split()


def test_predict_and_evaluate_take_the_int8_model(
    measured_run: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = load_bundle(measured_run, model="int8")
    assert main(["predict", str(measured_run), str(photos / "dog" / "0.png"), "--format", "int8", "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out)
    assert told["predictions"][0]["score"] == bundle.predict(photos / "dog" / "0.png")[0].score
    assert main(["evaluate", str(measured_run), "--images", str(photos), "--format", "int8", "--json", "--quiet"]) == 0
    measured = json.loads(capsys.readouterr().out)["student_top1"]
    facts = json.loads((measured_run / "bundle" / "metrics.json").read_text())["export"]["formats"]["onnx-int8"]
    assert measured == pytest.approx(facts["accuracy"]["photos"])


@pytest.mark.slow
@pytest.mark.parametrize("renamed_to", [".lone.clipstill-previous", "lone"])
def test_a_lone_bundle_outlives_a_kill_at_each_rename_of_its_folder(
    quick_run: Path, tmp_path: Path, renamed_to: str
) -> None:
    lone = Path(shutil.copytree(quick_run / "bundle", tmp_path / "lone"))
    arguments = ["export", str(lone), "--format", "torch"]
    kill_before_file(f"*/{renamed_to}", arguments)
    assert load_bundle(lone).labels == CLASSES
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["lone"]
    manifest = read_manifest(lone)
    assert manifest is not None
    assert "model.pt2" in manifest.files
