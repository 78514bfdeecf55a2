"""Describes the settings of a model in words: type, range, default and meaning."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Integral, Real
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeGuard, Union, get_args, get_origin

import pydantic
from pydantic.fields import FieldInfo

from clipstill.core.names import is_plain

_TYPES = {int: "whole number", float: "number", bool: "true or false", str: "text", Path: "path", NoneType: "null"}

_MOST_BITS = 332  # A hundred digits. Python does not even write numbers of thousands of digits.
# With three digits it could be beyond what a number of the machine holds, which would make 0 of 1e-400.
_EXPONENT = re.compile(r"[-+]?(?:\d+(?:\.\d*)?|\.\d+)[eE][-+]?\d{1,2}", re.A)


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
    metadata = [*field.metadata]
    if get_origin(field.annotation) in (Union, UnionType):
        nested = [each for member in get_args(field.annotation) for each in getattr(member, "__metadata__", ())]
        metadata += [each for inner in nested if isinstance(inner, FieldInfo) for each in inner.metadata]
    found = {name: getattr(each, name) for each in metadata for name in ("ge", "gt", "le", "lt") if hasattr(each, name)}
    if "ge" in found and "le" in found:
        return f"between {_number(found['ge'])} and {_number(found['le'])}"
    words = (("ge", "at or above"), ("gt", "above"), ("le", "at or below"), ("lt", "below"))
    return " and ".join(f"{word} {_number(found[name])}" for name, word in words if name in found)


def _number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:g}"


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


def misfit(annotation: Any, value: Any) -> str:
    """What is wrong with a value that is not of the kind that a setting takes; empty if it is. Ranges do not count."""
    texts = value if isinstance(value, list | tuple) else [value]
    odd = [each for each in texts if isinstance(each, str) and not is_plain(each)]
    if odd and "path" not in type_text(annotation):  # A path may have any name.
        return f"holds a character that is no plain text: {shown_value(odd[0])}. Remove it."
    if _fits(annotation, value):
        return ""
    kinds = get_args(annotation) if get_origin(annotation) in (Union, UnionType) else (annotation,)
    lists = isinstance(value, list | tuple) and any(get_origin(kind) in (list, tuple) for kind in kinds)
    wrong = next((each for each in value if not isinstance(each, str)), value) if lists else value
    problem = f"{'is' if wrong is value else 'holds'} {shown_value(wrong)}. Expected: {type_text(annotation)}."
    whole = _whole_number(wrong)
    if whole is not None and _fits(annotation, whole):
        return f"{problem} Did you mean {whole}?"
    takes_text = lists or not {"text", "path"}.isdisjoint(type_text(annotation).split(" or "))
    if takes_text and (wrong is None or isinstance(wrong, bool | int | float)):
        return f"{problem} Quote it if it is meant as a text: '{shown_value(wrong)}'."
    if isinstance(wrong, str) and not takes_text and re.match(r"[-+.]?(?:\d|inf|nan)", wrong, re.I):
        return f"{problem} Write numbers in plain digits without quotes, such as 1000 or 0.5."
    return problem


def _whole_number(value: Any) -> int | None:
    """The whole number that 3.0 and 1e3 stand for; None for other values."""
    if isinstance(value, str) and _EXPONENT.fullmatch(value) and len(value) < 20:
        value = float(value)
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e15 else None


def _fits(annotation: Any, value: Any) -> bool:
    origin, members = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _fits(members[0], value)
    if origin is Literal:
        return isinstance(value, str) and value in members
    if origin in (Union, UnionType):
        return any(_fits(member, value) for member in members)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(members[0], each) for each in value)
    if isinstance(value, bool):
        return annotation is bool
    if annotation is float and isinstance(value, str):
        return _EXPONENT.fullmatch(value) is not None  # YAML 1.1 takes 1e-3 for a text, and so does PyYAML.
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return False
    kinds: dict[Any, Any] = {int: Integral, float: Real, Path: (str, Path)}
    return annotation not in _TYPES or isinstance(value, kinds.get(annotation, annotation))


def shown_value(value: Any) -> str:
    """A value for a message, cut where it is long."""
    try:
        shown = str(value).lower().replace("none", "null") if value is None or isinstance(value, bool) else repr(value)
    except (ValueError, RecursionError):  # A number of thousands of digits, or a value that is nested too deeply.
        shown = "too large to be shown"
    return shown if len(shown) <= 60 else shown[:57] + "..."
