"""The published tables that can be reproduced: data in ``recipes/tables``, one file each."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from clipstill.core.config import Config, dotted, load_yaml, validate
from clipstill.core.errors import UnknownNameError, did_you_mean

_FOLDER = Path(str(resources.files("clipstill.recipes"))) / "tables"
AVERAGE = "average"  # Label of the means over all columns.
TOP1, HARMONIC = "top-1", "HM"
# Name of a classifier in the protocols' rows that a line of a table is about.
Subject = Literal["student", "teacher", "zero-shot teacher", "zero-shot student", "CoOp", "published alone"]


def _several(value: Any) -> Any:
    """A list of names as columns of one data set each."""
    return {str(name): [str(name)] for name in value} if isinstance(value, list) else value


Columns = Annotated[dict[str, list[str]], BeforeValidator(_several)]


class Line(Config):
    """One line of a published table."""

    name: str
    of: Subject = "student"
    # Column -> value in percent; several joined by a slash where a protocol measures several, a hyphen for none.
    values: dict[str, float | str] = Field(default={})

    def published(self, column: str, place: int) -> float | None:
        """The published value of the ``place``-th measurement of a column."""
        values = str(self.values.get(column, "-")).split("/")
        return float(values[place]) if place < len(values) and values[place] != "-" else None


class Small(Config):
    """What ``--limit small`` changes."""

    recipe: str | None = None  # Instead of the table's.
    settings: str  # File in ``tables/small``.
    photos: int  # Most photos of a class, in training and in test.
    classes: int | None = None  # Most classes of a data set, evenly spread; None for all.
    shots: list[int] | None = None


class Variant(Config):
    """What one or more lines are measured with: a cell of work for each column and seed."""

    name: str
    settings: dict[str, Any] = Field(default={})  # Dotted names.
    shots: list[int] | None = None  # Instead of the table's.
    photos_per_class: int | None = None  # Instead of the table's.
    examples: bool = False  # Whether the labelled images draw the synthetic ones.
    start: str = ""  # Start of a few-shot curve, a name in ``STARTS``.
    missing: str = ""  # Why clipstill cannot run it; empty where it can.
    note: str = ""
    small: dict[str, Any] = Field(default={})  # Settings that win with ``--limit small``.
    rows: list[Line] = Field(min_length=1)


class Table(Config):
    """A published table."""

    name: str
    title: str
    paper: str
    grade: str  # How sure the published values are.
    note: str
    protocol: Literal["data-free", "base-to-novel", "transfer", "few-shot"]
    recipe: str
    settings: dict[str, Any] = Field(default={})  # Dotted names; those of a variant win.
    columns: Columns  # Name -> data sets that are measured together.
    source: str | None = None  # Data set with the labelled images of the protocol transfer.
    shots: list[int] = Field(default=[0])  # Labelled images per class; several for a few-shot curve.
    photos_per_class: int | None = None  # Most unlabelled images of a class; None for all.
    seeds: list[int]
    time: str  # What the whole table takes, and where that is from.
    small: Small
    variants: list[Variant]

    @property
    def labels(self) -> dict[str, str]:
        """Data set or column that values stand by -> its column; the mean of several data sets after them."""
        found: dict[str, str] = {}
        for column, sets in self.columns.items():
            if len(sets) > 1 and self.protocol != "few-shot":
                found |= dict.fromkeys(sets, column)
            found[column] = column
        return found

    @property
    def metrics(self) -> list[str]:
        """Names of the values by each label."""
        if self.protocol == "few-shot":
            return [f"{count} photos" for count in self.shots]
        return ["base", "novel", HARMONIC] if self.protocol == "base-to-novel" else [TOP1]

    def overrides(self, variant: Variant, small: bool) -> dict[str, Any]:
        """Settings of a variant beside the recipe's, by dotted name."""
        values = {**self.settings, **variant.settings}
        if small:
            values |= {**dict(dotted(load_yaml(_FOLDER / "small" / f"{self.small.settings}.yaml"))), **variant.small}
        return values


def table_names() -> list[str]:
    """Names of all tables."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def load_table(name: str) -> Table:
    """A table by name; an ``UnknownNameError`` names the closest one."""
    if name not in table_names():
        raise UnknownNameError(
            f"no table named '{name}'.{did_you_mean(name, table_names())} All of them: clipstill reproduce list"
        )
    path = _FOLDER / f"{name}.yaml"
    return validate(Table, {"name": name, **load_yaml(path)}, path)
