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
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Self

from clipstill.core.errors import ArtifactError, BusyError, ClipstillError
from clipstill.core.file_names import visible
from clipstill.core.files import (
    check_regular,
    holding,
    make_folder,
    read_json,
    read_manifest,
    sha256_json,
    sweep,
    sweep_below,
    verify_files,
    write_json,
    writing,
)
from clipstill.core.progress import say
from clipstill.core.records import read_record
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, Evidence, FolderHistory, StudentRecord
from clipstill.workflow.records import EVENTS, RunMarker, StageRecord, StoredTask
from clipstill.workflow.stage import STAGES_FOLDER, Step

FORMAT = "clipstill-run"
FORMAT_VERSION = 2
MARKER = "run.json"
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
        return read_run_marker(self.path)["threads"]

    @property
    def stages(self) -> Path:
        """The folder of the stages."""
        return self.path / STAGES_FOLDER

    def folder(self, step: Step) -> Path:
        """The folder that a step writes its result to."""
        return self.path / step.folder

    def cohort(self, name: str) -> Cohort:
        """The cohort that a stage's folder, such as ``surrogate-2``, is for.

        Raises:
            ArtifactError: The folder does not say it.
        """
        record = self._record(self.stages / name)
        if record is None:
            raise ArtifactError(
                f"{self.stages / name / STAGE_FILE} is missing or damaged. Run the command that made the run again."
            )
        return _cohort(record, complete=True)

    def cohorts(self, stage: str) -> list[tuple[Path, Cohort]]:
        """Folders of a stage that were not moved aside, the oldest first, and the cohort of each."""
        records = [(folder, record) for folder, record in self._records(self.stages) if record["stage"] == stage]
        records.sort(key=lambda entry: entry[1]["serial"])
        return [(folder, _cohort(record, complete=True)) for folder, record in records]

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
        records = sorted(self._records(self.stages, self.stages / _OLD), key=lambda entry: entry[1]["serial"])
        cohorts = [(record, _cohort(record, complete=key_of(folder) == record["key"])) for folder, record in records]
        return FolderHistory(
            images=tuple(cohort for record, cohort in cohorts if record["stage"] == "surrogate"),
            near_misses=tuple(cohort for record, cohort in cohorts if record["stage"] == "near_misses"),
            students=tuple(
                StudentRecord(cohort, record.get("images"))
                for record, cohort in cohorts
                if record["stage"] == "student" and cohort.complete and record.get("trained")
            ),
        )

    def _records(self, *parents: Path) -> Iterator[tuple[Path, StageRecord]]:
        """Undamaged folders of stages, and what each says of itself."""
        for parent in parents:
            for folder in sorted(parent.iterdir()) if parent.is_dir() else ():
                if f"-{_DAMAGED}" not in folder.name and (record := self._record(folder)):
                    yield folder, record

    def _folders_of(self, stage: str, key: str) -> list[Path]:
        records = self._records(self.stages, self.stages / _OLD)
        return [folder for folder, record in records if (record["stage"], record["key"]) == (stage, key)]

    @staticmethod
    def _record(folder: Path) -> StageRecord | None:
        """What a stage's folder says of itself; None where it says nothing that can be read."""
        try:
            record = read_record(folder / STAGE_FILE, StageRecord)
            Task.from_json(record["task"])
        except ClipstillError:
            return None
        return record


def default_out(task: Task) -> Path:
    """``runs/dog-elephant-giraffe-1a2b3c4d``: the same classes lead to the same folder."""
    words = ["".join(letter if letter.isalnum() else "_" for letter in name.lower()) for name in task.names[:3]]
    return Path("runs") / f"{'-'.join(words)[:60]}-{sha256_json(task.to_json())[:8]}"


def refuse_foreign(path: Path) -> None:
    """Raise an ``ArtifactError`` for a file, and for a folder that holds something else than a run."""
    if path.is_file():
        raise ArtifactError(f"{path} is a file. Choose a folder for the run with --out.")
    with writing(path):
        # A process killed before the marker stands leaves the lock, or a file not yet renamed, which are hidden.
        strangers = visible(path.iterdir()) if path.exists() else []
    if strangers and not (path / MARKER).exists() and not _is_run(path):
        raise ArtifactError(
            f"{path} is not empty and not a clipstill run (it holds '{strangers[0].name}'). Choose another --out."
        )


