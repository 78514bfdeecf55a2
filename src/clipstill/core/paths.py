"""Paths as users give them, and names of new folders that nobody meant."""

from __future__ import annotations

import os
import re
from os import PathLike
from pathlib import Path

from clipstill.core.errors import DataError, ResourceError

_LONGEST_PATH, _LONGEST_NAME = 4000, 255  # Bytes that systems take.
# Addresses of the web, and characters that no name holds; those between are bytes that are not UTF-8.
_NO_PATH = re.compile(r"\w[\w+.-]+://|.*[\0\ud800-\udc7f\udd00-\udfff]", re.S)
# "~", "$HOME", "%TEMP%", "C:\zoo", "\\nas\zoo", "user@host:", a name in quotes, and space at an end.
_UNMEANT = re.compile(r"""~|\$[A-Za-z{].*|%\w+%.*|[A-Za-z]:(?:\\.*)?|\\\\.*|[^@]+@.+:|(["']).*\1|\s.*|.*\s""", re.S)


def cache_folder() -> Path:
    """The user's cache of clipstill: ``~/.cache/clipstill``, or below ``XDG_CACHE_HOME``."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (user_path(cache) if cache else Path.home() / ".cache") / "clipstill"


def user_path(path: str | PathLike[str]) -> Path:
    """A path that the user gave, with ``~`` and ``~NAME`` at its start as the home folder.

    Raises:
        DataError: It is empty, as an unset variable of a shell is, too long, or no path of this machine.
    """
    text = os.fspath(path) if isinstance(path, PathLike) else path
    if not isinstance(text, str):
        raise DataError(f"a path is a text or a pathlib.Path, got {type(text).__name__}.")
    if not text:
        raise DataError("a path is empty. Write it out; a variable of the shell may be unset.")
    if _NO_PATH.match(text):
        raise DataError(f"{text} is no path of this machine. Give a file or folder here, downloaded if need be.")
    name = os.fsencode(text)
    if len(name) > _LONGEST_PATH or max(map(len, name.split(b"/"))) > _LONGEST_NAME:
        raise DataError(f"{text[:300]} is too long for a path. Check it.")
    try:
        place = Path(text).expanduser()
    except RuntimeError:
        raise DataError(f"there is no home folder for {text}. Write the path out.") from None
    try:
        place.resolve()
    except (OSError, RuntimeError):
        raise DataError(f"{text} leads in a circle of symbolic links. Replace them.") from None
    return place


def refuse_unmeant(target: Path) -> None:
    """Raise a ``ResourceError`` for a path with a new part that is rather a shell's, another system's or quoted."""
    for place in (target, *target.parents):
        if _UNMEANT.fullmatch(place.name) and not place.exists():
            raise ResourceError(
                f"{target} would be in a new folder named '{place.name}'. Write the path out, without quotes, "
                f"variables and spaces around it."
            )


def refuse_other_than_utf8(path: Path) -> None:
    """Raise a ``ResourceError`` for a place of tensors or models that their libraries could not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ResourceError(
            f"{path} has a name that is not UTF-8, which libraries of tensors and models cannot open. Rename it."
        ) from None
