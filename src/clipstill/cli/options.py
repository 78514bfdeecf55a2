"""Options that several verbs share, and what they do with them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]
QuietOption = Annotated[bool, typer.Option("--quiet", "-q", help="No progress on standard error.")]
DeviceOption = Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda, cuda:1 or mps.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, such as synthesis.steps=40; may be repeated."),
]
RecipeOption = Annotated[
    str, typer.Option("--recipe", help="A shipped recipe (clipstill list recipes) or a YAML file.")
]
SeedOption = Annotated[int | None, typer.Option("--seed", help="Seed of everything random.")]
ImagesOption = Annotated[
    Path | None, typer.Option("--images", help="Real photos to measure on: one sub-folder a class.")
]
ModelOption = Annotated[str, typer.Option("--format", help="Which ONNX model of the bundle: fp32, fp16 or int8.")]


def set_quiet(quiet: bool) -> None:
    """Obey ``--quiet``."""
    from clipstill.core.progress import warnings_only

    if quiet:
        warnings_only()


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def percent(share: float | None) -> str:
    """``81.4 %``; ``-`` for what was not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"


def print_table(rows: list[tuple[str, str]]) -> None:
    """Two columns on standard output."""
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name.ljust(width)}  {value}".rstrip())
