"""Measure an exported student on labelled photos."""

from __future__ import annotations

from typing import Any

from clipstill.core.images import ImageFolder
from clipstill.evaluation.evaluate import Calibration, EvaluationResult, evaluate
from clipstill.runtime import Bundle


def measure_student(bundle: Bundle, folder: ImageFolder, batch: int, title: str) -> EvaluationResult:
    """The exported student, with its temperature and its threshold of refusal."""
    return evaluate(
        bundle.logits,
        folder,
        bundle.preprocess,
        batch=batch,
        title=title,
        calibration=Calibration(bundle.temperature, bundle.refusal_threshold),
    )


def evaluation_json(student: EvaluationResult, teacher: EvaluationResult | None = None) -> dict[str, Any]:
    """Student and teacher on the same photos as JSON values; those of the teacher may be None."""
    return {
        "n": student.n,
        "classes": list(student.classes),
        "teacher_top1": None if teacher is None else teacher.top1,
        "student_top1": student.top1,
        "chance": 1 / len(student.classes),
        "teacher": None if teacher is None else teacher.to_json(),
        "student": student.to_json(),
        "skipped": student.to_json()["skipped"],
    }
