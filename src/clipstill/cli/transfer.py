"""``clipstill transfer``: labels of one data set, measured on others, as one table."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Literal

import typer

from clipstill.cli import options, protocol


def transfer(
    source: Annotated[
        list[str], typer.Option(help=f"{protocol.DATA}; repeated for several domains of the same classes.")
    ],
    target: Annotated[list[str], typer.Option(help="Likewise; repeated for several, a column each.")],
    out: protocol.Out,
    shots: protocol.Shots = 16,
    seeds: protocol.Seeds = "1,2,3",
    unlabelled: Annotated[
        Literal["target", "source", "none"],
        typer.Option("--unlabelled", help="Whose training images the student sees; none for synthetic ones alone."),
    ] = "target",
    baselines: protocol.Baselines = True,
    recipe: options.Recipe = "promptkd",
    teacher: options.Teacher = None,
    student: options.Student = None,
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure on other data sets than the labels are of: across data sets, or across domains of the same classes.

    The teacher may learn from a few labelled images of the source. The student sees the unlabelled training images of
    each target, which is transductive and is a student a target; or those of the source, which is one student for all.

    clipstill transfer --source imagenet:/data --target dtd:/data --target eurosat:/data --out runs/cross

    clipstill transfer --source photo/ --source art/ --target sketch/ --unlabelled source --out runs/domains
    """
    from clipstill.commands.protocol import ProtocolRequest
    from clipstill.commands.transfer import transfer as measure
    from clipstill.datasets import joined, open_dataset
    from clipstill.evaluation.transfer import table

    numbers = protocol.parse_seeds(seeds)
    labelled, targets = joined([open_dataset(each) for each in source]), [open_dataset(each) for each in target]
    settings_of = partial(
        protocol.settings_for, recipe=recipe, teacher=teacher, student=student, overrides=overrides, device=device
    )
    for dataset in (labelled, *targets):
        settings_of(dataset)  # Find mistakes in the settings before any work.
    request = ProtocolRequest(shots, numbers, out, baselines)
    rows = measure(settings_of, labelled, targets, request, unlabelled=unlabelled)
    protocol.print_rows(rows, table(rows), as_json)
