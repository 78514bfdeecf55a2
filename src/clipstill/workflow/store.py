"""The folder of one run on disk: whose it is, who works on it, what its stages hold, what happened in it.

``run.json`` marks the folder, ``.lock`` keeps a second process out, ``events.jsonl`` lists what happened, ``stages/``
holds one folder a stage with its key in ``stage.json``. Nothing is deleted: a stage whose key changed moves to
``stages/old`` and comes back when the key does.
"""

from __future__ import annotations

import errno
import itertools
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.file_names import visible
from clipstill.core.files import read_json, read_manifest, verify_files, write_json, writing
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, Evidence, FolderHistory, StudentRecord
from clipstill.workflow.stage import STAGES_FOLDER, Step

FORMAT = "clipstill-run"
FORMAT_VERSION = 2
MARKER = "run.json"
EVENTS = "events.jsonl"
LOCK = ".lock"
CONFIG_FILE = "config.yaml"
TASK_FILE = "task.json"
STAGE_FILE = "stage.json"
_OLD = "old"
_DAMAGED = "damaged"


class Store:
    """A run folder to read from; another process may be working on it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def threads(self) -> int:
        """CPU threads that the run began with; sums depend on their number."""
        return int(read_run_marker(self.path)["threads"])

    @property
    def stages(self) -> Path:
        """The folder of the stages."""
        return self.path / STAGES_FOLDER

    def folder(self, step: Step) -> Path:
        """The folder that a step writes its result to."""
        return self.path / step.folder

    def cohort(self, name: str) -> Cohort:
        """The cohort that a stage's folder, such as ``surrogate-2``, is for."""
        return _cohort({**self._record(self.stages / name), "complete": True})

    def cohorts(self, stage: str) -> list[tuple[Path, Cohort]]:
        """Folders of a stage that were not moved aside, the oldest first, and the cohort of each."""
        found = [(record["serial"], folder) for folder, record in self._records() if record.get("stage") == stage]
        return [(folder, self.cohort(folder.name)) for _, folder in sorted(found) if folder.parent == self.stages]

    def kept(self, stage: str, key: str) -> Path:
        """The folder with the complete work of this key that the stage holds, or held before.

        Raises:
            ArtifactError: There is none, or a file of it is damaged.
        """
        for folder in self._folders_of(stage, key):
            manifest = read_manifest(folder)
            if manifest is not None:
                verify_files(folder, manifest)
                return folder
        raise ArtifactError(f"{self.path} holds no {stage} of {key[:12]} any more.")

    def history(self) -> FolderHistory:
        """Cohorts and trained students that the folder holds, the oldest first."""
        records = []
        for folder, record in self._records():
            manifest = read_manifest(folder)
            records.append({**record, "complete": manifest is not None and manifest.key == record["key"]})
        records.sort(key=lambda record: int(record["serial"]))
        try:
            return FolderHistory(
                images=tuple(_cohort(each) for each in records if each["stage"] == "surrogate"),
                near_misses=tuple(_cohort(each) for each in records if each["stage"] == "near_misses"),
                students=tuple(
                    StudentRecord(_cohort(each), each["images"])
                    for each in records
                    if each["stage"] == "student" and each["complete"] and each["trained"]
                ),
            )
        except (TypeError, KeyError) as error:
            raise ArtifactError(
                f"a {STAGE_FILE} in {self.stages} cannot be read ({error}). Start the run in a new folder."
            ) from None

    def _records(self) -> Iterator[tuple[Path, dict[str, Any]]]:
        """Undamaged folders of stages, those that were moved aside too, and what each says of itself."""
        for parent in (self.stages, self.stages / _OLD):
            for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
                if f"-{_DAMAGED}" not in folder.name and (record := self._record(folder)):
                    yield folder, record

    def _folders_of(self, stage: str, key: str) -> list[Path]:
        wanted = (stage, key)
        return [folder for folder, record in self._records() if (record.get("stage"), record.get("key")) == wanted]

    @staticmethod
    def _record(folder: Path) -> dict[str, Any]:
        """What a stage's folder says of itself; empty where it says nothing."""
        path = folder / STAGE_FILE
        record = read_json(path) if path.is_file() else {}
        return record if isinstance(record, dict) else {}


