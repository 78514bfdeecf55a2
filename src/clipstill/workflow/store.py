"""The folder of one run: whose it is, who works on it, what happened in it.

``run.json`` marks the folder, ``.lock`` keeps a second process out, ``events.jsonl`` tells the story, ``stages/`` holds
one folder a stage. Nothing is deleted: a stage whose settings changed moves to ``stages/old`` and comes back when they
do.
"""

from __future__ import annotations

import errno
import json
import os
import sys
import time
from pathlib import Path
from typing import IO, Any

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.files import disk_error, read_json, write_json

FORMAT = "clipstill-run"
FORMAT_VERSION = 1
MARKER = "run.json"
EVENTS = "events.jsonl"
LOCK = ".lock"
STAGES_FOLDER = "stages"
STAGE_KEYS = "KEYS.json"


class RunFolder:
    """An open and locked run folder; use it as a context manager.

    Args:
        path: an absent or empty folder, or one of an earlier run.
        threads: CPU threads of a new run. An earlier run keeps its own number, since sums depend on it.

    Raises:
        ArtifactError: the folder holds something else, or a newer format.
        ResourceError: another process works on it, or it cannot be written.
    """

    def __init__(self, path: Path, threads: int) -> None:
        self.path = path
        if path.is_file():
            raise ArtifactError(f"{path} is a file. Choose a folder for the run with --out.")
        marker = path / MARKER
        try:
            path.mkdir(parents=True, exist_ok=True)
            strangers = sorted(entry.name for entry in path.iterdir() if not _is_ours(entry.name))
        except OSError as error:
            raise disk_error(error, path) from error
        if strangers and not marker.exists():
            raise ArtifactError(
                f"{path} is not empty and not a clipstill run (it holds '{strangers[0]}'). Choose another --out."
            )
        self._lock = _lock(path / LOCK)
        try:
            if not marker.exists():
                write_json(marker, {"format": FORMAT, "version": FORMAT_VERSION, "threads": threads})
            facts = read_run_marker(path)
            self.threads = int(facts.get("threads", threads))
            self._events = _open_events(path / EVENTS)
        except BaseException:
            self._lock.close()
            raise

    @classmethod
    def of_another(cls, path: Path) -> RunFolder:
        """One that another process holds and writes: all that may be asked of it is where its stages lie."""
        seen = cls.__new__(cls)
        seen.path = path
        return seen

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *_: object) -> None:
        self._events.close()
        self._lock.close()

    def event(self, event: str, **facts: Any) -> None:
        """Append one line to the story; it is on the disk when this returns."""
        line = json.dumps({"time": round(time.time(), 3), "event": event, **facts}, ensure_ascii=False, default=str)
        try:
            self._events.write(line + "\n")
            self._events.flush()
            os.fsync(self._events.fileno())
        except OSError as error:
            raise disk_error(error, self.path / EVENTS) from error

    def stage(self, name: str) -> Path:
        """Where the stage lies."""
        return self.path / STAGES_FOLDER / name

    def prepare_stage(self, name: str, key: str) -> bool:
        """Make the stage's folder ready for work under ``key``.

        Work of another key moves to ``stages/old/NAME-KEY``; work of this key that was moved there comes back.

        Returns:
            True if work of another key was moved aside.

        Raises:
            ResourceError: the folder cannot be written.
        """
        folder, keys = self.stage(name), self._stage_keys()
        moved = False
        try:
            if folder.exists() and keys.get(name) != key:
                moved = _move_aside(folder, self._old(name, keys.get(name, "unknown")))
            if keys.get(name) != key:
                # Before the folder appears: a folder without its key would be taken for work of another one.
                write_json(self.path / STAGES_FOLDER / STAGE_KEYS, {**keys, name: key})
            kept = self._kept(name, key)
            if not folder.exists() and kept is not None:
                kept.rename(folder)
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise disk_error(error, folder) from error
        return moved

    def kept(self, name: str, key: str) -> Path:
        """Where work of this key lies that the stage has had, or has.

        Raises:
            ArtifactError: nowhere.
        """
        kept = self.stage(name) if self._stage_keys().get(name) == key else self._kept(name, key)
        if kept is None or not kept.is_dir():
            raise ArtifactError(f"{self.path} holds no {name} of {key[:12]} any more. Run the same command again.")
        return kept

    def set_aside(self, name: str) -> None:
        """Move a stage that turned out damaged to ``stages/old``, so that it is made again and nothing is lost.

        Raises:
            ResourceError: the folder cannot be written.
        """
        try:
            _move_aside(self.stage(name), self.path / STAGES_FOLDER / "old" / f"{name}-damaged")
        except OSError as error:
            raise disk_error(error, self.stage(name)) from error

    def _stage_keys(self) -> dict[str, str]:
        file = self.path / STAGES_FOLDER / STAGE_KEYS
        return dict(read_json(file)) if file.exists() else {}

    def _kept(self, name: str, key: str) -> Path | None:
        """Work of this key that was moved aside, whatever number its cohort had."""
        kind = name.partition("-")[0]
        found = sorted((self.path / STAGES_FOLDER / "old").glob(f"{kind}*-{key[:12]}"))
        return found[0] if found else None

    def _old(self, name: str, key: str) -> Path:
        return self.path / STAGES_FOLDER / "old" / f"{name}-{key[:12]}"


def read_run_marker(path: Path) -> dict[str, Any]:
    """The marker of a run folder.

    Raises:
        ArtifactError: ``path`` is no run folder, or of a newer format.
    """
    facts = read_json(path / MARKER) if (path / MARKER).is_file() else None
    if not isinstance(facts, dict) or facts.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not a clipstill run. Name a folder that 'clipstill run' made.")
    if facts.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} was made by another version of clipstill. Update clipstill or choose another --out."
        )
    threads = facts.get("threads", 1)
    if type(threads) is not int or not 0 <= threads <= 1024:
        raise ArtifactError(f"{path / MARKER} is damaged: threads = {threads!r}. Choose another --out.")
    return facts


def read_events(path: Path) -> list[dict[str, Any]]:
    """The story of a run, oldest first; a line cut short by a kill is left out."""
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


def _is_ours(name: str) -> bool:
    """What a process leaves that is killed before the marker stands: the lock, or a file not yet renamed."""
    return name == LOCK or name.startswith(".tmp-")


def _move_aside(folder: Path, target: Path) -> bool:
    if not any(folder.iterdir()):
        folder.rmdir()
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    number = 1
    free = target
    while free.exists():
        number += 1
        free = target.with_name(f"{target.name}-{number}")
    folder.rename(free)
    return True


def _open_events(path: Path) -> IO[str]:
    try:
        torn = path.exists() and path.stat().st_size > 0 and path.read_bytes()[-1:] != b"\n"
        stream = path.open("a", encoding="utf-8", errors="backslashreplace")
        if torn:
            stream.write("\n")
        return stream
    except OSError as error:
        raise disk_error(error, path) from error


def _lock(path: Path) -> IO[str]:
    """Hold the run. The system lets go when the process ends, however it ends, so that no stale lock stays."""
    try:
        stream = path.open("a+", encoding="utf-8")
    except OSError as error:
        raise disk_error(error, path) from error
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
            raise disk_error(error, path) from error
        raise ResourceError(
            f"another clipstill process is working on {path.parent}. Wait for it to end or choose another --out."
        ) from None
    return stream
