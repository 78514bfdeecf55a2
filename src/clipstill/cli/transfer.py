"""``clipstill transfer``: labels of one data set, measured on others, as one table."""

from __future__ import annotations

from typing import Annotated, Literal

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


def transfer(
    source: Annotated[
        list[str], typer.Option("--source", help=f"{DATA}; repeated for several domains of the same classes.")
    ],
    target: Annotated[list[str], typer.Option("--target", help="Likewise; repeated for several, a column each.")],
    out: OutOption,
    shots: Annotated[int, typer.Option("--shots", min=0, help="Labelled images of each class of the source.")] = 16,
    seeds: SeedsOption = "1,2,3",
    unlabelled: Annotated[
        Literal["target", "source", "none"],
        typer.Option("--unlabelled", help="Whose training images the student sees; none for synthetic ones alone."),
    ] = "target",
    baselines: BaselinesOption = True,
    recipe: ProtocolRecipeOption = "promptkd",
    teacher: TeacherOption = None,
    student: StudentOption = None,
    set_: SetOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure on other data sets than the labels are of: across data sets, or across domains of the same classes.

    The teacher may learn from a few labelled images of the source. The student sees the unlabelled training images of
    each target, which is transductive and is a student a target; or those of the source, which is one student for all.

    clipstill transfer --source imagenet:/data --target dtd:/data --target eurosat:/data --out runs/cross

    clipstill transfer --source photo/ --source art/ --target sketch/ --unlabelled source --out runs/domains
    """
    set_quiet(quiet)
    from clipstill.commands.transfer import transfer as measure
    from clipstill.datasets import Dataset, joined, open_dataset
    from clipstill.evaluation.transfer import table
    from clipstill.workflow.settings import Settings

    numbers = numbers_of(seeds)
    labelled, targets = joined([open_dataset(each) for each in source]), [open_dataset(each) for each in target]

    def config_of(dataset: Dataset) -> Settings:
        return settings_for(dataset, recipe, teacher, student, set_, device)

    for dataset in (labelled, *targets):
        config_of(dataset)  # A mistake in the settings is told before any work.
    rows = measure(config_of, labelled, targets, shots, numbers, out, unlabelled, baselines)
    if as_json:
        print_json({name: row.to_json() for name, row in rows.items()})
    else:
        print(table(rows))
