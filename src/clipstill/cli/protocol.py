"""What ``base-to-novel`` and ``transfer`` share: options, settings and the printed table."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipstill.cli.printing import print_json
from clipstill.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from clipstill.datasets import Dataset
    from clipstill.workflow.settings import Settings

DATA = "LAYOUT:ROOT (caltech101:/data), a folder with train and test, or a .csv file"
Out = Annotated[Path, typer.Option("--out", "-o", help="Folder for the runs and the measurements.")]
Shots = Annotated[int, typer.Option("--shots", min=0, help="Labelled images per class to learn from.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Whole numbers joined by commas; one run each.")]
Baselines = Annotated[bool, typer.Option(help="Also measure the teachers as they are, and CoOp's text prompts.")]


def parse_seeds(text: str) -> list[int]:
    """``"1,2,3"`` -> the numbers.

    Raises:
        ConfigError: The text holds something else, or a number below 0.
    """
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0:
        raise ConfigError(f"--seeds is '{text}'. Give whole numbers joined by commas, such as 1,2,3.")
    return seeds


def settings_for(
    dataset: Dataset,
    *,
    recipe: str,
    teacher: str | None,
    student: str | None,
    overrides: Sequence[str] | None,
    device: str | None,
) -> Settings:
    """The settings of a protocol's run, with those that the recipe has for the data set alone."""
    from clipstill.workflow.recipes import load_settings

    values: dict[str, Any] = {
        section: {"name": name} for section, name in (("teacher", teacher), ("student", student)) if name is not None
    }
    if device is not None:
        values["device"] = device
    return load_settings(recipe, overrides=overrides or [], values=values, layout=dataset.layout)


def print_rows(rows: Mapping[str, Any], table: str, as_json: bool) -> None:
    """Print the measurements of each method as JSON, or as a table."""
    if as_json:
        print_json({name: row.to_json() for name, row in rows.items()})
    else:
        print(table)
