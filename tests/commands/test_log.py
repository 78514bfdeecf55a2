"""What ``--log`` writes, read back by TensorBoard itself, by W&B offline, and by a stand-in for W&B."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from clipstill.cli.main import INTERRUPTED, main
from run_fixtures import QUICK, run_arguments, stopped_before

pytestmark = pytest.mark.usefixtures("own_torch_settings")
# Takes what the logger calls of wandb, and writes it down.
_STAND_IN = """
import json, pathlib

class Error(Exception): pass
class Settings(dict): pass
Image = lambda file: {"picture": file}

class Run:
    def __init__(self, given):
        self.file = pathlib.Path(given["dir"], "logged.jsonl")
        self.write(["init", {name: given[name] for name in ("name", "config")}])
    def write(self, line):
        with self.file.open("a") as stream:
            stream.write(json.dumps(line) + "\\n")
    def define_metric(self, name, **facts): self.write(["define", name, facts])
    def log(self, values): self.write(["log", values])
    def finish(self): self.write(["finish"])

def init(**given):
    print("wandb: a line that must not stand among the results")
    return Run(given)
"""


def _history(run: Path) -> list[dict[str, Any]]:
    return list(json.loads((run / "stages/student/history.json").read_text())["history"])


@pytest.fixture
def wandb_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "modules").mkdir()
    (tmp_path / "modules" / "wandb.py").write_text(_STAND_IN)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    monkeypatch.syspath_prepend(str(tmp_path / "modules"))
    yield
    sys.modules.pop("wandb", None)


def test_tensorboard_reads_back_curves_figures_and_the_picture(quick_copy: Path) -> None:
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main(run_arguments(quick_copy, QUICK, "--log", "tensorboard")) == 0
    (folder,) = (quick_copy / "tensorboard").iterdir()
    found = reader.EventAccumulator(str(folder))
    found.Reload()

    def points(tag: str) -> dict[int, float]:
        return {event.step: event.value for event in found.Scalars(tag)}

    history = _history(quick_copy)
    for name in ("agreement", "held_out_loss", "lr"):
        assert points(f"student_head/{name}") == pytest.approx({entry["step"]: entry[name] for entry in history})
    assert list(points("synthesis_by_step/loss").values()) == pytest.approx(_synthesis_losses(quick_copy))
    export = json.loads((quick_copy / "bundle/metrics.json").read_text())["export"]
    assert points("figures/onnx_bytes") == {0: export["onnx_bytes"]}
    assert {"seconds/surrogate", "seconds/student"} <= set(found.Tags()["scalars"])
    (picture,) = found.Images("synthetic images")
    assert picture.encoded_image_string == (quick_copy / "preview.png").read_bytes()


def _synthesis_losses(run: Path) -> list[float]:
    files = (run / "stages/surrogate").glob("shard-*.json")
    histories = [json.loads(file.read_text())["facts"]["history"] for file in files]
    return [fmean(entry["loss"] for entry in at_step) for at_step in zip(*histories, strict=True)]


def _logged(run: Path) -> list[Any]:
    return [json.loads(line) for line in (run / "logged.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("wandb_lines")
def test_training_is_logged_while_it_runs(quick_copy: Path) -> None:
    another = ("--set=distillation.steps=5", "--set=distillation.checkpoint_every=5")
    with stopped_before("calibration"):
        assert main(run_arguments(quick_copy, QUICK, *another, "--log", "wandb")) == INTERRUPTED
    lines = _logged(quick_copy)
    assert lines[-1] == ["finish"]
    values = [line[1] for line in lines if line[0] == "log"]
    assert [one["student_head/step"] for one in values if "student_head/loss" in one] == [1, 2, 3, 4, 5]
    (validated,) = [one for one in values if "student_head/agreement" in one]
    entry = _history(quick_copy)[-1]
    assert validated.pop("student_head/loss") > 0
    assert validated == {f"student_head/{name}": entry[name] for name in ("step", "agreement", "held_out_loss")}


@pytest.mark.usefixtures("wandb_lines")
def test_a_done_run_is_logged_once_from_what_it_stored(quick_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(quick_copy, QUICK, "--log", "wandb", "--json")) == 0
    assert json.loads(capsys.readouterr().out)["up_to_date"]
    lines = _logged(quick_copy)
    assert (lines[0][0], lines[-1]) == ("init", ["finish"])
    assert lines[0][1]["name"] == quick_copy.name
    assert lines[0][1]["config"]["classes"] == ["dog", "guitar"]
    logged = [line[1] for line in lines if line[0] == "log"]
    losses = [values["student_head/loss"] for values in logged if "student_head/loss" in values]
    assert losses == [entry["loss"] for entry in _history(quick_copy) if entry["loss"] is not None]
    assert ["define", "student_head/*", {"step_metric": "student_head/step"}] in lines
    assert {"synthetic images": {"picture": str(quick_copy / "preview.png")}} in logged
    # W&B makes this folder; a call with nothing to do leaves it alone.
    (quick_copy / "wandb").mkdir()
    assert main(run_arguments(quick_copy, QUICK, "--log", "wandb")) == 0
    assert _logged(quick_copy) == lines


@pytest.mark.slow
def test_weights_and_biases_takes_a_run_offline(quick_copy: Path) -> None:
    pytest.importorskip("wandb")
    command = [sys.executable, "-m", "clipstill", *run_arguments(quick_copy, QUICK, "--log", "wandb")]
    done = subprocess.run(command, env=os.environ | {"WANDB_MODE": "offline"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "wandb" not in done.stdout
    (file,) = (quick_copy / "wandb").glob("offline-run-*/run-*.wandb")
    content = file.read_bytes()
    for part in (b"student_head/agreement", b"synthesis_by_step/loss", b"figures/onnx_bytes", b"seconds/student"):
        assert part in content
    (picture,) = (quick_copy / "wandb").glob("offline-run-*/files/media/images/*.png")
    assert picture.read_bytes() == (quick_copy / "preview.png").read_bytes()


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_missing_package_is_one_line_before_any_work(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("clipstill.commands.log.find_spec", lambda _: None)
    assert main(run_arguments(tmp_path / "run", QUICK, "--log", name)) == 2
    message = capsys.readouterr().err.splitlines()[-1]
    assert message == f"error: {name} is not installed. Run: pip install 'clipstill[{name}]'"
    assert not (tmp_path / "run").exists()
