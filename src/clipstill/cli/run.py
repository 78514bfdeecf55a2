"""``clipstill run``: class names in, a measured and exported classifier out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipstill.cli import options
from clipstill.cli.printing import percent, print_result

if TYPE_CHECKING:
    from clipstill.commands.results import RunResult


def run(
    classes: options.Classes = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder; named after the classes if left out.")
    ] = None,
    images: options.Images = None,
    examples: options.Examples = None,
    unlabelled: options.Unlabelled = None,
    teacher: options.Teacher = None,
    generator: options.Generator = None,
    student: options.Student = None,
    budget: options.Budget = None,
    meta: Annotated[
        str | None, typer.Option(help="Meta distillation over styles: none, first_order, exact or reptile.")
    ] = None,
    recipe: options.Recipe = "default",
    launcher: Annotated[str | None, typer.Option(help="Who makes the images: local, or ray (see --address).")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, such as ray://head:10001; RAY_ADDRESS, or one of its own.")
    ] = None,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a classifier from class names.

    Synthetic images, student, measurement, ONNX bundle and report land in one folder. The same command goes on where it
    was interrupted, and does nothing where all is done. Under torchrun every rank makes a share of the images:

    torchrun --nproc-per-node 8 -m clipstill run --classes classes.txt
    """
    from clipstill.text.task import parse_task

    task = parse_task(classes)  # Before torch is loaded: a typing mistake is told at once.
    from clipstill import api

    # Flags stand for settings, so they come last and win.
    flags = {"distillation.meta": meta, "launch.launcher": launcher, "launch.address": address}
    result = api.distil(
        classes=task,
        out=out,
        recipe=recipe,
        config=config,
        settings=[*(overrides or []), *(f"{name}={value}" for name, value in flags.items() if value is not None)],
        images=images,
        examples=examples,
        unlabelled=unlabelled,
        teacher=teacher,
        generator=generator,
        student=student,
        budget=budget,
        seed=seed,
        device=device,
    )
    print_run(result, as_json)


def print_run(result: RunResult, as_json: bool) -> None:
    """Print the end of a run, on the first rank alone."""
    from clipstill.core.progress import warn
    from clipstill.distributed.torchrun import rank

    if rank() != 0:
        return
    if result.licence_warning is not None:
        warn(result.licence_warning)
    print_result(result.to_json(), _rows(result), as_json)


def _rows(result: RunResult) -> list[tuple[str, str]]:
    from clipstill.core.progress import span

    names = ", ".join(result.classes)
    rows = [("classes", f"{len(result.classes)}: {names if len(names) <= 80 else names[:77] + '...'}")]
    measured = result.evaluation
    expected = percent(result.calibration.expected_top1)
    if measured is not None:
        photos = f"on {measured.student.n} real photos" if measured.student.n != 1 else "on one real photo"
        aside = f"(chance {percent(measured.chance)}; expected without photos {expected})"
        teacher = None if measured.teacher is None else measured.teacher.top1
        rows.append(("teacher top-1", f"{percent(teacher)} {photos}"))
        rows.append(("student top-1", f"{percent(measured.student.top1)} {aside}"))
        if result.ladder is not None:
            rows.append(("advice", result.ladder.recommendation.text))
    else:
        rows.append(("quality", f"about {expected} top-1 expected; measure it: give real photos with --images DIR"))
    return [
        *rows,
        ("size", f"{result.onnx_bytes / 1e6:.1f} MB, {result.parameters / 1e6:.1f} million parameters"),
        ("latency", f"{result.latency_ms:.1f} ms a picture on one core"),
        ("time", "nothing to do, all was there" if result.up_to_date else span(sum(result.seconds.values()))),
        ("licences", f"{result.licence} is the most restrictive; all of them: {result.bundle_folder / 'LICENCES.md'}"),
        ("bundle", str(result.bundle_folder)),
        ("report", str(result.report)),
    ]
