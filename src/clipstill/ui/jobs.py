"""Runs that the page starts and stops: one process at a time, with its words in a log.

What the page keeps lies in ``.ui`` inside the workspace, one folder a run: ``command.json`` is the command that made
it, ``log.txt`` what it said. So another page, or this one after a reload or a new start, finds everything again.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from clipstill.core.errors import ArtifactError, ClipstillError, ResourceError
from clipstill.core.files import disk_error, read_json, write_json, write_text
from clipstill.ui.runs import Run, open_run, runs_in
from clipstill.workflow.growth import CONFIG_FILE

KEPT_FOLDER = ".ui"
UPLOADS_FOLDER = "uploads"
CLASSES_FOLDER = "classes"
_COMMAND = "command.json"
_LOG = "log.txt"
_STARTED = "--- started"
_STOPPED = "--- stopped by you"
_TAIL_BYTES = 64 << 10
_GRACE_S = 10.0
SLOW_ERRORS = "The log below says more; 'Go on' tries again from where it stopped."


class Jobs:
    """The one run at work, and the words of all of them.

    Args:
        workspace: holds the run folders.

    Attributes:
        started: names of the runs that were started here, the latest first.
    """

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        self.started: list[str] = []
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._name = ""

    @property
    def uploads(self) -> Path:
        """Where photos that came through the page lie."""
        return self.workspace / KEPT_FOLDER / UPLOADS_FOLDER

    @property
    def classes(self) -> Path:
        """Where class lists that were typed lie."""
        return self.workspace / KEPT_FOLDER / CLASSES_FOLDER

    def kept(self, name: str) -> Path:
        """Where the page keeps what it knows of a run."""
        return self.workspace / KEPT_FOLDER / "runs" / name

    def own_at_work(self) -> str | None:
        """Name of the run that this page started and that is still at work."""
        return self._name if self._process is not None and self._process.poll() is None else None

    def at_work(self) -> str | None:
        """Name of the run that is at work in the workspace, whoever started it."""
        own = self.own_at_work()
        if own is not None:
            return own
        for name in runs_in(self.workspace):
            try:
                if open_run(self.workspace, name).at_work:
                    return name
            except ClipstillError:
                continue
        return None

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start a run, or go on with it.

        Args:
            name: of its folder.
            arguments: of ``clipstill``, with ``--out``.

        Raises:
            ResourceError: another run is at work, or the workspace cannot be written.
        """
        with self._lock:
            busy = self.at_work()
            if busy is not None:
                raise ResourceError(
                    f"'{busy}' is at work, and one run at a time is enough for a machine. Wait for it, or stop it on "
                    f"the page Watch."
                )
            folder = self.kept(name)
            write_json(folder / _COMMAND, list(arguments))
            try:
                with (folder / _LOG).open("ab") as log:
                    log.write(f"{_STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')}\n".encode())
                    log.flush()
                    self._process = subprocess.Popen(
                        [sys.executable, "-m", "clipstill", *arguments],
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        # A group of its own: Ctrl-C of the page's terminal reaches the run in order, through stop().
                        start_new_session=True,
                    )
            except OSError as error:
                raise disk_error(error, folder) from error
            self._name = name
            self.started = [name, *(each for each in self.started if each != name)]

    def go_on(self, name: str) -> None:
        """Go on with a run that was stopped, by the command that made it.

        Raises:
            ArtifactError: nothing is known of how it was made.
            ResourceError: another run is at work.
        """
        self.start(name, self.command(name))

    def command(self, name: str) -> list[str]:
        """Arguments of ``clipstill`` that make this run, or go on with it.

        Raises:
            ArtifactError: the run has neither the page's note nor settings of its own.
        """
        stored = self.kept(name) / _COMMAND
        if stored.is_file():
            return [str(part) for part in read_json(stored)]
        run = open_run(self.workspace, name)
        if run.task is None or not run.config:
            raise ArtifactError(f"{run.path} does not hold the settings that it was made with. Start it anew.")
        # A run of the command line: its stored settings are complete, so they stand for all of its options.
        classes = classes_text(run)
        file = self.kept(name) / "classes.yaml"
        write_text(file, classes)
        return ["run", "--classes", str(file), "--config", str(run.path / CONFIG_FILE), "--out", str(run.path)]

    def stop(self) -> str | None:
        """Stop the run that this page started; nothing is lost, since every step is safe on the disk.

        Returns:
            Its name; None where none was at work.
        """
        with self._lock:
            process, name = self._process, self.own_at_work()
            if process is None or name is None:
                return None
            # Not SIGINT, which a shell may have told its background programs to ignore.
            _signal(process, signal.SIGTERM)
            try:
                process.wait(_GRACE_S)
            except subprocess.TimeoutExpired:
                _signal(process, getattr(signal, "SIGKILL", signal.SIGTERM))
                process.wait()
            try:
                with (self.kept(name) / _LOG).open("ab") as log:
                    log.write(f"{_STOPPED}\n".encode())
            except OSError as error:
                raise disk_error(error, self.kept(name)) from error
            return name

    def lines(self, name: str) -> list[str]:
        """What a run said since its last start, the latest 64 kB of it."""
        try:
            with (self.kept(name) / _LOG).open("rb") as log:
                log.seek(0, os.SEEK_END)
                log.seek(max(0, log.tell() - _TAIL_BYTES))
                text = log.read().decode("utf-8", errors="replace")
        except OSError:
            return []
        lines = text.splitlines()
        starts = [number for number, line in enumerate(lines) if line.startswith(_STARTED)]
        return lines[starts[-1] :] if starts else lines

    def trouble(self, name: str) -> str | None:
        """Why a run is not at work and not finished, in one line; None where there is no error to tell."""
        said = [line for line in self.lines(name) if line.strip()]
        if not said or said[-1].startswith((_STARTED, _STOPPED)):
            return None
        errors = [line for line in said if line.startswith("error: ")]
        if errors:
            text = errors[-1].removeprefix("error: ")
            return text[:1].upper() + text[1:]
        if any(line.startswith("Traceback ") for line in said):
            return f"The run ended by an error of its own ({said[-1]}). {SLOW_ERRORS}"
        return f"The run ended before it was done; the machine may have been short of memory. {SLOW_ERRORS}"


def classes_text(run: Run) -> str:
    """The classes of a run as the text of a ``.yaml`` file, which keeps names that a list of lines would not."""
    import yaml

    assert run.task is not None
    classes = dict(zip(run.task.names, run.task.descriptions, strict=True))
    return yaml.safe_dump(classes, sort_keys=False, allow_unicode=True)


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    try:
        if sys.platform == "win32":
            process.send_signal(number)
        else:
            os.killpg(process.pid, number)
    except ProcessLookupError:
        pass
