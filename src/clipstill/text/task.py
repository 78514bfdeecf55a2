"""Class names, each with an optional description."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from clipstill.core.errors import TaskError
from clipstill.core.files import user_path
from clipstill.core.names import class_key, is_plain

FILE_SUFFIXES = (".txt", ".yaml", ".yml")
# Longest name and description in characters, far above what a text tower reads (77 tokens for CLIP).
_LONGEST = {"name": 200, "description": 2000}
_YAML_FORM = "Write one '- name' per line, or 'name: description' lines."


@dataclass(frozen=True)
class Task:
    """Class names in the order of the model's outputs.

    Attributes:
        names: At least two names that differ in more than case, spaces, underscores and hyphens.
        descriptions: One per name; an empty string if there is none.
    """

    names: tuple[str, ...]
    descriptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """A JSON value that ``from_json`` reads."""
        return asdict(self)

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


class _Entry(NamedTuple):
    """One class as the user wrote it."""

    name: str
    description: str
    place: str  # Such as ``"line 4"`` or ``"position 4"``.


def parse_task(classes: str | Sequence[str] | Path) -> Task:
    """Read class names from a string, a sequence or a file.

    Args:
        classes: Comma-separated names; a sequence of names; or a file: ``.txt`` with one ``name`` or
            ``name: description`` per line (``#`` starts a comment), ``.yaml`` with a list of names or a mapping from
            name to description. A string that ends in one of these suffixes is a file.

    Raises:
        TaskError: Fewer than two classes; an empty name; two names that differ only in case, spaces, underscores or
            hyphens; a name or description that is too long or holds control characters; or an unreadable file.

    Example:
        >>> parse_task("dog, sea horse").names
        ('dog', 'sea horse')
    """
    if isinstance(classes, str):
        text = classes.strip()
        classes = user_path(text) if text.lower().endswith(FILE_SUFFIXES) else text.split(",") if text else ()
    if isinstance(classes, Path):
        return _check(_entries_of_file(user_path(classes)), f" of {classes}")
    return _check([_entry(str(item), f"position {number}") for number, item in enumerate(classes, 1)], "")


def parse_class(text: str) -> tuple[str, str]:
    """Name and description of one class such as ``crane: a large wading bird``; the description may be empty."""
    entry = _entry(text, "")
    if not class_key(entry.name):
        raise TaskError(f"'{text}' has no class name. Write it first: \"crane: a large wading bird\".")
    return entry.name, entry.description


def _entry(text: str, place: str) -> _Entry:
    # A colon without a space belongs to the name ("16:9 photo").
    name, _, description = f"{text.strip()} ".partition(": ")
    return _Entry(_squeeze(name), _squeeze(description), place)


def _squeeze(text: str) -> str:
    return " ".join(text.split())


def _check(entries: Sequence[_Entry], where: str) -> Task:
    if not entries:
        raise TaskError(
            f'no class is named{where and " in" + where.removeprefix(" of")}. Name at least two: "dog,cat".'
        )
    seen: dict[str, _Entry] = {}
    for entry in entries:
        key = class_key(entry.name)
        if not key:
            raise TaskError(f"the class name at {entry.place}{where} is empty. Write a name there or remove the entry.")
        _check_text("name", entry.name, f"{entry.place}{where}")
        _check_text("description", entry.description, f"{entry.place}{where}")
        if key in seen:
            raise TaskError(_twice(seen[key], entry, where))
        seen[key] = entry
    if len(entries) == 1:
        raise TaskError(
            f"'{entries[0].name}' is the only class{where}. A classifier needs at least two; "
            "add the classes that it must be distinguished from."
        )
    return Task(tuple(entry.name for entry in entries), tuple(entry.description for entry in entries))


def _check_text(what: str, text: str, place: str) -> None:
    most, shown = _LONGEST[what], ascii(text[:40]) + ("..." if len(text) > 40 else "")
    if not is_plain(text):
        raise TaskError(f"the class {what} at {place} holds a control character: {shown}. Remove it.")
    if len(text) > most:
        raise TaskError(
            f"the class {what} at {place} has {len(text)} characters; the limit is {most}: {shown}. Shorten it."
        )


def _twice(first: _Entry, second: _Entry, where: str) -> str:
    kind, first_number = first.place.split()
    second_number = second.place.split()[1]
    spelling = "" if first.name == second.name else f", the second time as '{second.name}'"
    return (
        f"class '{first.name}' appears twice ({kind}s {first_number} and {second_number}{where}{spelling}). Classes "
        f"must differ in more than case, spaces, underscores and hyphens; rename one of them, e.g. '{first.name} 2'."
    )


def _entries_of_file(path: Path) -> list[_Entry]:
    if path.suffix.lower() not in FILE_SUFFIXES:
        raise TaskError(
            f"{path} is no file of class names. Give a .txt (one name per line) or a .yaml (a list or a mapping)."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise TaskError(
            f'the file of class names {path} does not exist. Check the path, or name the classes: "dog,cat".'
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"the file of class names {path} cannot be read ({error}). Save it as UTF-8 text.") from None
    if path.suffix.lower() == ".txt":
        lines = ((number, re.sub(r"(^|\s)#.*$", "", line)) for number, line in enumerate(text.splitlines(), 1))
        return [_entry(line, f"line {number}") for number, line in lines if line.strip()]
    return list(_entries_of_yaml(text, path))


def _entries_of_yaml(text: str, path: Path) -> Iterator[_Entry]:
    # Unlike safe_load, the nodes have their lines, keep both of two equal keys, and leave `no` and `007` as text.
    import yaml

    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        line = f" (line {mark.line + 1})" if mark is not None else ""
        raise TaskError(f"{path} is not valid YAML{line}, or nested too deeply. {_YAML_FORM}") from None
    if root is not None and not isinstance(root, yaml.CollectionNode):
        raise TaskError(f"{path} holds neither a list nor a mapping. {_YAML_FORM}")
    for item in root.value if root is not None else ():
        entry = item.value[0] if isinstance(item, yaml.MappingNode) and len(item.value) == 1 else item
        name, description = entry if isinstance(entry, tuple) else (entry, None)
        place = f"line {name.start_mark.line + 1}"
        yield _Entry(_scalar(name, path), "" if description is None else _scalar(description, path), place)


def _scalar(node: Any, path: Path) -> str:
    import yaml

    if not isinstance(node, yaml.ScalarNode):
        raise TaskError(f"line {node.start_mark.line + 1} of {path} is nested. {_YAML_FORM}")
    is_null = node.tag == "tag:yaml.org,2002:null" and node.style is None and node.value in ("", "~")
    return "" if is_null else _squeeze(node.value)
