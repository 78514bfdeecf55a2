"""Describes the settings of a model in words: type, range, default and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", NoneType: "null"}


@dataclass(frozen=True)
class Declared:
    """One setting as its model declares it."""

    name: str  # Dotted name, such as ``synthesis.steps``.
    type: str  # Type or choices in words.
    range: str  # Range in words; empty where there is none.
    default: Any  # Default as a JSON value.
    description: str  # Meaning.


def declared(model: type[pydantic.BaseModel], above: str = "") -> Iterator[Declared]:
    """Every setting of a model and of its sections, in order; ``above`` is put before each name."""
    defaults = model().model_dump(mode="json")
    for name, field in model.model_fields.items():
        if is_section_type(field.annotation):
            yield from declared(field.annotation, f"{above}{name}.")
        else:
            yield Declared(
                name=above + name,
                type=type_text(field.annotation),
                range=range_text(field),
                default=defaults[name],
                description=field.description or "",
            )


def is_section_type(annotation: Any) -> TypeGuard[type[pydantic.BaseModel]]:
    """Whether a field holds a section of settings."""
    return isinstance(annotation, type) and issubclass(annotation, pydantic.BaseModel)


def range_text(field: FieldInfo) -> str:
    """The range of a setting, such as ``between 0 and 1``; empty where there is none."""
    metadata = [*field.metadata, *_metadata_of_members(field.annotation)]
    found = {name: getattr(each, name) for each in metadata for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    if "ge" in found and "le" in found:
        return f"between {_number(found['ge'])} and {_number(found['le'])}"
    words = (("ge", "at or above"), ("gt", "above"), ("le", "at or below"), ("lt", "below"))
    return " and ".join(f"{word} {_number(found[name])}" for name, word in words if name in found)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


def _metadata_of_members(annotation: Any) -> list[Any]:
    if get_origin(annotation) not in (Union, UnionType):
        return []
    fields = [each for member in get_args(annotation) for each in getattr(member, "__metadata__", ())]
    return [each for field in fields if isinstance(field, FieldInfo) for each in field.metadata]


def type_text(annotation: Any) -> str:
    """The type of a setting, such as ``whole number or null``, or its choices."""
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join([", ".join(members[:-1]), members[-1]]) if len(members) > 1 else str(members[0])
    if origin is Annotated:
        return type_text(members[0])
    if origin in (Union, UnionType):
        return " or ".join(type_text(member) for member in members)
    if origin in (list, tuple):
        return f"list ({type_text(members[0])})"
    return _TYPES.get(annotation, str(annotation))
