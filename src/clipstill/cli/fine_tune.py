"""``clipstill fine-tune``: a finished student and a few labelled photos in, a better bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli.options import (
    DeviceOption,
    ImagesOption,
    JsonOption,
    QuietOption,
    SeedOption,
    SetOption,
    percent,
    print_json,
    print_table,
    set_quiet,
)


def fine_tune(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")],
    examples: Annotated[Path, typer.Option("--examples", help="Labelled photos to learn: one sub-folder a class.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The new bundle.")],
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Most photos of a class to learn; all if left out.")
    ] = None,
    images: ImagesOption = None,
    recipe: Annotated[
        str, typer.Option("--recipe", help="A recipe or a YAML file; its section 'distillation' is used.")
    ] = "fine-tune",
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Tune a finished student on a few labelled photos.

    Every class needs photos, one to sixteen each. What is tuned is the head, unless you ask for all weights:

    clipstill fine-tune runs/zoo --examples photos --out zoo-tuned --set distillation.freeze=bn
    """
    set_quiet(quiet)
    from clipstill.assembly.fine_tuning import fine_tune as tune
    from clipstill.workflow.recipes import load_settings

    values = {name: value for name, value in (("seed", seed), ("device", device)) if value is not None}
    result = tune(source, examples, out, load_settings(recipe, None, set_ or [], values), per_class, images)
    if as_json:
        print_json(result.to_json())
        return
    rows = [("classes", str(len(result.classes))), ("learned from", f"{result.examples} photos")]
    if result.before is not None and result.after is not None:
        rows += [
            ("top-1", f"{percent(result.before.top1)} -> {percent(result.after.top1)} on {result.after.n} other photos")
        ]
    print_table([*rows, ("temperature", f"{result.temperature:.2f}"), ("bundle", str(result.out))])
