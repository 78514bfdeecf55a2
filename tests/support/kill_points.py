"""Ends this process at the n-th change of files: a rename, a deletion, a new folder, or an opening for writing.

The moment does not hang on the speed of the machine. Python tells of each change before it is done
(``sys.addaudithook``); compiled code that writes into an open file tells nothing. As a program it does a command of
clipstill in a new process:

    python tests/support/kill_points.py '{"folder": "DIR", "number": 9}' run --classes dog,cat --out DIR/run
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

# Event -> positions of path and folder's handle among its arguments.
_CHANGES = {"os.rename": (1, 3), "os.remove": (0, 1), "os.rmdir": (0, 1), "os.mkdir": (0, 2), "os.symlink": (1, 2)}
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
BEFORE, AFTER = "before", "after"


@dataclass(frozen=True)
class Point:
    """Where a process ends."""

    folder: str  # Changes below it count.
    number: int = 0  # Number of the change, from 1; 0 for none of them.
    when: str = BEFORE
    signal: str = "SIGKILL"
    change: str = "*"  # Pattern of the changes that count, such as ``rename stages/*.json``.
    listed: str = ""  # A file that gets a line for each change.


def install(point: Point) -> None:
    """Let this process end there."""
    below, count, armed = f"{Path(point.folder).absolute()}".rstrip(os.sep) + os.sep, 0, False
    signum = signal.Signals[point.signal]
    handle = os.open(point.listed, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644) if point.listed else None

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal count, armed
        if armed:
            armed = False
            os.kill(os.getpid(), signum)
        path = _changed(event, arguments)
        if path is None or not path.startswith(below):
            return
        change = f"{event.removeprefix('os.')} {path.removeprefix(below)}"
        if not fnmatch.fnmatchcase(change, point.change):
            return
        count += 1
        if handle is not None:
            os.write(handle, f"{_name(change)}\n".encode())
        if count == point.number:
            armed = point.when == AFTER
            if not armed:
                os.kill(os.getpid(), signum)

    sys.addaudithook(hook)


def _changed(event: str, arguments: tuple[object, ...]) -> str | None:
    """The absolute path that an event is about to change; None for other events."""
    place: object = -1
    if event == "open":
        path, _, flags = arguments
        if not isinstance(flags, int) or not flags & _WRITES:
            return None
    elif event in _CHANGES:
        of_path, of_place = _CHANGES[event]
        path, place = arguments[of_path], arguments[of_place]
    else:
        return None
    if isinstance(path, int):
        return None
    name = Path(os.fsdecode(path))  # type: ignore[arg-type]
    if isinstance(place, int) and place >= 0:
        name = Path(f"/proc/self/fd/{place}").readlink() / name
    return str(name.absolute())


def _name(change: str) -> str:
    """The change without what differs from run to run."""
    return re.sub(r"-[0-9a-f]{12,}", "-HASH", re.sub(r"\.tmp-[^/.]+", ".tmp-X", change)).replace("\n", " ")


def main() -> None:
    install(Point(**json.loads(sys.argv[1])))
    from clipstill.cli.main import main as clipstill

    sys.exit(clipstill(sys.argv[2:]))


if __name__ == "__main__":
    main()
