"""Runs that the page starts and stops: one process at a time, with its output in a log.

The page keeps a folder per run in ``.ui`` of the workspace: ``command.json`` is the command that made the run,
``log.txt`` its output, which the process holds as long as it lives. So another page, or this one after a reload or a
new start, finds everything again.
"""

from __future__ import annotations

import dataclasses
import fcntl
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clipstill.core.errors import ArtifactError, ClipstillError, ConfigError, ResourceError
from clipstill.core.files import make_folder, sha256_json, sweep, write_json, write_text, writing
from clipstill.core.records import read_record
from clipstill.text.task import Task
from clipstill.ui.runs import Run, is_held, open_run, runs_in
from clipstill.workflow.store import CONFIG_FILE

KEPT_FOLDER = ".ui"
_COMMAND = "command.json"
_LOG = "log.txt"
_STARTED = "--- started"
_STARTED_WORDS = 4  # Spaces before the verb, which follows date and time.
_STOPPED = "--- stopped by you"
_PROGRESS = re.compile(r"[\w-]+(, [\w -]+)?: ")
# Verbs that change the classes of a run, so that the command that made it would make it otherwise.
_GROWING = ("add-class", "remove-class")
# Options of a run that say nothing of how it will go.
_NOT_PLANNED = ("--out", "--images")
QUICK = "--quick"
_SEE_LOG = "The log below says more; 'Go on' tries again from where it stopped."


@dataclass(frozen=True)
class Watched:
    """A run as the page watches it."""

    name: str
    run: Run | None  # None before it has a folder.
    lines: Sequence[str] = ()  # Printed since its last start.
    is_running: bool = False
    own: bool = False  # Whether this page started the running process.
    trouble: str | None = None  # Why it ended before its time.

    @property
    def verb(self) -> str:
        """What the page started last: ``run``, ``fine-tune`` and so on; ``run`` for what it did not start."""
        return self.lines[0].rpartition(" ")[2] if self.lines and self.lines[0].count(" ") == _STARTED_WORDS else "run"

    @property
    def printed(self) -> list[str]:
        """The result that another verb than ``run`` printed: what follows its last line of progress."""
        progress = [number for number, line in enumerate(self.lines) if _PROGRESS.match(line) or number == 0]
        return [] if self.verb == "run" or self.is_running else list(self.lines[progress[-1] + 1 :])


