"""Reads what a JSON file holds by its type, so that a damaged file is one line where it is read and no error later."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import Field, TypeAdapter, ValidationError

from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_json

Kind = TypeVar("Kind")
# Bounds that a damaged file exceeds, and arithmetic does not.
Number = Annotated[float, Field(ge=-1e15, le=1e15, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=0, le=10**19)]
Share = Annotated[float, Field(ge=0, le=1 + 1e-6, allow_inf_nan=False)]  # A mean of ones may exceed one.


def read_record(path: Path, kind: type[Kind]) -> Kind:
    """The content of a JSON file as a ``TypedDict``, a dataclass or a list of them.

    Raises:
        ArtifactError: The file is missing, malformed, too large, or of another type.
    """
    return checked(read_json(path), kind, path)


def checked(value: Any, kind: type[Kind], where: object) -> Kind:
    """A JSON value as this type; ``ArtifactError`` where what stands at ``where`` is of another."""
    hashable: Any = kind
    adapter: TypeAdapter[Kind] = _adapter(hashable)
    try:
        return adapter.validate_python(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise ArtifactError(
            f"{where} is damaged ({place[:100]}: {first['msg']}). Delete it and run the command that made it again."
        ) from None


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)
