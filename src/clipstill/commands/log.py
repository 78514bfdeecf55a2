"""Curves, pictures and figures of a run for TensorBoard or Weights & Biases, while it runs.

They are what progress, stages and results say anyway. Each start of a run is one line there; what an earlier start made
is written from its stored history.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from clipstill.core.errors import ResourceError, reason_of
from clipstill.core.file_names import METRICS_FILE
from clipstill.core.progress import ProgressEvent, observing, say
from clipstill.core.records import read_record
from clipstill.stages import bundle, calibration, evaluation, images, student, teacher_prompts
from clipstill.workflow.records import StoredMetrics
from clipstill.workflow.run import Run
from clipstill.workflow.runner import seconds_of_work
from clipstill.workflow.store import LockedStore

# Stages whose progress is curves. The ladder trains further students under the same titles.
_WATCHED = (teacher_prompts.NAME, images.NAME, student.NAME)
_PICTURE_EVERY_S = 60.0


def check_log(name: str) -> None:
    """Raise a ResourceError unless the package that writes this log is installed."""
    spec = None if name == "none" else find_spec(name)
    # A folder of that name in the working folder is a package without an origin.
    if name != "none" and (spec is None or spec.origin is None):
        raise ResourceError(f"{name} is not installed. Run: pip install 'clipstill[{name}]'")


@contextmanager
def logged(run: Run, store: LockedStore, *, done: bool) -> Iterator[Log | None]:
    """Write the log that a run's settings name during the ``with`` block; None without, or where a done run has one."""
    name = run.settings.log
    check_log(name)
    if name == "none" or (done and (store.path / name).exists()):
        yield None
        return
    writer: _Writer = _TensorBoard(store.path) if name == "tensorboard" else _Wandb(run)
    log = Log(writer, store.path / images.PREVIEW_FILE)
    store.on_event = log.event
    try:
        with observing(log.progress):
            yield log
    finally:
        store.on_event = None
        writer.close()


class Log:
    """Chooses what is written."""

    def __init__(self, writer: _Writer, preview: Path) -> None:
        self._writer, self._preview = writer, preview
        self._stage = ""
        self._facts: Mapping[str, Any] = {}
        self._pictures, self._next_picture = 0, time.monotonic() + _PICTURE_EVERY_S

    def event(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take an event of the run folder."""
        if event == "stage":
            self._stage = facts["stage"].partition("-")[0]

    def progress(self, event: ProgressEvent) -> None:
        """Take an event of progress."""
        if self._stage not in _WATCHED:
            return
        if event.facts is not self._facts:  # The same facts stay with later units.
            self._facts = event.facts
            self._write(event.title, event.done, event.facts)
        if self._stage == images.NAME and time.monotonic() >= self._next_picture:
            self._picture()

    def finish(self, run: Run, skipped: Sequence[str]) -> None:
        """Take the stored histories, seconds, figures and images of a run that is up to date."""
        from clipstill.distillation.phases import AllPhase, HeadPhase

        for entry in teacher_prompts.read_history(run):
            self._write("prompts by epoch", entry["epoch"], entry)
        for entry in images.read_history(run):
            self._write("synthesis by step", entry["step"], entry)
        titles = {phase.name: phase.title for phase in (HeadPhase, AllPhase)}
        for entry in student.read_student_metadata(run)["history"]:
            values = entry if student.NAME in skipped else {"lr": entry["lr"]}
            self._write(titles[entry["phase"]], entry["step"], values)
        self._write("seconds", 0, seconds_of_work(run.store, run.steps))
        self._write("figures", 0, _figures(run))
        self._picture()

    def _write(self, title: str, step: float, values: Mapping[str, Any]) -> None:
        group = re.sub(r"\W+", "_", title.replace("'s", ""))
        numbers = {
            f"{group}/{name}": float(value)
            for name, value in values.items()
            if name not in ("step", "epoch") and isinstance(value, int | float)
        }
        if numbers:
            self._writer.numbers(group, int(step), numbers)

    def _picture(self) -> None:
        self._next_picture = time.monotonic() + _PICTURE_EVERY_S
        if self._preview.is_file():
            self._writer.picture(self._preview, self._pictures)
            self._pictures += 1


def _figures(run: Run) -> dict[str, Any]:
    foretold = calibration.read_calibration(run)["foresight"]["photos"]
    export = read_record(run.folder(bundle.NAME) / METRICS_FILE, StoredMetrics)["export"]
    measured = evaluation.read_evaluation(run) or {}
    names = ("n", "right_and_answered", "student_top1", "teacher_top1")
    return {
        **{name: measured.get(name) for name in names},
        "expected": foretold and foretold["share"],
        **{name: export[name] for name in ("onnx_bytes", "parameters", "latency_ms")},
    }


class _Writer(Protocol):
    """Writes to one place. ``step`` counts within a group."""

    def numbers(self, group: str, step: int, values: Mapping[str, float]) -> None: ...

    def picture(self, file: Path, step: int) -> None: ...

    def close(self) -> None: ...


class _TensorBoard:
    """Writes a file below the run folder, by tensorboard alone."""

    def __init__(self, out: Path) -> None:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = out / "tensorboard" / time.strftime("%Y-%m-%d_%H-%M-%S")
        self._file = EventFileWriter(str(folder), flush_secs=5)
        say(f"curves: tensorboard --logdir {out.parent}")

    def numbers(self, group: str, step: int, values: Mapping[str, float]) -> None:
        self._add(step, [{"tag": tag, "simple_value": value} for tag, value in values.items()])

    def picture(self, file: Path, step: int) -> None:
        from PIL import Image

        with Image.open(file) as image:
            width, height = image.size
        # The file as it is keeps its mark of synthetic pictures.
        content = {"encoded_image_string": file.read_bytes(), "width": width, "height": height, "colorspace": 3}
        self._add(step, [{"tag": "synthetic images", "image": content}])

    def _add(self, step: int, values: list[dict[str, Any]]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._file.add_event(Event(wall_time=time.time(), step=step, summary={"value": values}))

    def close(self) -> None:
        self._file.close()


class _Wandb:
    """Writes a run of Weights & Biases; with ``WANDB_MODE=offline`` nothing leaves the machine."""

    def __init__(self, run: Run) -> None:
        import wandb

        out, self._groups = run.store.path, set[str]()
        config = {"classes": list(run.task.names), **run.settings.model_dump(mode="json")}
        # Standard output is for results, and its lines are not the log's.
        quiet = wandb.Settings(console="off", disable_git=True, disable_code=True)
        try:
            with redirect_stdout(sys.stderr):
                self._run = wandb.init(project="clipstill", name=out.name, dir=str(out), config=config, settings=quiet)
        except wandb.Error as error:
            reason = reason_of(error).rstrip(".")
            raise ResourceError(
                f"Weights & Biases cannot be used: {reason}. Run 'wandb login', or set WANDB_MODE=offline."
            ) from None

    def numbers(self, group: str, step: int, values: Mapping[str, float]) -> None:
        axis = f"{group}/step"
        if group not in self._groups:
            self._groups.add(group)
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{group}/*", step_metric=axis)
        self._run.log({**values, axis: step})

    def picture(self, file: Path, step: int) -> None:
        import wandb

        self._run.log({"synthetic images": wandb.Image(str(file))})

    def close(self) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()