class Jobs:
    """The one active run in a folder of runs, and the logs of all of them."""

    def __init__(self, workspace: Path) -> None:
        self.workspace = workspace
        # Names of the runs that this page started, the latest first.
        self.started: list[str] = []
        # Photos that came through the page.
        self.uploads = workspace / KEPT_FOLDER / "uploads"
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None

    def _kept(self, name: str) -> Path:
        """The folder in which the page keeps what it knows of a run."""
        return self.workspace / KEPT_FOLDER / "runs" / name

    def own_running(self) -> str | None:
        """Name of the run that this page started and that is still running."""
        return self.started[0] if self._process is not None and self._process.poll() is None else None

    def running(self) -> str | None:
        """Name of the active run in the workspace, whoever started it."""
        # The log is held from the start, the folder of the run once there is one.
        busy = (
            name
            for name in self.names()
            if is_held(self._kept(name) / _LOG) or ((run := self.run(name)) and run.is_running)
        )
        return self.own_running() or next(busy, None)

    def names(self) -> list[str]:
        """Runs of the workspace, the latest first, behind those that were started and have no folder yet."""
        there = runs_in(self.workspace)
        kept = sorted(command.parent.name for command in self._kept("").glob(f"*/{_COMMAND}"))
        absent = dict.fromkeys(name for name in (*self.started, *kept) if name not in there)
        return [*(name for name in absent if name in self.started or self._is_not_begun(name)), *there]

    def _is_not_begun(self, name: str) -> bool:
        """Whether the log tells neither of a stage, whose folder was deleted if it is not there, nor of an error."""
        return not any(": running" in line or line.startswith("error: ") for line in self.lines(name))

    def run(self, name: str | None) -> Run | None:
        """What a run's folder tells; None where there is no such run."""
        try:
            return open_run(self.workspace, name) if name else None
        except ClipstillError:
            return None

    def watch(self, name: str, busy: str | None) -> Watched:
        """A run and its output; ``busy`` is the name of the active run, if any."""
        run, is_running, damage = None, busy == name, None
        try:
            run = open_run(self.workspace, name)
        except ClipstillError as error:
            # A run that was just started has no folder yet.
            damage = str(error) if name in runs_in(self.workspace) else None
        watched = Watched(name, run, self.lines(name), is_running, own=self.own_running() == name)
        if is_running or (run is not None and run.finished and watched.verb == "run"):
            return watched
        is_done = run is not None and run.finished
        return dataclasses.replace(watched, trouble=damage or self.trouble(name, is_done))

    def start(self, name: str, arguments: Sequence[str]) -> None:
        """Start a run by its arguments of ``clipstill``, or continue it; ResourceError where another is running."""
        with self._lock:
            busy = self.running()
            if busy is not None:
                raise ResourceError(
                    f"'{busy}' is running, and one run at a time is enough for a machine. Wait for it, or stop it on "
                    f"the page Watch."
                )
            sweep(self._kept(name))
            if arguments[0] == "run":
                write_json(self._kept(name) / _COMMAND, list(arguments))
            elif arguments[0] in _GROWING:
                (self._kept(name) / _COMMAND).unlink(missing_ok=True)
            make_folder(self._kept(name))
            with writing(self._kept(name)), (self._kept(name) / _LOG).open("ab", buffering=0) as log:
                fcntl.flock(log, fcntl.LOCK_EX)
                log.write(f"{_STARTED} {time.strftime('%Y-%m-%d %H:%M:%S')} {arguments[0]}\n".encode())
                process = subprocess.Popen(
                    [sys.executable, "-m", "clipstill", *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    # A group of its own: Ctrl-C of the page's terminal reaches the run in order, through stop().
                    start_new_session=True,
                )
            # In this order: whoever asks meanwhile must not find the new process under an old name.
            self.started = [name, *(each for each in self.started if each != name)]
            self._process = process

    def command(self, name: str) -> list[str]:
        """Arguments of ``clipstill`` that make this run, or go on with it."""
        stored = self._kept(name) / _COMMAND
        if stored.is_file():
            return read_record(stored, list[str])
        run = open_run(self.workspace, name)
        if run.task is None or not (run.path / CONFIG_FILE).is_file():
            raise ArtifactError(f"{run.path} does not hold the settings that it was made with. Start it anew.")
        # A run of the command line: its stored settings are complete, so they stand for all of its options.
        classes, config = self.write_classes(run.task), run.path / CONFIG_FILE
        return ["run", "--classes", str(classes), "--config", str(config), "--out", str(run.path)]

    def write_classes(self, task: Task) -> Path:
        """Write a file of classes, named after its content: what another run was started with is never written over."""
        file = self.workspace / KEPT_FOLDER / "classes" / f"{sha256_json(task.to_json())[:16]}.yaml"
        # YAML keeps names that a file of lines would not.
        classes = dict(zip(task.names, task.descriptions, strict=True))
        write_text(file, yaml.safe_dump(classes, sort_keys=False, allow_unicode=True))
        return file

    def stop(self) -> str | None:
        """Stop the run that this page started, if one is running; return its name. Nothing is lost."""
        with self._lock:
            process, name = self._process, self.own_running()
            if process is None or name is None:
                return None
            with suppress(ProcessLookupError):
                # Not SIGINT, which a shell may have told its background programs to ignore.
                os.killpg(process.pid, signal.SIGTERM)
                try:
                    process.wait(10.0)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            self._log(name, _STOPPED)
            return name

    def lines(self, name: str) -> list[str]:
        """Lines that a run printed since its last start."""
        try:
            text = (self._kept(name) / _LOG).read_text(encoding="utf-8", errors="replace")
        except OSError:
            return []
        return f"{_STARTED}{text.rpartition(_STARTED)[2]}".splitlines()

    def trouble(self, name: str, is_done: bool = False) -> str | None:
        """Why a run, or what was done with a finished one, ended too early, in one line; None for no error to tell."""
        lines = [line for line in self.lines(name) if line.strip()]
        if not lines or lines[-1].startswith(_STOPPED):
            return None
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        if errors:
            return errors[-1][:1].upper() + errors[-1][1:]
        if any(line.startswith("Traceback ") for line in lines):
            return f"The run ended by an error of its own ({lines[-1]}). {_SEE_LOG}"
        if is_done:
            return None
        return f"The run ended before it was done; the machine may have been short of memory. {_SEE_LOG}"

    def _log(self, name: str, line: str) -> None:
        with writing(self._kept(name)), (self._kept(name) / _LOG).open("a", encoding="utf-8") as log:
            log.write(f"{line}\n")


def ask_plan(run: Sequence[str]) -> dict[str, Any]:
    """JSON of ``clipstill plan`` for the arguments of ``clipstill run``, by a process because it loads a teacher.

    Raises:
        ConfigError: The plan refuses, in its own words.
        ResourceError: The plan took too long.
    """
    words = [each for each in run[1:] if each != QUICK]
    pairs = zip(words[::2], words[1::2], strict=True)
    options = [part for pair in pairs if pair[0] not in _NOT_PLANNED for part in pair]
    command = [sys.executable, "-m", "clipstill", "plan", *options, "--json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300.0, check=False
        )
    except subprocess.TimeoutExpired:
        raise ResourceError("the check takes too long on this machine. Start without it.") from None
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
    raise ConfigError(lines[-1] if lines else "the check gave no answer. Start without it.")
