"""``clipstill base-to-novel``: a published protocol on a labelled data set, as one table."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli.options import DeviceOption, JsonOption, QuietOption, SetOption, print_json, set_quiet


def base_to_novel(
    data: Annotated[
        str,
        typer.Option("--data", help="LAYOUT:ROOT (caltech101:/data), a folder with train and test, or a .csv file."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="For the runs and what was measured.")],
    shots: Annotated[int, typer.Option("--shots", min=0, help="Labelled images of each base class.")] = 16,
    seeds: Annotated[str, typer.Option("--seeds", help="Joined by commas.")] = "1,2,3",
    recipe: Annotated[str, typer.Option("--recipe", help="A recipe or a YAML file.")] = "promptkd",
    teacher: Annotated[str | None, typer.Option("--teacher", help="See: clipstill list teachers.")] = None,
    student: Annotated[
        str | None, typer.Option("--student", help="See: clipstill list students; or tower: and a teacher's name.")
    ] = None,
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
    images without their labels. Nothing is chosen by a test image: what is measured is the last step.

    clipstill base-to-novel --data dtd:/data --out runs/dtd --set prompts.templates=dtd --set distillation.kd_weight=200
    """
    set_quiet(quiet)
    from clipstill.core.errors import ConfigError
    from clipstill.datasets import open_dataset
    from clipstill.evaluation.base_to_novel import table
    from clipstill.pipeline.base_to_novel import base_to_novel as measure
    from clipstill.pipeline.recipes import load_config

    try:
        numbers = [int(part) for part in seeds.split(",")]
    except ValueError:
        raise ConfigError(f"--seeds is '{seeds}'. Give whole numbers joined by commas, such as 1,2,3.") from None
    sections = {"teacher": teacher, "student": student}
    values = {section: {"name": name} for section, name in sections.items() if name is not None}
    config = load_config(recipe, None, set_ or [], {**values, **({} if device is None else {"device": device})})
    rows = measure(config, open_dataset(data), shots, numbers, out, unlabelled=unlabelled)
    if as_json:
        print_json({name: row.to_json() for name, row in rows.items()})
    else:
        print(table(rows))
