"""``clipstill evaluate``: measure a run or a bundle on real photos."""

from __future__ import annotations

from clipstill.cli import options
from clipstill.cli.printing import percent, print_result


def evaluate(
    folder: options.Source,
    images: options.RequiredImages,
    model: options.Model = "fp32",
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Measure a run on real photos.

    The exported student, and its teacher beside it, top-1 and per class.
    """
    from clipstill.commands.evaluate import measure_bundle

    result = measure_bundle(folder, images, device=device or "auto", model=model)
    student, teacher = result.student, result.teacher
    rows = [
        ("photos", f"{student.n} of {len(student.classes)} classes, {len(student.skipped)} files skipped"),
        ("teacher top-1", percent(None if teacher is None else teacher.top1)),
        ("student top-1", f"{percent(student.top1)} (chance {percent(result.chance)})"),
        ("student ECE", f"{student.ece:.3f} (without temperature {student.ece_uncalibrated:.3f})"),
    ]
    if student.accepted is not None:
        rows.append(("answered", f"{percent(student.accepted)}; for the others it says none of these"))
    rows += [(f"  {name}", percent(score)) for name, score in zip(student.classes, student.per_class, strict=True)]
    print_result(result.to_json(), rows, as_json)
