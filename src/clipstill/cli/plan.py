"""``clipstill plan``: what class names, settings and this device promise, before anything is computed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipstill.cli.options import (
    DeviceOption,
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
    from clipstill.planning.plan import Plan

# Classes that the table of expectations shows; all of them are in the JSON.
_SHOWN = 12
_WIDTH = 110


def plan(
    classes: Annotated[
        str, typer.Option("--classes", "-c", help='Class names, "dog,elephant", or a .txt or .yaml file of them.')
    ] = "",
    examples: Annotated[
        Path | None, typer.Option("--examples", help="Example images of some or all classes: one sub-folder a class.")
    ] = None,
    unlabelled: Annotated[Path | None, typer.Option("--unlabelled", help="Photos without labels.")] = None,
    teacher: Annotated[str | None, typer.Option("--teacher", help="See: clipstill list teachers.")] = None,
    generator: Annotated[str | None, typer.Option("--generator", help="See: clipstill list generators.")] = None,
    student: Annotated[str | None, typer.Option("--student", help="See: clipstill list students.")] = None,
    budget: Annotated[
        str | None,
        typer.Option("--budget", help="Time that the whole run may take, such as 30min: chooses the settings."),
    ] = None,
    recipe: RecipeOption = "default",
    config: Annotated[
        Path | None, typer.Option("--config", help="A YAML file of settings; wins over the recipe.")
    ] = None,
    set_: SetOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Write the chosen settings as YAML, for run --config.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 2 where there are warnings.")] = False,
    quick: Annotated[
        bool, typer.Option("--quick", help="Time the smallest batches only: sooner there, and less exact.")
    ] = False,
    seed: SeedOption = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Look at class names and settings before a run: what is doubtful, how well it may go, what it takes.

    Nothing is made. With --budget, the best settings that fit are chosen:

    clipstill plan --classes classes.txt --budget 30min --out plan.yaml
    """
    set_quiet(quiet)
    from clipstill.text.task import parse_task

    task = parse_task(classes)
    from clipstill import api

    made = api.plan(
        task,
        recipe=recipe,
        config_file=config,
        overrides=set_ or [],
        examples=examples,
        unlabelled=unlabelled,
        teacher=teacher,
        generator=generator,
        student=student,
        budget=budget,
        seed=seed,
        device=device,
        quick=quick,
    )
    if out is not None:
        from clipstill.planning.budget import write_settings

        write_settings(made.settings, config, out)
    if as_json:
        print_json(made.to_json())
    else:
        show(made, out)
    if strict and made.warnings:
        raise typer.Exit(2)


def show(made: Plan, out: Path | None) -> None:
    """The plan on standard output, for people."""
    from clipstill.core.progress import span
    from clipstill.planning.plan import choice_line
    from clipstill.text.difficulty import ERROR

    print("Class names" if made.findings else f"Class names: nothing to say about {len(made.classes)} of them")
    for one in made.findings:
        print(textwrap.fill(f"{one.level}: {one.message}", _WIDTH, initial_indent="  ", subsequent_indent="    "))
        print(f"    {one.advice}")
    print("\nExpected from the names alone")
    order = sorted(made.expected_per_class, key=lambda name: made.expected_per_class[name])
    rows = [(name, percent(made.expected_per_class[name])) for name in order[:_SHOWN]]
    if len(order) > _SHOWN:
        rows.append(("...", f"and {len(order) - _SHOWN} easier ones"))
    rows.append(("top-1", f"{percent(made.expected_top1)} of the teacher by names alone, {ERROR}"))
    rows.append(("", "a student made from names alone stays below it; example images lift it"))
    print_table(rows)
    cost = made.cost
    print("\nCost on this device, an estimate")
    print_table(
        [
            ("whole run", f"about {span(cost.seconds)}"),
            *((stage, span(seconds)) for stage, seconds in cost.stages.items() if seconds >= 1),
            ("images", f"{cost.images} of the classes, {cost.image_steps} image-steps"),
            ("memory", f"about {cost.memory_bytes / 1e9:.1f} GB"),
        ]
    )
    if made.budget_seconds is not None:
        print(textwrap.fill(f"\nBudget: {choice_line(made)}", _WIDTH))
    if out is not None:
        print(f"\nSettings: clipstill run --config {out} ...")
