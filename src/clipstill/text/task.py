"""Class names, each with an optional description."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from clipstill.core.errors import ClipstillError, TaskError
from clipstill.core.names import class_key, is_plain, spoken, told_apart
from clipstill.core.paths import user_path
from clipstill.core.progress import listed, warn
from clipstill.text.class_lists import (
    FILE_SUFFIXES,
    Entry,
    entries_of_file,
    entries_of_mapping,
    entries_of_text,
    entry_of,
)

# Longest name and description in characters, far above what a text tower reads (77 tokens for CLIP).
_LONGEST = {"name": 200, "description": 2000}


@dataclass(frozen=True)
class Task:
    """Class names in the order of the model's outputs.

    Attributes:
        names: At least two names that differ in more than case, spaces, underscores and hyphens. Classes of one name
            are ``crane`` and ``crane (2)``; the teacher reads both as ``crane``.
        descriptions: One per name; an empty string if there is none.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that ``from_json`` reads."""
        return asdict(self)

    def read_alike(self, *, described: bool = True) -> list[list[str]]:
        """Groups of classes whose name and, where ``described``, description are the same to the teacher."""
        groups: dict[tuple[str, str], list[str]] = {}
        for name, description in zip(self.names, self.descriptions, strict=True):
            groups.setdefault((class_key(spoken(name)), description if described else ""), []).append(name)
        return [group for group in groups.values() if len(group) > 1]

    @classmethod
    def from_json(cls, value: Any) -> Task:
        """Read the value of ``to_json``, which raises a ``TaskError`` if it is damaged."""
        try:
            names, descriptions = (tuple(map(str, value[key])) for key in ("names", "descriptions"))
        except (TypeError, KeyError):
            names, descriptions = (), ("",)
        if len(names) != len(descriptions):
            raise TaskError(
                "the stored task does not have one description for each of its names. Start the run in a new folder."
            )
        return cls(names, descriptions)


def parse_task(classes: str | Sequence[str] | Mapping[str, str] | Path) -> Task:
    """Read class names from a string, a sequence or a file.

    Args:
        classes: Names with commas or semicolons between them; a sequence of names; a mapping from name to description,
            or between names and their numbers; or a file: ``.txt`` with one ``name`` or ``name: description`` per line
            (``#`` starts a comment), ``.yaml`` or ``.json`` with a list of names, such a mapping, or the description of
            a data set (Ultralytics, Hugging Face), ``.csv`` with a column ``name``, ``.xml`` of Label Studio; or a
            folder with one sub-folder per class. Numbers that count the classes are left out. A string that ends in
            one of these suffixes, or names a folder, is a path.

    Raises:
        TaskError: Fewer than two classes; an empty name; two classes with the same description, or none, whose names
            differ only in case, spaces, underscores or hyphens; a name or description that is too long or holds control
            characters; or an unreadable file.

    Example:
        >>> parse_task("dog, sea horse").names
        ('dog', 'sea horse')
    """
    if isinstance(classes, str):
        text = classes.strip()
        if not text.lower().endswith(FILE_SUFFIXES) and not _is_path(text):
            return parse_text(text)
        classes = user_path(text)
    if isinstance(classes, Path):
        classes = user_path(classes)
        return _check(entries_of_file(classes), f" of {classes}")
    if isinstance(classes, Mapping):
        return _check(entries_of_mapping(classes), "")
    # A table would be read as the names of its columns.
    is_table = getattr(classes, "ndim", 1) != 1
    if isinstance(classes, bytes | set | frozenset) or not isinstance(classes, Iterable) or is_table:
        raise TaskError(f'classes are a text, a list or a file, got {type(classes).__name__}. Such as ["dog", "cat"].')
    for number, item in enumerate(classes := list(classes), 1):
        if not isinstance(item, str | int) or isinstance(item, bool):
            raise TaskError(f"the class at position {number} is {item!r}, which is no text. Put quotes around it.")
    texts = [str.__str__(item) if isinstance(item, str) else str(item) for item in classes]  # Enums print otherwise.
    return _check([entry_of(text, f"position {number}") for number, text in enumerate(texts, 1)], "")


def _is_path(text: str) -> bool:
    try:
        return user_path(text).exists()
    except (ClipstillError, OSError):  # As of a text that is too long for a path.
        return False


def parse_text(text: str) -> Task:
    """Read class names from a text alone; unlike ``parse_task``, no file is opened."""
    return _check(entries_of_text(text), "")


def parse_class(text: str) -> tuple[str, str]:
    """Name and description of one class such as ``crane: a large wading bird``; the description may be empty."""
    entry = entry_of(text, "")
    if not class_key(entry.name):
        raise TaskError(f"'{text}' has no class name. Write it first: \"crane: a large wading bird\".")
    if re.search("[,;]", entry.name) or entry.name.lower().endswith(FILE_SUFFIXES):
        raise TaskError(f"'{entry.name}' is a list or a file of classes. Give each class by itself: cow 'sea horse'.")
    return entry.name, entry.description


def _check(entries: Sequence[Entry], where: str) -> Task:
    if not entries:
        raise TaskError(
            f'no class is named{where and " in" + where.removeprefix(" of")}. Name at least two: "dog,cat".'
        )
    seen: dict[tuple[str, str], Entry] = {}
    for entry in entries:
        key = class_key(entry.name)
        if not key:
            raise TaskError(f"the class name at {entry.place}{where} is empty. Write a name there or remove the entry.")
        _check_text("name", entry.name, f"{entry.place}{where}")
        _check_text("description", entry.description, f"{entry.place}{where}")
        first = seen.setdefault((key, entry.description), entry)
        if first is not entry:
            raise TaskError(_twice(first, entry, where))
    if len(entries) == 1:
        path = " No file or folder is called so." if "/" in entries[0].name else ""
        raise TaskError(
            f"'{entries[0].name}' is the only class{where}.{path} A classifier needs at least two; "
            "add the classes that it must be distinguished from, with commas between them."
        )
    names = told_apart([entry.name for entry in entries])
    renamed = [own for own, entry in zip(names, entries, strict=True) if own != entry.name]
    if renamed:
        warn(f"classes{where} have names of others and descriptions of their own; they are shown as {listed(renamed)}")
    return Task(tuple(names), tuple(entry.description for entry in entries))


def _check_text(what: str, text: str, place: str) -> None:
    most, shown = _LONGEST[what], ascii(text[:40]) + ("..." if len(text) > 40 else "")
    if not is_plain(text):
        raise TaskError(f"the class {what} at {place} holds a control character: {shown}. Remove it.")
    if len(text) > most:
        raise TaskError(
            f"the class {what} at {place} has {len(text)} characters; the limit is {most}: {shown}. Shorten it."
        )


def _twice(first: Entry, second: Entry, where: str) -> str:
    kind, first_number = first.place.split()
    second_number = second.place.split()[1]
    spelling = "" if first.name == second.name else f", the second time as '{second.name}'"
    return (
        f"class '{first.name}' appears twice ({kind}s {first_number} and {second_number}{where}{spelling}). Remove one "
        f"of them or describe what differs, as in '{first.name}: ...'; with example images of each, call one "
        f"'{first.name} (2)'."
    )