def _is_run(path: Path) -> bool:
    """Whether a folder is a run, even if its marker was deleted, as the message on a damaged one advises."""
    return (path / STAGES_FOLDER).is_dir() and (path / EVENTS).is_file()


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
        self.on_event: Callable[[str, dict[str, Any]], None] | None = None  # Called with each event and its facts.
        refuse_foreign(path)
        make_folder(path)
        is_new, is_run = not (path / MARKER).exists(), _is_run(path)
        with ExitStack() as held:
            held.enter_context(lock(path / LOCK))
            held.enter_context(holding(path))
            sweep(path)
            sweep_below(self.stages)
            if is_new or (is_run and self._has_torn_marker()):
                write_json(path / MARKER, {"format": FORMAT, "version": FORMAT_VERSION, "threads": threads})
            read_run_marker(path)
            self._events = held.enter_context(_open_events(path / EVENTS))
            self._held = held.pop_all()

    def _has_torn_marker(self) -> bool:
        """Whether the marker cannot be read at all; it is moved aside then."""
        marker = self.path / MARKER
        try:
            read_json(marker)
        except ArtifactError:
            say(f"{marker} is damaged and made again; the rest of the run stays as it is")
            with writing(marker):
                _move_aside(marker, self.stages / _OLD / f"{MARKER}-{_DAMAGED}")
            return True
        return False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def event(self, event: str, **facts: Any) -> None:
        """Append one line to the list of events; it is on the disk when this returns."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False, default=str)
        with writing(self.path / EVENTS):
            self._events.write(line + "\n")
            self._events.flush()
            os.fsync(self._events.fileno())
        if self.on_event is not None:
            self.on_event(event, facts)

    def prepare(self, step: Step, **more: Any) -> str:
        """Make the folder of a step ready for work; return why other work was moved aside, or an empty text.

        Work of another key moves to ``stages/old/NAME-KEY``; work of this key that was moved there comes back. ``more``
        holds further facts to remember of the step.
        """
        folder, old, reason = self.folder(step), self.stages / _OLD, ""
        with writing(folder):
            # A damaged record is written again where the manifest has the step's key.
            record = self._record(folder)
            key = record["key"] if record else step.key if key_of(folder) == step.key else "unknown"
            if folder.is_dir() and key != step.key and _move_aside(folder, old / f"{step.name}-{key[:12]}"):
                reason = "settings or classes changed" if record else f"its {STAGE_FILE} is damaged"
            kept = sorted(old.glob(f"{step.stage.name}*-{step.key[:12]}"))
            if not folder.exists() and kept:
                kept[0].rename(folder)
            make_folder(folder)
            record = self._record(folder)
            if record is None or record["key"] != step.key or record["number"] != step.cohort.number:
                serial = record["serial"] if record else time.time_ns()
                write_json(folder / STAGE_FILE, {**_record_of(step), "serial": serial, **more})
        return reason

    def set_aside(self, stage: str, key: str) -> None:
        """Move damaged work of this key to ``stages/old``, so that it is made again and nothing is lost."""
        for folder in self._folders_of(stage, key):
            self._set_folder_aside(folder, stage)

    def set_step_aside(self, step: Step) -> None:
        """The same for the result of a step, also for the bundle; a file in the run folder itself is written over."""
        folder = self.folder(step)
        if step.is_kept:
            self.set_aside(step.stage.name, step.key)
        elif folder.is_dir() and folder != self.path:
            self._set_folder_aside(folder, step.stage.name)

    def _set_folder_aside(self, folder: Path, name: str) -> None:
        with writing(folder):
            _move_aside(folder, self.stages / _OLD / f"{name}-{_DAMAGED}")


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


def _cohort(record: StageRecord, *, complete: bool) -> Cohort:
    return Cohort(
        task=Task.from_json(record["task"]),
        drawn=tuple(record["drawn"]),
        evidence=Evidence(**record["evidence"]),
        number=record["number"],
        key=record["key"],
        complete=complete,
    )


def key_of(folder: Path) -> str | None:
    """The key in the folder's manifest; None where it has none that can be read."""
    try:
        manifest = read_manifest(folder)
    except ArtifactError:
        return None
    return None if manifest is None else manifest.key


def read_run_marker(path: Path) -> RunMarker:
    """The content of ``run.json``.

    Raises:
        ArtifactError: The folder is no run, or of another version.
    """
    if not path.exists():
        raise ArtifactError(f"there is no folder {path}. Name one that 'clipstill run' made.")
    facts = read_json(path / MARKER) if (path / MARKER).is_file() else None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not a clipstill run. Name a folder that 'clipstill run' made.")
    if facts.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} was made by another version of clipstill. Update clipstill or choose another --out."
        )
    return read_record(path / MARKER, RunMarker)


def read_task(path: Path) -> Task:
    """The classes of a run folder.

    Raises:
        ArtifactError: The folder is no run, or was not begun.
    """
    read_run_marker(path)
    # An empty file of settings, as a crash of the machine may leave it, would count as the default settings.
    if not all(file.is_file() and file.stat().st_size for file in (path / TASK_FILE, path / CONFIG_FILE)):
        raise ArtifactError(f"{path} was not begun: it has no settings yet. Run 'clipstill run --out {path}' first.")
    return Task.from_json(read_record(path / TASK_FILE, StoredTask))


def _move_aside(folder: Path, target: Path) -> bool:
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        return False
    make_folder(target.parent)
    names = itertools.chain([target.name], (f"{target.name}-{number}" for number in itertools.count(2)))
    folder.rename(next(free for free in map(target.with_name, names) if not free.exists()))
    return True


def _open_events(path: Path) -> IO[str]:
    with writing(path):
        check_regular(path)
        torn = path.exists() and not _ends_in_newline(path)
        stream = path.open("a", encoding="utf-8", errors="backslashreplace")
        if torn:
            stream.write("\n")
        return stream


def _ends_in_newline(path: Path) -> bool:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - 1))
        return stream.read() in (b"", b"\n")


def lock(path: Path) -> IO[str]:
    """Hold the folder around a lock as long as the returned file is open.

    The system lets go when the process ends, however it ends, so that no stale lock stays.

    Raises:
        BusyError: Another process holds it.
        ResourceError: It cannot be written.
    """
    with writing(path):
        check_regular(path)
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
            raise BusyError(
                f"another clipstill process is working on {path.parent}. Wait for it to end or choose another --out."
            ) from None
    return stream
