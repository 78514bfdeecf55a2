"""``clipstill zero-shot``: class names in, a teacher's own tower with stored class vectors out; nothing is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipstill.cli import options
from clipstill.cli.printing import percent, print_result


def zero_shot(
    out: options.OutBundle,
    classes: options.Classes = "",
    run: Annotated[Path | None, typer.Option(help="Take the classes and settings of this run folder instead.")] = None,
    teacher: Annotated[str, typer.Option(help="See: clipstill list teachers.")] = "embedded-s",
    examples: options.Examples = None,
    per_class: options.PerClass = None,
    images: options.Images = None,
    recipe: options.Recipe = "default",
    overrides: options.Overrides = None,
    seed: options.Seed = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a classifier without training.

    A teacher's image tower and one stored vector a class, as a bundle like that of a run; it takes seconds. Examples
    move the vectors. Whether a distilled student is better: clipstill ladder.

    clipstill zero-shot --classes "dog,elephant,giraffe" --teacher embedded-s --out zoo
    """
    from clipstill.assembly.zero_shot import make_zero_shot
    from clipstill.core.errors import ConfigError
    from clipstill.text.task import parse_task
    from clipstill.workflow.recipes import load_settings
    from clipstill.workflow.store import CONFIG_FILE, read_task

    if run is not None and classes:
        raise ConfigError("--classes and --run both name the classes. Give one of them.")
    task = parse_task(classes) if run is None else read_task(run)
    values: dict[str, Any] = {"teacher": {"name": teacher}}
    if per_class is not None:
        values["examples"] = {"per_class": per_class}
    if seed is not None:
        values["seed"] = seed
    file = None if run is None else run / CONFIG_FILE
    settings = load_settings(recipe, file, overrides=overrides or [], values=values)
    result = make_zero_shot(task, settings, out, examples=examples, images=images)
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
    print_result(result.to_json(), rows, as_json)
