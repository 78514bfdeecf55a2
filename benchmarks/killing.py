"""Kills a command of clipstill at a place, does it again, and compares what it leaves with what nobody killed.

What is compared: the names of all files; pixels, tensors, answers of the ONNX models; and the values in JSON but for
those that differ between two runs that nobody killed, such as times.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}  # Before torch loads; a fork has no other threads.
ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests" / "support"))

import torch  # noqa: E402, F401 (so that forks have it)

import kill_points  # noqa: E402
from clipstill.cli.main import main as clipstill  # noqa: E402
from clipstill.core.errors import ClipstillError  # noqa: E402
from clipstill.core.files import sha256_file  # noqa: E402
from clipstill.runtime import load_bundle  # noqa: E402

Content = Any


@dataclass
class Kill:
    """One kill, and what was found after it."""

    verb: str
    at: str  # The change of files, or the time.
    when: str
    signal: str
    process: str  # ``fork`` or ``new``.
    code: int = 0  # Exit code of the killed process, then of the one after it.
    code_again: int = 0
    lost: list[str] = field(default_factory=list)
    unequal: list[str] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    in_tmp: list[str] = field(default_factory=list)  # In the system's folder for temporary files.
    broken: list[str] = field(default_factory=list)  # What a reader or the page found wrong right after the kill.

    @property
    def is_clean(self) -> bool:
        return not (self.code_again or self.lost or self.unequal or self.left or self.broken)


@dataclass(frozen=True)
class Verb:
    """A command, in a folder that is copied for each kill."""

    name: str
    start: Path  # What the folder holds at first.
    arguments: Callable[[Path], list[str]]
    bundle: str = ""  # Where the bundle is in the folder that must always be the old or the new one.


# --- What a folder holds ----------------------------------------------------------------------------------------------


def content_of(folder: Path) -> dict[str, Content]:
    """Path -> what it holds, for every file and folder but the temporary ones of the system."""
    paths = (path for path in sorted(folder.rglob("*")) if path.relative_to(folder).parts[0] != "tmp")
    return {str(path.relative_to(folder)): "a folder" if path.is_dir() else _content(path) for path in paths}


def _content(path: Path) -> Content:
    from fingerprint import of_answers, of_tensors  # Starts a thread; see ``fork``.

    if path.name.startswith("."):
        return "hidden"
    if path.suffix == ".safetensors":
        return of_tensors(path)
    if path.suffix == ".onnx":
        return of_answers(path)
    return dict(_leaves(json.loads(path.read_text()))) if path.suffix == ".json" else sha256_file(path)


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    inside = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else None
    if inside is None:
        yield place, value
    for key, each in inside or ():
        yield from _leaves(each, f"{place}/{key}")


# In the places of values that happen to be equal in two runs.
_TIMES = ("seconds", "latency", "minutes", "/cost/")


def steady(one: dict[str, Content], other: dict[str, Content]) -> dict[str, Content]:
    """What two runs that nobody killed have in common; None for a file whose content differs."""
    assert one.keys() == other.keys(), one.keys() ^ other.keys()
    found: dict[str, Content] = {}
    for name, value in one.items():
        if isinstance(value, dict):
            found[name] = {key: each for key, each in value.items() if other[name].get(key, each) == each}
            for key in [key for key in found[name] if any(word in key for word in _TIMES)]:
                del found[name][key]
        else:
            found[name] = value if other[name] == value else None
    return found


def compare(kill: Kill, found: dict[str, Content], expected: dict[str, Content]) -> None:
    """Write down what is missing, other, or too much."""
    kill.lost, kill.left = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    for name in expected.keys() & found.keys():
        wanted, there = expected[name], found[name]
        if isinstance(wanted, dict):
            wrong = [key for key, value in wanted.items() if there.get(key) != value]
            kill.unequal += [f"{name}: {', '.join(wrong[:3])}"] if wrong else []
        elif wanted is not None and wanted != there:
            kill.unequal.append(name)


# --- Processes --------------------------------------------------------------------------------------------------------


def fork(case: Path, work: Callable[[], int], point: kill_points.Point | None = None) -> int:
    """Do something in a fork of this process; return its id."""
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "a process with several threads cannot be forked"
    sys.stdout.flush()
    process = os.fork()
    if process:
        return process
    code = 1
    try:
        log = os.open(case.with_name("log.txt"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        tempfile.tempdir = str(case / "tmp")
        if point is not None:
            kill_points.install(point)
        code = work()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def asked(case: Path, question: Callable[[], Any]) -> Any:
    """The answer of a fork to a question, as a JSON value."""
    file = case.with_name("answer.json")
    file.unlink(missing_ok=True)
    ended(fork(case, lambda: file.write_text(json.dumps(question())) * 0))
    assert file.is_file(), case.with_name("log.txt").read_text()
    return json.loads(file.read_text())


def done(case: Path, arguments: list[str]) -> tuple[int, dict[str, Content]]:
    """Do a command; return its exit code and what it leaves."""
    return clipstill(arguments), content_of(case)


def ended(process: int) -> int:
    """Exit code of a fork, less than 0 for a signal."""
    return os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])


def in_new_process(case: Path, arguments: list[str], point: kill_points.Point | None = None) -> int:
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "TMPDIR": str(case / "tmp")}
    point = point or kill_points.Point(str(case))
    command = [sys.executable, kill_points.__file__, json.dumps(asdict(point)), *arguments]
    with case.with_name("log.txt").open("ab") as log:
        return subprocess.run(command, stdout=log, stderr=log, env=environment, check=False).returncode


def _import(modules: list[str]) -> None:
    """Import what a fork had to import, so that the next ones find it; but onnxruntime starts a thread."""
    sys.modules["onnxruntime"] = None  # type: ignore[assignment]
    for name in modules:
        with contextlib.suppress(Exception):
            importlib.import_module(name)
    del sys.modules["onnxruntime"]


class Campaign:
    """Kills of one verb after the other, all in one folder that is filled anew each time."""

    def __init__(self, out: Path, seed: int) -> None:
        self.case, self.failed = out / "case", out / "failed"
        self.draw = random.Random(seed)
        self.kills: list[Kill] = []
        self.points: dict[str, int] = {}  # Changes of files of each verb, as many as there are kinds of them.

    def reset(self, start: Path) -> None:
        shutil.rmtree(self.case, ignore_errors=True)
        shutil.copytree(start, self.case, symlinks=True)
        (self.case / "tmp").mkdir(exist_ok=True)
        self.case.with_name("log.txt").unlink(missing_ok=True)

    def measure(self, verb: Verb) -> tuple[dict[str, Content], list[str], float]:
        """Do a verb twice without a kill: what it leaves, its changes of files, and its seconds."""
        found, listed, modules = [], self.case.with_name("changes.txt"), self.case.with_name("modules.json")
        listed.unlink(missing_ok=True)
        for number in range(2):
            self.reset(verb.start)
            arguments = verb.arguments(self.case)

            def work(arguments: list[str] = arguments) -> int:
                code = clipstill(arguments)
                modules.write_text(json.dumps(sorted(sys.modules)))
                return code

            start = time.monotonic()
            point = kill_points.Point(str(self.case), listed=str(listed)) if number else None
            code = ended(fork(self.case, work, point))
            assert code == 0, self.case.with_name("log.txt").read_text()
            seconds = time.monotonic() - start
            found.append(asked(self.case, lambda: content_of(self.case)))
            _import(json.loads(modules.read_text()))
        return steady(*found), listed.read_text().splitlines(), seconds

    def kill_all(self, verb: Verb, number: int) -> None:
        """Kill a verb so many times."""
        expected, changes, seconds = self.measure(verb)
        self.points[verb.name] = len(set(changes))
        new = self.case / verb.bundle / "student.safetensors"
        whole = {sha256_file(path) for path in (new, verb.start / verb.bundle / new.name) if path.is_file()}
        for place, at in enumerate(self._places(changes, number)):
            signum = {4: signal.SIGTERM, 5: signal.SIGINT}.get(place % 6, signal.SIGKILL)
            when = (kill_points.BEFORE, kill_points.AFTER)[place % 2]
            said = changes[at - 1] if at else f"{self.draw.uniform(0.02, 0.98) * seconds:.2f} s"
            kill = Kill(verb.name, said, when if at else "", signum.name, "fork" if place % 16 or not at else "new")
            while not self._kill(verb, kill, kill_points.Point(str(self.case), at, when, signum.name)):
                kill.at = f"{float(kill.at.split()[0]) / 2:.2f} s"  # It ended before its time.
            # Half of the time a reader comes first, and half of the time the command itself.
            if verb.bundle and place % 4 < 2:
                kill.broken += asked(self.case, lambda: self._reader(verb, whole))
            arguments = verb.arguments(self.case)
            if kill.process == "new":
                kill.code_again = in_new_process(self.case, arguments)
                found = asked(self.case, lambda: content_of(self.case))
            else:
                kill.code_again, found = asked(self.case, partial(done, self.case, arguments))
            compare(kill, found, expected)
            kill.in_tmp = [path.name for path in (self.case / "tmp").iterdir()]
            self.note(kill)

    def note(self, kill: Kill) -> None:
        """Keep a kill, and the folder where something was found wrong."""
        self.kills.append(kill)
        print(f"{len(self.kills):3} {kill.verb}: {kill.signal} {kill.when} {kill.at} ({kill.process})", flush=True)
        if not kill.is_clean:
            print(f"    {asdict(kill)}", flush=True)
            place = self.failed / f"{len(self.kills):03}"
            shutil.copytree(self.case, place, symlinks=True, dirs_exist_ok=True)
            shutil.copy(self.case.with_name("log.txt"), place.with_suffix(".txt"))

    def _places(self, changes: list[str], number: int) -> list[int]:
        """Numbers of changes to kill at, as many kinds as can be; 0 for a random time, each fifth."""
        kinds: dict[str, list[int]] = {}
        for place, change in enumerate(changes, start=1):
            kinds.setdefault(change, []).append(place)
        order = sorted(kinds, key=lambda _: self.draw.random())
        commits = [kind for kind in order if not kind.startswith("open")]
        opens = [kind for kind in order if kind.startswith("open")]
        wanted = [*commits[: round(0.6 * number)], *opens[: round(0.2 * number)]]
        places = [self.draw.choice(kinds[kind]) for kind in wanted]
        places += [0] * (number - len(places))
        self.draw.shuffle(places)
        return places

    def _kill(self, verb: Verb, kill: Kill, point: kill_points.Point) -> bool:
        """Kill a verb; return whether it was still there."""
        self.reset(verb.start)
        arguments, signum = verb.arguments(self.case), signal.Signals[kill.signal]
        if kill.process == "new":
            kill.code = in_new_process(self.case, arguments, point)
        elif point.number:
            kill.code = ended(fork(self.case, lambda: clipstill(arguments), point))
        else:
            process = fork(self.case, lambda: clipstill(arguments))
            time.sleep(float(kill.at.split()[0]))
            os.kill(process, signum)
            kill.code = ended(process)
        if kill.code == 0 and not point.number:
            return False
        if kill.code != (130 if signum == signal.SIGINT else -signum):
            kill.broken.append(f"ended with {kill.code}")
        return True

    def _reader(self, verb: Verb, whole: set[str]) -> list[str]:
        had_one = (verb.start / verb.bundle / "MANIFEST.json").is_file()
        try:
            found = load_bundle(self.case / verb.bundle, threads=1).folder
        except ClipstillError as error:
            return [str(error)] if had_one else []
        return [] if sha256_file(found / "student.safetensors") in whole else ["neither the old nor the new bundle"]
