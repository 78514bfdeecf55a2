"""What a student's scores are worth, found without a test set: temperature, threshold of refusal, expected accuracy.

Shapes: N pictures, C classes.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.files import write_json
from clipstill.core.progress import say
from clipstill.core.records import read_record
from clipstill.evaluation.calibration import (
    MOST_REFUSED,
    auroc,
    fit_temperature,
    refusal_threshold,
)
from clipstill.evaluation.metrics import softmax
from clipstill.stages import adaptation, class_vectors, images, near_misses, student, teacher_prompts
from clipstill.stages.student import collect_training_set
from clipstill.workflow.records import StoredCalibration
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from clipstill.assembly.calibration import Answers, ModelPair
    from clipstill.core.foresight import Foresight

NAME = "calibration"
CALIBRATION_FILE = "calibration.json"
# A temperature from 35 photos was worse than none at all (docs/distillation.md).
_LEAST_EXAMPLES = 100


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    from clipstill.assembly.calibration import MOST_PICTURES, Answers, some_of
    from clipstill.assembly.foresight import student_answers
    from clipstill.distillation.training_data import held_out_mask

    settings, models = run.settings, model_pair(run)
    data = collect_training_set(run, with_examples=False, most_photos=MOST_PICTURES).data
    held_out_styles = settings.distillation.held_out_styles
    # Of all pictures, as training chose them: some of them may lack a style.
    held_out_N = held_out_mask(data.class_id_N, data.style_id_N, held_out_styles, settings.seed)
    some_N = some_of(len(data), settings.seed)
    data, held_N = data.where(some_N), held_out_N[some_N].numpy()
    plain, views = models.plain(data), models.views(data)
    every = Answers.joined(plain, views)
    temperature, fitted_on = fit_temperature(every.student_NC, softmax(every.teacher_NC)), _pictures(run)
    if run.photos.examples is not None:
        logits_NC, label_N = student_answers(models.student, run.photos.examples, models.device)
        if len(label_N) >= _LEAST_EXAMPLES:
            temperature = fit_temperature(logits_NC, np.eye(len(run.task.names))[label_N])
            fitted_on = f"{len(label_N)} examples"
    calibration: dict[str, Any] = {
        "asked_about": _pictures(run),
        "temperature": temperature,
        "temperature_fitted_on": fitted_on,
        "foresight": (foresight := _foresight(run, models)).to_json(),
        "agreement": {
            "held_out_styles": Answers(plain.student_NC[held_N], plain.teacher_NC[held_N]).agreement(),
            "views": views.agreement(),
        },
        "refusal": _refusal(run, models, every, temperature) if run.has(near_misses.NAME) else None,
    }
    say(f"calibration: photos that the student is expected to name right: {foresight.text()}")
    write_json(folder / CALIBRATION_FILE, calibration)
    return [CALIBRATION_FILE]


def model_pair(run: Run) -> ModelPair:
    """The run's student and its teacher, on the device of the run."""
    from clipstill.assembly.calibration import ModelPair

    return ModelPair(
        student=student.read_student(run),
        teacher=teacher_prompts.teacher_of(run),
        class_vectors_CD=adaptation.read_taught_vectors(run),
        settings=run.settings,
        device=run.models.device,
    )


def _foresight(run: Run, models: ModelPair) -> Foresight:
    """What the student is expected to name right. Images that were made for the teacher say nothing about it."""
    from clipstill.assembly.foresight import foresee_by_names, linter_of, sharpened

    teacher, text_CD = run.models.teacher, class_vectors.read_class_vectors(run).text_CD
    linter = linter_of(teacher, run.task, text_CD, run.settings)
    by_names, _ = foresee_by_names(linter, linter.findings(), teacher, run.settings)
    return sharpened(
        by_names,
        teacher,
        text_CD,
        photos=run.photos,
        settings=run.settings,
        device=run.models.device,
        student=models.student,
    )


def _pictures(run: Run) -> str:
    """What the models are asked about."""
    kinds = [("synthetic images", run.has(images.NAME)), ("unlabelled photos", run.photos.unlabelled is not None)]
    return " and ".join(name for name, there in kinds if there)


def _refusal(run: Run, models: ModelPair, inside: Answers, temperature: float) -> dict[str, Any] | None:
    """The threshold between images of the classes and those of near misses; None where none of these is left."""
    from clipstill.assembly.calibration import Answers
    from clipstill.distillation.training_data import TrainingData

    names, found = near_misses.read_near_misses(run)
    if found is None:
        say("calibration: all near misses resemble the classes too much, so 'none of these' is never answered")
        return None
    pictures = TrainingData.of_no_class(found.pixels_N3HW)
    outside = Answers.joined(models.plain(pictures), models.views(pictures))
    inside_N, outside_N = (softmax(each.student_NC / temperature).max(axis=1) for each in (inside, outside))
    threshold = refusal_threshold(inside_N, outside_N, MOST_REFUSED)
    return {
        "threshold": threshold,
        "near_misses": list(names),
        "synthetic_auroc": auroc(inside_N, outside_N),
        "synthetic_accepted": float((inside_N >= threshold).mean()),
        "synthetic_refused": float((outside_N < threshold).mean()),
    }


def read_calibration(run: Run) -> dict[str, Any]:
    """Temperature, expected accuracy, agreement and refusal, as JSON values."""
    return dict(read_record(run.folder(NAME) / CALIBRATION_FILE, StoredCalibration))


def threshold_of(calibration: dict[str, Any]) -> float | None:
    """The score below which "none of these" is said; None where the student always answers."""
    return None if calibration["refusal"] is None else float(calibration["refusal"]["threshold"])


STAGE = Stage(
    name=NAME,
    version=4,
    title="Estimate how sure the student may be",
    make=_make,
    inputs=(student.NAME, near_misses.NAME),
)
