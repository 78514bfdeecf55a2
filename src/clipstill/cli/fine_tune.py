"""``clipstill fine-tune``: a finished student and a few labelled photos in, a better bundle out."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_result


def fine_tune(
    source: options.Source,
    examples: Annotated[Path, options.path(help="Labelled photos to learn: one sub-folder a class.")],
    out: options.OutBundle,
    per_class: options.PerClass = None,
    images: options.Images = None,
    allow_unmatched: options.AllowUnmatched = None,
    recipe: Annotated[
        str, typer.Option(help="A recipe or a YAML file; its section 'distillation' is used.")
    ] = "fine-tune",
    overrides: options.Overrides = None,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Tune a finished student on a few labelled photos.

    Every class needs photos, one to sixteen each. What is tuned is the head, unless you ask for all weights:

    clipstill fine-tune runs/zoo --examples photos --out zoo-tuned --set distillation.freeze=bn
    """
    flags = {"seed": seed, "device": device, "allow_unmatched": allow_unmatched}
    settings = options.with_flags(overrides, flags)
    result = clipstill.fine_tune(
        run=source, examples=examples, out=out, images=images, per_class=per_class, recipe=recipe, settings=settings
    )
    print_result(result.to_json(), result.facts(), as_json)
