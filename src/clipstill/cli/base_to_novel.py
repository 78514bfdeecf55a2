"""``clipstill base-to-novel``: a published protocol on a labelled data set, as one table."""

from __future__ import annotations

from typing import Annotated

import typer

from clipstill.cli.options import DeviceOption, JsonOption, QuietOption, SetOption, print_json, set_quiet
from clipstill.cli.protocol_options import (
    DATA,
    BaselinesOption,
    OutOption,
    ProtocolRecipeOption,
    SeedsOption,
    StudentOption,
    TeacherOption,
    numbers_of,
    settings_for,
)


def base_to_novel(
    data: Annotated[str, typer.Option("--data", help=f"{DATA}.")],
    out: OutOption,
    shots: Annotated[int, typer.Option("--shots", min=0, help="Labelled images of each base class.")] = 16,
    seeds: SeedsOption = "1,2,3",
    baselines: BaselinesOption = True,
    recipe: ProtocolRecipeOption = "promptkd",
    teacher: TeacherOption = None,
    student: StudentOption = None,
    unlabelled: Annotated[
        bool, typer.Option(help="Show the student the training images without labels; else synthetic images alone.")
    ] = True,
    set_: SetOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure base classes, novel classes and their harmonic mean, with baselines.

    The teacher may learn from a few labelled images of the first half of the classes; the student sees all training
    images without their labels. Nothing is chosen by a test image: what is measured is the last step. Settings that
    are published for a layout are taken where it is named.

    clipstill base-to-novel --data dtd:/data --out runs/dtd
    """
    set_quiet(quiet)
    from clipstill.commands.base_to_novel import base_to_novel as measure
    from clipstill.commands.protocol import ProtocolRequest
    from clipstill.datasets import open_dataset
    from clipstill.evaluation.base_to_novel import table

    numbers, dataset = numbers_of(seeds), open_dataset(data)
    settings = settings_for(dataset, recipe, teacher, student, set_, device)
    request = ProtocolRequest(shots, numbers, out, baselines)
    rows = measure(settings, dataset, request, unlabelled=unlabelled)
    if as_json:
        print_json({name: row.to_json() for name, row in rows.items()})
    else:
        print(table(rows))
