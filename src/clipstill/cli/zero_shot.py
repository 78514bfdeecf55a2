"""``clipstill zero-shot``: class names in, a teacher's own tower with stored class vectors out; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_result
from clipstill.core.errors import ConfigError


def zero_shot(
    out: options.OutBundle,
    words: options.ClassWords = None,
    classes: options.Classes = "",
    run: Annotated[Path | None, options.path(help="Take the classes and settings of this run folder instead.")] = None,
    teacher: Annotated[str, typer.Option(help="See: clipstill list teachers.")] = "embedded-s",
    examples: options.Examples = None,
    per_class: options.PerClass = None,
    unlabelled: options.Unlabelled = None,
    images: options.Images = None,
    allow_unmatched: options.AllowUnmatched = None,
    recipe: options.Recipe = "default",
    overrides: options.Overrides = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a classifier without training.

    A teacher's image tower and one stored vector a class, as a bundle like that of a run; it takes about five seconds.
    Examples and unlabelled photos move the vectors. Whether a distilled student is better: clipstill ladder.

    clipstill zero-shot dog elephant giraffe --out zoo
    """
    from clipstill.workflow.store import CONFIG_FILE, read_task

    names = options.classes_of(words, classes)
    if run is not None and names:
        raise ConfigError("--classes and --run both name the classes. Give one of them.")
    flags = {"examples.per_class": per_class, "seed": seed, "allow_unmatched": allow_unmatched}
    result = clipstill.zero_shot(
        classes=names if run is None else read_task(run),
        out=out,
        teacher=teacher,
        examples=examples,
        unlabelled=unlabelled,
        images=images,
        recipe=recipe if run is None else str(run / CONFIG_FILE),
        settings=options.with_flags(overrides, flags),
    )
    print_result(result.to_json(), result.facts(), as_json)
