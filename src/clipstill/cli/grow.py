"""``clipstill add-class`` and ``remove-class``: another list of classes for a run, and only the work that it asks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli.options import DeviceOption, ImagesOption, JsonOption, QuietOption, SetOption, set_quiet

_RUN = typer.Argument(metavar="RUN", help="A run folder.")


def add_class(
    run: Annotated[Path, _RUN],
    classes: Annotated[list[str], typer.Argument(metavar="CLASS...", help='"name" or "name: description" each.')],
    examples: Annotated[
        Path | None, typer.Option("--examples", help="Example images, one sub-folder a class, of the new classes say.")
    ] = None,
    images: ImagesOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Add classes to a run.

    Images are made of the new classes alone; the student is taught again, and bundle and report follow. With
    student.head=class-vectors nothing is made or taught: the classes are added by their vectors.

    clipstill add-class runs/zoo "crane: a large wading bird"
    """
    set_quiet(quiet)
    from clipstill.cli.run import show
    from clipstill.commands.grow import add_classes
    from clipstill.distributed.torchrun import rank

    result = add_classes(run, classes, examples, images, set_ or [], device)
    if rank() == 0:
        show(result, as_json)


def remove_class(
    run: Annotated[Path, _RUN],
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of classes that the run has.")],
    set_: SetOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Take classes out of a run.

    No image is made, and none is deleted: a class that is added again finds its own.

    clipstill remove-class runs/zoo crane
    """
    set_quiet(quiet)
    from clipstill.cli.run import show
    from clipstill.commands.grow import remove_classes
    from clipstill.distributed.torchrun import rank

    result = remove_classes(run, names, set_ or [], device)
    if rank() == 0:
        show(result, as_json)
