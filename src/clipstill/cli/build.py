"""``clipstill build``: make the weights that clipstill ships, from openly licensed pictures and words."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

build_app = typer.Typer(
    help="Make the weights that clipstill ships.\n\nFrom openly licensed pictures and words.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for the weights and their licence ledger.")]
CacheOption = Annotated[
    Path, typer.Option("--cache", help="Folder that keeps packages, decoded pictures and features (4 GB).")
]
CACHE = Path(".cache") / "clipstill"


@build_app.command("embedded-teacher")
def embedded_teacher(out: OutOption, cache: CacheOption = CACHE) -> None:
    """Get the packages, train both sizes of the embedded teacher, measure, write safetensors and licences."""
    from clipstill.building.embedded_teacher import build_teachers

    build_teachers(out, cache)


@build_app.command("embedded-generator")
def embedded_generator(out: OutOption, cache: CacheOption = CACHE) -> None:
    """Get the packages, train the embedded generator, write safetensors and licences."""
    from clipstill.building.embedded_generator import build_generator

    build_generator(out, cache)
