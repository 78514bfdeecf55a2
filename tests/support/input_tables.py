"""What the tables of ``tests/inputs`` share: one test a row, and what is true of every input that is refused."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from clipstill.cli.main import main


def table(rows: Mapping[str, tuple[Any, Any]]) -> pytest.MarkDecorator:
    """One test a row: its name in plain words, the input, and what is expected of it."""
    return pytest.mark.parametrize(("given", "expected"), list(rows.values()), ids=list(rows))


def failed(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """Run a command that must fail by the user's mistake; its one line, which a terminal can show."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert code == 2
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert len(lines) == 1, captured.err
    assert lines[0].startswith("error: ")
    assert lines[0].isprintable()
    lines[0].encode()  # It is UTF-8.
    return lines[0]


@contextmanager
def unchanged(folder: Path) -> Iterator[None]:
    """What is done in the block adds, removes and changes nothing in a folder."""
    before = _contents(folder)
    yield
    assert _contents(folder) == before


def _contents(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): f"-> {path.readlink()}"
        if path.is_symlink()
        else hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else "a folder, pipe or device"
        for path in folder.rglob("*")
    }


def refused(capsys: pytest.CaptureFixture[str], folder: Path, *arguments: str | Path) -> str:
    """As ``failed``, for a command that must leave a folder as it is."""
    with unchanged(folder):
        return failed(capsys, *arguments)


def copied(folder: Path, to: Path) -> Path:
    """A copy of a folder that several tests share, to damage it."""
    return Path(shutil.copytree(folder, to))
