"""Measure an exported student on labelled photos."""

from __future__ import annotations

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
