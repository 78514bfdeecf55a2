"""``clipstill run``: class names in, a measured and exported classifier out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipstill.cli.options import (
    DeviceOption,
    ImagesOption,
    JsonOption,
    QuietOption,
    RecipeOption,
    SeedOption,
    SetOption,
    percent,
    print_json,
    print_table,
    set_quiet,
)

if TYPE_CHECKING:
    from clipstill.commands.run import RunResult


def run(
    classes: Annotated[
        str, typer.Option("--classes", "-c", help='Class names, "dog,elephant", or a .txt or .yaml file of them.')
    ] = "",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run folder; named after the classes if left out.")
    ] = None,
    images: ImagesOption = None,
    examples: Annotated[
        Path | None,
        typer.Option(
            "--examples", help="Example images of some or all classes: one sub-folder a class, one or more each."
        ),
    ] = None,
    unlabelled: Annotated[
        Path | None,
        typer.Option("--unlabelled", help="Photos without labels, which teach too; sub-folders may be named anyhow."),
    ] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="See: clipstill list teachers.")] = None,
    generator: Annotated[
        str | None, typer.Option("--generator", help="See: clipstill list generators. Joined by +, they take turns.")
    ] = None,
    student: Annotated[str | None, typer.Option("--student", help="See: clipstill list students.")] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Time that the whole run may take, such as 30min: chooses the settings."),
    ] = None,
    meta: Annotated[
        str | None,
        typer.Option("--meta", help="Meta distillation over styles: none, first_order, exact or reptile."),
    ] = None,
    recipe: RecipeOption = "default",
    launcher: Annotated[
        str | None, typer.Option("--launcher", help="Who makes the images: local, or ray (see --address).")
    ] = None,
    address: Annotated[
        str | None,
        typer.Option("--address", help="Of the Ray cluster, such as ray://head:10001; RAY_ADDRESS, or one of its own."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of settings; wins over the recipe.")
    ] = None,
    set_: SetOption = None,
    seed: SeedOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a classifier from class names.

    Synthetic images, student, measurement, ONNX bundle and report land in one folder. The same command goes on where it
    was interrupted, and does nothing where all is done. Under torchrun every rank makes a share of the images:

    torchrun --nproc-per-node 8 -m clipstill run --classes classes.txt
    """
    set_quiet(quiet)
    from clipstill.text.task import parse_task

    task = parse_task(classes)  # Before torch is loaded: a typing mistake is told at once.
    from clipstill import api
    from clipstill.distributed.torchrun import rank

    result = api.run(
        task,
        api.default_out(task) if out is None else out,
        recipe=recipe,
        config_file=config,
        overrides=set_ or [],
        images=images,
        examples=examples,
        unlabelled=unlabelled,
        teacher=teacher,
        generator=generator,
        student=student,
        budget=budget,
        meta=meta,
        launcher=launcher,
        address=address,
        seed=seed,
        device=device,
    )
    if rank() == 0:
        show(result, as_json)


def show(result: RunResult, as_json: bool) -> None:
    """The end of a run on standard output: a short table, or JSON."""
    from clipstill.core.progress import span, warn

    if result.licence_warning is not None:
        warn(result.licence_warning)
    if as_json:
        print_json(result.to_json())
        return

    rows = [("classes", f"{len(result.classes)}: {_shortened(', '.join(result.classes))}")]
    measured = result.evaluation
    expected = percent(result.calibration["expected_top1"])
    if measured is not None:
        photos = f"on {measured['n']} real photos" if measured["n"] != 1 else "on one real photo"
        rows += [
            ("teacher top-1", f"{percent(measured['teacher_top1'])} {photos}"),
            (
                "student top-1",
                f"{percent(measured['student_top1'])} (chance {percent(measured['chance'])}; expected without photos "
                f"{expected})",
            ),
        ]
        if result.ladder is not None:
            rows.append(("advice", result.ladder["recommendation"]["text"]))
    else:
        rows.append(("quality", f"about {expected} top-1 expected; measure it: give real photos with --images DIR"))
    rows += [
        ("size", f"{result.onnx_bytes / 1e6:.1f} MB, {result.parameters / 1e6:.1f} million parameters"),
        ("latency", f"{result.latency_ms:.1f} ms a picture on one core"),
        ("time", "nothing to do, all was there" if result.up_to_date else span(sum(result.seconds.values()))),
        ("licences", f"{result.licence} is the most restrictive; all of them: {result.bundle / 'LICENCES.md'}"),
        ("bundle", str(result.bundle)),
        ("report", str(result.report)),
    ]
    print_table(rows)


def _shortened(text: str, limit: int = 80) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
