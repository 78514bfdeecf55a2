"""Options of the verbs that measure by a published protocol, and what they do with them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from clipstill.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from clipstill.datasets import Dataset
    from clipstill.workflow.settings import Settings

DATA = "LAYOUT:ROOT (caltech101:/data), a folder with train and test, or a .csv file"
OutOption = Annotated[Path, typer.Option("--out", "-o", help="For the runs and what was measured.")]
SeedsOption = Annotated[str, typer.Option("--seeds", help="Joined by commas.")]
BaselinesOption = Annotated[bool, typer.Option(help="Also measure the teachers as they are, and CoOp's text prompts.")]
ProtocolRecipeOption = Annotated[str, typer.Option("--recipe", help="A recipe or a YAML file.")]
TeacherOption = Annotated[str | None, typer.Option("--teacher", help="See: clipstill list teachers.")]
StudentOption = Annotated[
    str | None, typer.Option("--student", help="See: clipstill list students; or tower: and a teacher's name.")
]


def numbers_of(seeds: str) -> list[int]:
    """``"1,2,3"`` -> the numbers.

    Raises:
        ConfigError: something else, or a number below 0.
    """
    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        numbers = [-1]
    if min(numbers) < 0:
        raise ConfigError(f"--seeds is '{seeds}'. Give whole numbers joined by commas, such as 1,2,3.")
    return numbers


def settings_for(
    dataset: Dataset,
    recipe: str,
    teacher: str | None,
    student: str | None,
    overrides: Sequence[str] | None,
    device: str | None,
) -> Settings:
    """The settings of a protocol's run, with what the recipe sets otherwise for the data set.

    Raises:
        ClipstillError: as ``load_settings``.
    """
    from clipstill.workflow.recipes import load_settings

    values: dict[str, Any] = {
        section: {"name": name} for section, name in (("teacher", teacher), ("student", student)) if name is not None
    }
    if device is not None:
        values["device"] = device
    return load_settings(recipe, None, overrides or [], values, dataset.layout)
