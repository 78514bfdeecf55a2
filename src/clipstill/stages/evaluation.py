"""Real photos -> how teacher and student do on them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from clipstill.core.copies import near_copies
from clipstill.core.files import write_json
from clipstill.core.progress import listed, warn
from clipstill.core.records import read_record
from clipstill.evaluation.evaluate import Calibration, Evaluation, evaluate, student_predictor, teacher_predictor
from clipstill.stages import calibration
from clipstill.workflow.records import StoredAccuracy
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

NAME = "evaluation"
RESULT_FILE = "evaluation.json"


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    assert run.photos.measured is not None
    models, found = calibration.model_pair(run), calibration.read_calibration(run)
    measure = partial(evaluate, folder=run.photos.measured)
    by_teacher = measure(
        teacher_predictor(models.teacher, models.class_vectors_CD, models.device),
        preprocess=models.teacher.preprocess,
        title="evaluation, teacher",
    )
    by_student = measure(
        student_predictor(models.student, models.device),
        preprocess=models.student.preprocess,
        title="evaluation, student",
        name_skipped=False,  # The teacher's evaluation has named the same files.
        calibration=Calibration(found["temperature"], calibration.threshold_of(found)),
    )
    learned = [path for each in (run.photos.examples, run.photos.unlabelled) if each for path, _ in each.items]
    pairs = near_copies(learned, [path for path, _ in run.photos.measured.items])
    if pairs:
        shown = [f"{measured} like {of}" for of, measured in pairs]
        warn(f"photos that were measured on look like photos that were learned from: {listed(shown, most=5)}")
    result = {**Evaluation(by_student, by_teacher).to_json(), "near_copies": [[str(of), str(at)] for of, at in pairs]}
    write_json(folder / RESULT_FILE, result)
    return [RESULT_FILE]


def read_evaluation(run: Run) -> dict[str, Any] | None:
    """Teacher and student on the run's photos, as JSON values; None where it has none."""
    return dict(read_record(run.folder(NAME) / RESULT_FILE, StoredAccuracy)) if run.has(NAME) else None


STAGE = Stage(
    name=NAME,
    version=3,
    title="Measure on the photos",
    make=_make,
    settings=("evaluation.images",),
    inputs=(calibration.NAME,),
    needed=lambda settings, photos: photos.measured is not None,
)
