"""``clipstill zero-shot``: class names in, a teacher's own tower with stored class vectors out; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipstill.cli.options import (
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


def zero_shot(
    out: Annotated[Path, typer.Option("--out", "-o", help="The new bundle.")],
    classes: Annotated[
        str, typer.Option("--classes", "-c", help='Class names, "dog,elephant", or a .txt or .yaml file of them.')
    ] = "",
    run: Annotated[
        Path | None, typer.Option("--run", help="Take the classes and settings of this run folder instead.")
    ] = None,
    teacher: Annotated[str, typer.Option("--teacher", help="See: clipstill list teachers.")] = "embedded-s",
    examples: Annotated[
        Path | None, typer.Option("--examples", help="Labelled photos of some or all classes: one sub-folder a class.")
    ] = None,
    per_class: Annotated[
        int | None, typer.Option("--per-class", min=1, help="Most examples of a class; all if left out.")
    ] = None,
    images: ImagesOption = None,
    recipe: RecipeOption = "default",
    set_: SetOption = None,
    seed: SeedOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Make a classifier without training.

    A teacher's image tower and one stored vector a class, as a bundle like that of a run; it takes seconds. Examples
    move the vectors. Whether a distilled student is better: clipstill ladder.

    clipstill zero-shot --classes "dog,elephant,giraffe" --teacher embedded-s --out zoo
    """
    set_quiet(quiet)
    from clipstill.assembly.zero_shot import make_zero_shot, task_of_run
    from clipstill.text.task import parse_task
    from clipstill.workflow.recipes import load_settings

    task = parse_task(classes) if run is None else task_of_run(run, classes)
    values: dict[str, Any] = {"teacher": {"name": teacher}}
    if per_class is not None:
        values["examples"] = {"per_class": per_class}
    if seed is not None:
        values["seed"] = seed
    settings = None if run is None else run / "config.yaml"
    result = make_zero_shot(task, load_settings(recipe, settings, set_ or [], values), out, examples, images)
    if as_json:
        print_json(result.to_json())
        return
    rows = [("classes", str(len(result.classes))), ("teacher", result.teacher)]
    if result.examples:
        rows.append(("examples", str(result.examples)))
    if result.evaluation is not None:
        rows.append(("top-1", f"{percent(result.evaluation.top1)} on {result.evaluation.n} real photos"))
    rows += [
        ("size", f"{result.onnx_bytes / 1e6:.1f} MB, {result.parameters / 1e6:.1f} million parameters"),
        ("latency", f"{result.latency_ms:.1f} ms a picture on one core"),
        ("bundle", str(result.out)),
    ]
    print_table(rows)
