"""``clipstill base-to-novel``: a published protocol on a labelled data set, as one table."""

from __future__ import annotations

from typing import Annotated

import typer

from clipstill.cli import options, protocol


def base_to_novel(
    data: Annotated[str, typer.Option(help=f"{protocol.DATA}.")],
    out: protocol.Out,
    shots: protocol.Shots = 16,
    seeds: protocol.Seeds = "1,2,3",
    baselines: protocol.Baselines = True,
    recipe: options.Recipe = "promptkd",
    teacher: options.Teacher = None,
    student: options.Student = None,
    unlabelled: Annotated[
        bool, typer.Option(help="Show the student the training images without labels; else synthetic images alone.")
    ] = True,
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure base classes, novel classes and their harmonic mean, with baselines.

    The teacher may learn from a few labelled images of the first half of the classes; the student sees all training
    images without their labels. Nothing is chosen by a test image: what is measured is the last step. Settings that
    are published for a layout are taken where it is named.

    clipstill base-to-novel --data dtd:/data --out runs/dtd
    """
    from clipstill.commands.base_to_novel import base_to_novel as measure
    from clipstill.commands.protocol import ProtocolRequest
    from clipstill.datasets import open_dataset
    from clipstill.evaluation.base_to_novel import table

    numbers, dataset = protocol.parse_seeds(seeds), open_dataset(data)
    settings = protocol.settings_for(
        dataset, recipe=recipe, teacher=teacher, student=student, overrides=overrides, device=device
    )
    rows = measure(settings, dataset, ProtocolRequest(shots, numbers, out, baselines), unlabelled=unlabelled)
    protocol.print_rows(rows, table(rows), as_json)
