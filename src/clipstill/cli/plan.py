"""``clipstill plan``: what class names, settings and this device promise, before anything is computed."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_json, print_table
from clipstill.core.names import plain
from clipstill.core.progress import span

if TYPE_CHECKING:
    from clipstill.planning.plan import Plan

# Classes that the table of expectations shows; all of them are in the JSON.
_SHOWN = 12
_WIDTH = 110


def plan(
    context: typer.Context,
    words: options.ClassWords = None,
    classes: options.Classes = "",
    examples: options.Examples = None,
    unlabelled: options.Unlabelled = None,
    allow_unmatched: options.AllowUnmatched = None,
    teacher: options.Teacher = None,
    generator: options.Generator = None,
    student: options.Student = None,
    budget: options.Budget = None,
    recipe: options.Recipe = "default",
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    out: Annotated[
        Path | None, options.path("--out", "-o", help="Write the chosen settings as YAML, for run --config.")
    ] = None,
    strict: Annotated[bool, typer.Option("--strict", help="End with 2 where there are warnings.")] = False,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Look at class names and settings before a run: what is doubtful, how well it may go, what it takes.

    Nothing is made. With --budget, the best settings that fit are chosen:

    clipstill plan classes.txt --budget 30min --out plan.yaml
    """
    names, given = options.classes_of(words, classes), options.shared(context, clipstill.RunOptions)
    found = clipstill.plan(classes=names, settings=overrides or (), **given)
    if out is not None:
        from clipstill.planning.budget import write_settings

        write_settings(found.settings, config, out)
    if as_json:
        print_json(found.to_json())
    else:
        _print_plan(found, out)
    if strict and found.warnings:
        raise typer.Exit(2)


def _print_plan(plan: Plan, out: Path | None) -> None:
    from clipstill.planning.plan import choice_line
    from clipstill.stages import TITLES

    print("Class names" if plan.findings else f"Class names: nothing to say about {len(plan.classes)} of them")
    for finding in plan.findings:
        line = f"{finding.level}: {finding.message}"
        print(textwrap.fill(line, _WIDTH, initial_indent="  ", subsequent_indent="    "))
        print(f"    {finding.advice}")
    print("\nPhotos that the teacher is expected to name right")
    hardest_first = sorted(plan.expected_per_class, key=lambda name: plan.expected_per_class[name])
    rows = [(name, plan.expected_text(name)) for name in hardest_first[:_SHOWN]]
    if len(hardest_first) > _SHOWN:
        rows.append(("...", f"and {len(hardest_first) - _SHOWN} easier ones"))
    rows.append(("all", plan.foresight.text()))
    rows.append(
        ("", "a student of names alone stays below it; five photos of each class lift it most (--examples DIR)")
    )
    print_table(rows)
    cost = plan.cost
    print("\nCost on this device, an estimate")
    # The photos to measure on are given to the run alone.
    rows = [("whole run", f"about {span(cost.seconds)}; measuring (--images) and other work on this machine add to it")]
    rows += [(TITLES.get(stage, stage), span(seconds)) for stage, seconds in cost.stages.items() if seconds >= 1]
    rows.append(("images", f"{cost.images} of the classes, {cost.image_steps} steps of optimisation in all"))
    rows.append(("memory", f"about {cost.memory_bytes / 1e9:.1f} GB"))
    print_table(rows)
    for limit in plan.limits:
        print(textwrap.fill(f"  warning: {limit}", _WIDTH, subsequent_indent="    "))
    if plan.budget_seconds is not None:
        print(textwrap.fill(f"\nBudget: {choice_line(plan)}", _WIDTH))
    if out is not None:
        print(f"\nSettings: clipstill run --config {plain(out)} ...")
