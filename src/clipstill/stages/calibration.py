"""What a student's scores are worth, found without a photo: temperature, threshold of refusal, expected quality.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.files import write_json
from clipstill.core.progress import say
from clipstill.stages.near_misses import read_near_misses
from clipstill.workflow.keys import CALIBRATION
from clipstill.workflow.workbench import CALIBRATION_FILE, Workbench, commit

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from clipstill.students.student import Student

    Floats = NDArray[np.floating]

# Random views of each image beside the plain one.
_VIEWS = 2
_AT_ONCE = 64
# Unlabelled photos that are asked about: both models answer each three times, and one temperature needs no more.
_MOST_PHOTOS = 512
# With fewer photos, a temperature follows from chance: with 35 it was worse than without any (docs/distillation.md).
_LEAST_EXAMPLES = 100


@dataclass(frozen=True)
class _Answers:
    """Logits of both models for the same views."""

    student_NC: Floats
    teacher_NC: Floats


def _joined(parts: Sequence[_Answers]) -> _Answers:
    return _Answers(
        np.concatenate([part.student_NC for part in parts]), np.concatenate([part.teacher_NC for part in parts])
    )


def make_calibration(bench: Workbench, folder: Path) -> None:
    """What was taught without labels, and examples where there are any -> what the student's scores are worth."""
    from clipstill.distillation.training_data import held_out_mask
    from clipstill.evaluation.calibration import expected_accuracy, fit_temperature
    from clipstill.evaluation.metrics import softmax

    start = time.monotonic()
    config, classes = bench.config, len(bench.task.names)
    teaching = bench.lesson(with_examples=False, most_photos=_MOST_PHOTOS).teaching
    plain = _answers(bench, teaching.images_N3HW, None)
    views = _joined([_answers(bench, teaching.images_N3HW, number) for number in range(_VIEWS)])
    every = _joined([plain, views])
    settings = config.distillation
    held_N = held_out_mask(teaching.class_id_N, teaching.style_id_N, settings.held_out_styles, config.seed).numpy()
    temperature, fitted_on = fit_temperature(every.student_NC, softmax(every.teacher_NC)), _what(bench)
    if bench.examples is not None:
        logits_NC, label_N = _of_examples(bench)
        if len(label_N) >= _LEAST_EXAMPLES:
            temperature, fitted_on = fit_temperature(logits_NC, np.eye(classes)[label_N]), f"{len(label_N)} examples"
    told: dict[str, Any] = {
        "asked_about": _what(bench),
        "temperature": temperature,
        "temperature_fitted_on": fitted_on,
        # By views: the images themselves were drawn until the teacher was sure of them.
        "expected_top1": expected_accuracy(views.student_NC, softmax(views.teacher_NC)),
        "agreement": {
            "held_out_styles": _agreement(plain.student_NC[held_N], plain.teacher_NC[held_N]),
            "views": _agreement(views.student_NC, views.teacher_NC),
        },
        "refusal": _refusal(bench, every, temperature) if bench.near_parts else None,
    }
    bench.student.cpu()  # Where the export expects it.
    say(f"calibration: top-1 on photos of the classes is expected to be about {100 * told['expected_top1']:.0f} %")
    write_json(folder / CALIBRATION_FILE, told)
    commit(bench, CALIBRATION, folder, [CALIBRATION_FILE], start)


def _what(bench: Workbench) -> str:
    """What is taught without a label."""
    kinds = [("synthetic images", bool(bench.image_parts)), ("unlabelled photos", bench.unlabelled is not None)]
    return " and ".join(name for name, there in kinds if there)


def _refusal(bench: Workbench, inside: _Answers, temperature: float) -> dict[str, Any] | None:
    """The threshold between images of the classes and those of near misses; None where none of these is left."""
    from clipstill.evaluation.calibration import auroc, refusal_threshold
    from clipstill.evaluation.metrics import softmax

    names, near = read_near_misses(bench)
    if near is None:
        say("calibration: no near miss is far enough from the present classes, so the student always answers")
        return None
    parts = [_answers(bench, near.pixels_N3HW, number).student_NC for number in (None, *range(_VIEWS))]
    inside_N, outside_N = (
        softmax(logits_NC / temperature).max(axis=1) for logits_NC in (inside.student_NC, np.concatenate(parts))
    )
    threshold = refusal_threshold(inside_N, outside_N, bench.config.refusal.most_refused)
    return {
        "threshold": threshold,
        "near_misses": list(names),
        "synthetic_auroc": auroc(inside_N, outside_N),
        "synthetic_accepted": float((inside_N >= threshold).mean()),
        "synthetic_refused": float((outside_N < threshold).mean()),
    }


def temperature_of(bench: Workbench, student: Student, images_N3HW: Tensor) -> float:
    """The temperature of another student of this run's teacher, by what it was taught on, without a label."""
    from clipstill.evaluation.calibration import fit_temperature
    from clipstill.evaluation.metrics import softmax

    images_N3HW = images_N3HW[:_MOST_PHOTOS]
    every = _joined([_answers(bench, images_N3HW, number, student) for number in (None, *range(_VIEWS))])
    return fit_temperature(every.student_NC, softmax(every.teacher_NC))


def _answers(bench: Workbench, images_N3HW: Tensor, view: int | None, student: Student | None = None) -> _Answers:
    """Of both models to plain images, or to a random view of each, without mixing; of the run's own student if none."""
    import torch

    from clipstill.distillation.views import plain_view, to_unit, views_of

    student = (bench.student if student is None else student).to(bench.device).eval()
    size = student.preprocess.size
    views = views_of(bench.config.distillation.changed(mix=0.0), size)
    vectors_CD = bench.class_vectors_CD.to(bench.device)
    by_student, by_teacher = [], []
    with torch.no_grad():
        for start in range(0, len(images_N3HW), _AT_ONCE):
            x_N3HW = to_unit(images_N3HW[start : start + _AT_ONCE], bench.device)
            if view is None:
                x_N3HW = plain_view(x_N3HW, size)
            else:
                x_N3HW = views(x_N3HW, bench.config.seed, "calibration", view, start).x_N3SS
            by_student.append(student(x_N3HW).float().cpu().numpy())
            logits_NC = float(bench.teacher.logit_scale) * bench.teacher.encode_image(x_N3HW) @ vectors_CD.T
            by_teacher.append(logits_NC.float().cpu().numpy())
    return _Answers(np.concatenate(by_student), np.concatenate(by_teacher))


def _of_examples(bench: Workbench) -> tuple[Floats, NDArray[np.int64]]:
    """The student's logits for the examples, and their classes."""
    from clipstill.assembly.training import read_all
    from clipstill.evaluation.evaluate import student_predictor

    assert bench.examples is not None
    images_N3HW, label_N = read_all(bench.examples, bench.student.preprocess.size)
    predict = student_predictor(bench.student, bench.device)
    return predict(images_N3HW.permute(0, 2, 3, 1).numpy()), label_N.numpy()


def _agreement(student_NC: Floats, teacher_NC: Floats) -> float | None:
    """Share of equal answers; None without an image."""
    return float((student_NC.argmax(axis=1) == teacher_NC.argmax(axis=1)).mean()) if len(student_NC) else None
