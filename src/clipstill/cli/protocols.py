"""``clipstill base-to-novel`` and ``transfer``: published protocols on labelled data sets, each as one table."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_json, print_text
from clipstill.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from clipstill.datasets import Dataset
    from clipstill.evaluation.protocols import BaseToNovel, Transfer
    from clipstill.workflow.settings import Settings

_DATA = "LAYOUT:ROOT (caltech101:/data, pacs-sketch:/data), a folder with train and test, or a .csv file"
Out = Annotated[Path, options.path("--out", "-o", help="Folder for the runs and the measurements.")]
Shots = Annotated[int, typer.Option("--shots", min=0, help="Labelled images per class to learn from.")]
Seeds = Annotated[str, typer.Option("--seeds", help="Whole numbers joined by commas; one run each.")]
Baselines = Annotated[bool, typer.Option(help="Also measure the teachers as they are, and CoOp's text prompts.")]


def base_to_novel(
    context: typer.Context,
    data: Annotated[str, typer.Option(help=f"{_DATA}.")],
    out: Out,
    shots: Shots = 16,
    seeds: Seeds = "1,2,3",
    baselines: Baselines = True,
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

    request = ProtocolRequest(shots, parse_seeds(seeds), out, baselines)
    dataset = open_dataset(data)
    rows = measure(_settings_for(context, dataset), dataset, request, unlabelled=unlabelled)
    _print_rows(rows, as_json)


def transfer(
    context: typer.Context,
    target: Annotated[list[str], typer.Option(help=f"{_DATA}; repeated for several, a column each.")],
    out: Out,
    source: Annotated[
        list[str] | None,
        typer.Option(help="Likewise; repeated for several domains of the same classes. Given prompts need none."),
    ] = None,
    shots: Shots = 16,
    seeds: Seeds = "1,2,3",
    unlabelled: Annotated[
        Literal["target", "source", "none"],
        typer.Option("--unlabelled", help="Whose training images the student sees; none for synthetic ones alone."),
    ] = "target",
    baselines: Baselines = True,
    recipe: options.Recipe = "promptkd-transfer",
    teacher: options.Teacher = None,
    student: options.Student = None,
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure on other data sets than the labels are of: across data sets, or across domains of the same classes.

    The teacher may learn from a few labelled images of the source, or has learned prompts. The student sees the
    unlabelled training images of each target, which is transductive and is a student a target; or those of the source,
    which is one student for all.

    clipstill transfer --source imagenet:/data --target dtd:/data --target eurosat:/data --out runs/cross

    clipstill transfer --target dtd:/data --set prompt_teacher.weights=teacher_model/ImageNet-xd --out runs/cross

    clipstill transfer --source pacs-photo:/data --target pacs-sketch:/data --unlabelled source --out runs/domains
    """
    from clipstill.commands.protocol import ProtocolRequest
    from clipstill.commands.transfer import transfer as measure
    from clipstill.datasets import joined, open_dataset

    request = ProtocolRequest(shots, parse_seeds(seeds), out, baselines)
    labelled, targets = [open_dataset(each) for each in source or []], [open_dataset(each) for each in target]
    settings_of = partial(_settings_for, context)
    for dataset in (*labelled, *targets):
        settings_of(dataset)  # Find mistakes in the settings before any work.
    rows = measure(settings_of, joined(labelled) if labelled else None, targets, request, unlabelled=unlabelled)
    _print_rows(rows, as_json)


def parse_seeds(text: str) -> list[int]:
    """Whole numbers joined by commas."""
    try:
        seeds = [int(part) for part in text.split(",")]
    except ValueError:
        seeds = [-1]
    if min(seeds) < 0:
        raise ConfigError(f"--seeds is '{text}'. Give whole numbers joined by commas, such as 1,2,3.")
    return seeds


def _settings_for(context: typer.Context, dataset: Dataset) -> Settings:
    """The settings of a protocol's run, with those that the recipe has for the data set alone."""
    from clipstill.workflow.recipes import load_settings

    given = context.params
    flags = {"teacher.name": given["teacher"], "student.name": given["student"], "device": given["device"]}
    overrides = options.with_flags(given["overrides"], flags)
    return load_settings(given["recipe"], overrides=overrides, layout=dataset.layout)


def _print_rows(rows: Mapping[str, BaseToNovel | Transfer], as_json: bool) -> None:
    """Print the measurements of each method as JSON, or as a table."""
    from clipstill.evaluation.protocols import table

    if as_json:
        print_json({name: row.to_json() for name, row in rows.items()})
    else:
        print_text(table(rows))
