"""``clipstill evaluate``: measure a run or a bundle on real photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli.options import (
    DeviceOption,
    JsonOption,
    ModelOption,
    QuietOption,
    percent,
    print_json,
    print_table,
    set_quiet,
)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")],
    images: Annotated[Path, typer.Option("--images", help="Real photos: one sub-folder a class.")],
    model: ModelOption = "fp32",
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a run on real photos.

    The exported student, and its teacher beside it, top-1 and per class.
    """
    set_quiet(quiet)
    from clipstill.commands.evaluate import measure_bundle

    result = measure_bundle(folder, images, device or "auto", model=model)
    if as_json:
        print_json(result)
        return
    student = result["student"]
    rows = [
        ("photos", f"{result['n']} of {len(result['classes'])} classes, {len(result['skipped'])} files skipped"),
        ("teacher top-1", percent(result["teacher_top1"])),
        ("student top-1", f"{percent(result['student_top1'])} (chance {percent(result['chance'])})"),
        ("student ECE", f"{student['ece']:.3f} (without temperature {student['ece_uncalibrated']:.3f})"),
    ]
    if student["accepted"] is not None:
        rows.append(("answered", f"{percent(student['accepted'])}; for the others it says none of these"))
    rows += [(f"  {name}", percent(score)) for name, score in zip(result["classes"], student["per_class"], strict=True)]
    print_table(rows)
