"""What the run folders of a workspace tell: read from the files, so that every page sees it, at any time."""

from __future__ import annotations

import fcntl
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipstill.core.errors import ArtifactError, ClipstillError, DataError
from clipstill.core.file_names import ADVICE_FILE, BUNDLE_FOLDER, METRICS_FILE, ZERO_SHOT_FOLDER
from clipstill.core.files import MANIFEST, put_back, read_manifest
from clipstill.core.foresight import Foresight
from clipstill.core.names import is_plain
from clipstill.core.records import checked, read_record
from clipstill.runtime.bundle import LABELS
from clipstill.stages import calibration, images, prompts, report, zero_shot
from clipstill.text.task import Task
from clipstill.workflow.records import (
    EVENTS,
    BundleInfo,
    StoredAdvice,
    StoredCalibration,
    StoredLabels,
    StoredMetrics,
    StoredTask,
    read_events,
)
from clipstill.workflow.stage import STAGES_FOLDER
from clipstill.workflow.store import LOCK, TASK_FILE, read_run_marker

# Folder of a bundle in a run -> what it holds, the one that answers by default first.
TUNED_FOLDER = "tuned"
BUNDLES = {
    BUNDLE_FOLDER: "Student",
    TUNED_FOLDER: "Student, tuned on photos",
    ZERO_SHOT_FOLDER: "Small teacher, no training",
}
_NAME = re.compile(r"[^\W_][\w.-]{0,79}")


@dataclass(frozen=True)
class StageState:
    """One stage of a run."""

    name: str
    state: str  # ``waiting``, ``running`` or ``done``.
    seconds: float | None = None  # None where it is not known.


@dataclass(frozen=True)
class Run:
    """One run folder, as it is at this moment."""

    path: Path
    task: Task | None  # None while the run has not got that far.
    stages: tuple[StageState, ...]  # Of the last start, in order; empty before.
    finished: bool  # The last start came to its end, and the bundle is there.
    is_running: bool  # A process holds the folder.
    bundles: tuple[str, ...]  # Of the folders in ``BUNDLES`` those that are there, maybe of an earlier start.
    report: Path | None  # None while it is not written; the same for the picture of the images in progress.
    preview: Path | None

    @property
    def name(self) -> str:
        """Name of the folder."""
        return self.path.name

    @property
    def is_quick(self) -> bool:
        """Whether its last start was to make the small teacher's bundle alone."""
        return [stage.name for stage in self.stages] == [zero_shot.NAME]

    def advice(self) -> StoredAdvice | None:
        """The verdict and the next steps; None where the run has no report."""
        file = self.path / ADVICE_FILE
        return read_record(file, StoredAdvice) if file.is_file() else None

    def bundle(self, kind: str | None = None) -> Path:
        """Folder of a bundle, by default of the first one; an error where it has none."""
        kind = kind if kind in self.bundles else next(iter(self.bundles), None)
        if kind is None:
            raise ArtifactError(
                f"'{self.name}' has no classifier yet. Watch it, or go on with it, until it is finished."
            )
        return self.path / kind

    def style_names(self) -> list[str]:
        """Names of the styles of the images; empty where none is written yet."""
        stages = self.path / STAGES_FOLDER
        try:
            return read_record(stages / prompts.NAME / prompts.STYLES_FILE, list[str])
        except ArtifactError:
            return []

    def figures(self, kind: str | None = None) -> dict[str, Any]:
        """The figures of a bundle, as it and the calibration of the run's student store them.

        Raises:
            ArtifactError: A file of them is missing or damaged.
        """
        estimates = self.path / STAGES_FOLDER / calibration.NAME / calibration.CALIBRATION_FILE
        folder = self.bundle(kind)
        is_student = folder.name == BUNDLE_FOLDER and estimates.is_file()
        foretold = read_record(estimates, StoredCalibration)["foresight"] if is_student else None
        manifest = read_manifest(folder)
        metrics = read_record(folder / METRICS_FILE, StoredMetrics)
        return {
            **metrics,
            **read_record(folder / LABELS, StoredLabels),
            "models": checked(manifest and manifest.info, BundleInfo, folder / MANIFEST),
            "foresight": foretold and Foresight.from_json(foretold),
        }


def checked_name(name: str) -> str:
    """The name of a run's folder, unless it has signs that could lead elsewhere: then a DataError."""
    if not _NAME.fullmatch(name):
        raise DataError(
            f"'{name}' cannot name a run. Use up to 80 letters, digits, dots, hyphens and underscores, a letter or a "
            f"digit first."
        )
    return name


def _may_be_shown(name: str) -> bool:
    """Whether a name is that of a folder right inside the workspace, which a user may have renamed at will."""
    return is_plain(name) and re.fullmatch(r"[^./\\-][^/\\]{0,254}", name) is not None


def runs_in(workspace: Path) -> list[str]:
    """Names of the run folders right inside a workspace, the one with the latest event first."""

    def latest(path: Path) -> float:
        # Not the time of a file, which a copy of a run has anew.
        return max((event["time"] for event in read_events(path)), default=0.0)

    folders = workspace.iterdir() if workspace.is_dir() else ()
    return [path.name for path in sorted(filter(_is_run, folders), key=latest, reverse=True)]


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, be it a damaged one."""
    if not _may_be_shown(path.name):
        return False
    try:
        return bool(read_run_marker(path))
    except ClipstillError:
        return (path / STAGES_FOLDER).is_dir() and (path / EVENTS).is_file()


def open_run(workspace: Path, name: str) -> Run:
    """One run of the workspace; an error where there is none of that name."""
    path = workspace / (name if _may_be_shown(name) else checked_name(name))
    read_run_marker(path)
    stages, ended = _stages(path)
    for kind in BUNDLES:
        put_back(path / kind)
    bundles = tuple(kind for kind in BUNDLES if (path / kind / MANIFEST).is_file())
    finished = ended and bool(bundles) and (not stages or stages[-1].name in (report.NAME, zero_shot.NAME))
    files = (path / report.REPORT_FILE, path / images.PREVIEW_FILE)
    page, preview = (file if file.is_file() else None for file in files)
    return Run(
        path,
        _task(path),
        stages,
        finished=finished,
        is_running=not finished and is_held(path / LOCK),  # The lock is asked for only where a process may hold it.
        bundles=bundles,
        report=page,
        preview=preview,
    )


def _task(path: Path) -> Task | None:
    try:
        return Task.from_json(read_record(path / TASK_FILE, StoredTask))
    except ClipstillError:
        return None


def _stages(path: Path) -> tuple[tuple[StageState, ...], bool]:
    """The stages since the last start, and whether that start came to its end."""
    names: list[str] = []
    states: dict[str, StageState] = {}
    ended = False
    for event in read_events(path):
        kind, stage = event["event"], event.get("stage", "")
        if kind == "start":
            names, states, ended = list(event.get("keys", {})), {}, False
        elif kind == "stage":
            states[stage] = StageState(stage, "running")
        elif kind in ("done", "skipped"):
            states[stage] = StageState(stage, "done", event.get("seconds"))
        elif kind == "end":
            ended = True
    return tuple(states.get(name, StageState(name, "waiting")) for name in names), ended


def is_held(lock: Path) -> bool:
    """Whether a process holds a file. It is taken for a moment and given back at once."""
    if not lock.is_file():  # Opening a pipe may never end.
        return False
    try:
        with lock.open("rb") as stream:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
