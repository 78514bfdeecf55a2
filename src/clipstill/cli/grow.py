"""``clipstill add-class`` and ``remove-class``: change the classes of a run, and redo only what that needs."""

from __future__ import annotations

from typing import Annotated

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.run import print_run


def add_class(
    run: options.RunFolder,
    classes: Annotated[list[str], typer.Argument(metavar="CLASS...", help='"name" or "name: description" each.')],
    examples: options.Examples = None,
    images: options.Images = None,
    allow_unmatched: options.AllowUnmatched = None,
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Add classes to a run.

    Images are made of the new classes alone; the student is taught again, and bundle and report follow. With
    student.head=class-vectors nothing is made or taught: the classes are added by their vectors.

    clipstill add-class runs/zoo "crane: a large wading bird"
    """
    settings = options.with_flags(overrides, {"allow_unmatched": allow_unmatched})
    result = clipstill.add_class(
        run=run, classes=classes, examples=examples, images=images, settings=settings, device=device
    )
    print_run(result, as_json)


def remove_class(
    run: options.RunFolder,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of classes that the run has.")],
    allow_unmatched: options.AllowUnmatched = None,
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Take classes out of a run.

    No image is made, and none is deleted: a class that is added again finds its own.

    clipstill remove-class runs/zoo crane
    """
    settings = options.with_flags(overrides, {"allow_unmatched": allow_unmatched})
    print_run(clipstill.remove_class(run=run, classes=names, settings=settings, device=device), as_json)