class LockedStore(Store):
    """A run folder that this process works on; use it as a context manager.

    Args:
        path: An absent or empty folder, or one of an earlier run.
        threads: CPU threads of a new run; an earlier run keeps its own number.

    Raises:
        ArtifactError: The folder holds something else, or another version's run.
        ResourceError: Another process works on it, or it cannot be written.
    """

    def __init__(self, path: Path, threads: int) -> None:
        super().__init__(path)
        if path.is_file():
            raise ArtifactError(f"{path} is a file. Choose a folder for the run with --out.")
        with writing(path):
            path.mkdir(parents=True, exist_ok=True)
            # A process killed before the marker stands leaves the lock, or a file not yet renamed, which are hidden.
            strangers = visible(path.iterdir())
        is_new = not (path / MARKER).exists()
        if strangers and is_new:
            raise ArtifactError(
                f"{path} is not empty and not a clipstill run (it holds '{strangers[0].name}'). Choose another --out."
            )
        self._lock = _lock(path / LOCK)
        try:
            if is_new:
                write_json(path / MARKER, {"format": FORMAT, "version": FORMAT_VERSION, "threads": threads})
            read_run_marker(path)
            self._events = _open_events(path / EVENTS)
        except BaseException:
            self._lock.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._lock.close()

    def event(self, event: str, **facts: Any) -> None:
        """Append one line to the list of events; it is on the disk when this returns."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False, default=str)
        with writing(self.path / EVENTS):
            self._events.write(line + "\n")
            self._events.flush()
            os.fsync(self._events.fileno())

    def prepare(self, step: Step, **more: Any) -> bool:
        """Make the folder of a step ready for work; return whether work of another key was moved aside.

        Work of another key moves to ``stages/old/NAME-KEY``; work of this key that was moved there comes back. ``more``
        holds further facts to remember of the step.
        """
        folder, old, moved = self.folder(step), self.stages / _OLD, False
        with writing(folder):
            record = self._record(folder) if folder.is_dir() else {}
            if folder.is_dir() and record.get("key") != step.key:
                moved = _move_aside(folder, old / f"{step.name}-{str(record.get('key', 'unknown'))[:12]}")
            kept = sorted(old.glob(f"{step.stage.name}*-{step.key[:12]}"))
            if not folder.exists() and kept:
                kept[0].rename(folder)
            folder.mkdir(parents=True, exist_ok=True)
            record = self._record(folder)
            if record.get("key") != step.key or record.get("number") != step.cohort.number:
                serial = record.get("serial", time.time_ns())
                write_json(folder / STAGE_FILE, {**_record_of(step), "serial": serial, **more})
        return moved

    def set_aside(self, stage: str, key: str) -> None:
        """Move damaged work of this key to ``stages/old``, so that it is made again and nothing is lost."""
        for folder in self._folders_of(stage, key):
            with writing(folder):
                _move_aside(folder, self.stages / _OLD / f"{stage}-{_DAMAGED}")


def _record_of(step: Step) -> dict[str, Any]:
    cohort = step.cohort
    return {
        "stage": step.stage.name,
        "key": step.key,
        "number": cohort.number,
        "task": cohort.task.to_json(),
        "drawn": list(cohort.drawn),
        "evidence": asdict(cohort.evidence),
    }


def _cohort(record: dict[str, Any]) -> Cohort:
    return Cohort(
        task=Task.from_json(record["task"]),
        drawn=tuple(record["drawn"]),
        evidence=Evidence(**record["evidence"]),
        number=int(record["number"]),
        key=str(record["key"]),
        complete=bool(record["complete"]),
    )


def read_run_marker(path: Path) -> dict[str, Any]:
    """The content of ``run.json``.

    Raises:
        ArtifactError: The folder is no run, or of another version.
    """
    facts = read_json(path / MARKER) if (path / MARKER).is_file() else None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not a clipstill run. Name a folder that 'clipstill run' made.")
    if facts.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} was made by another version of clipstill. Update clipstill or choose another --out."
        )
    return facts


def read_task(path: Path) -> Task:
    """The classes of a run folder.

    Raises:
        ArtifactError: The folder is no run, or was not begun.
    """
    read_run_marker(path)
    if not (path / TASK_FILE).is_file() or not (path / CONFIG_FILE).is_file():
        raise ArtifactError(f"{path} was not begun: it has no settings yet. Run 'clipstill run --out {path}' first.")
    return Task.from_json(read_json(path / TASK_FILE))


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first; a line cut short by a kill is left out."""
    events: list[dict[str, Any]] = []
    file = path / EVENTS
    if not file.is_file():
        return events
    for line in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            event = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(event, dict):
            events.append(event)
    return events


def _move_aside(folder: Path, target: Path) -> bool:
    if not any(folder.iterdir()):
        folder.rmdir()
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    names = itertools.chain([target.name], (f"{target.name}-{number}" for number in itertools.count(2)))
    folder.rename(next(free for free in map(target.with_name, names) if not free.exists()))
    return True


def _open_events(path: Path) -> IO[str]:
    with writing(path):
        torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        stream = path.open("a", encoding="utf-8", errors="backslashreplace")
        if torn:
            stream.write("\n")
        return stream


def _lock(path: Path) -> IO[str]:
    """Hold the run. The system lets go when the process ends, however it ends, so that no stale lock stays."""
    with writing(path):
        stream = path.open("a+", encoding="utf-8")
        try:
            if sys.platform == "win32":
                import msvcrt

                msvcrt.locking(stream.fileno(), msvcrt.LK_NBLCK, 1)
            else:
                import fcntl

                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            stream.close()
            if error.errno not in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
                raise
            raise ResourceError(
                f"another clipstill process is working on {path.parent}. Wait for it to end or choose another --out."
            ) from None
    return stream
