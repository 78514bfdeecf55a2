"""The stages of a run, one file each, and their list in the order of work."""

from __future__ import annotations

from clipstill.stages import (
    adaptation,
    bundle,
    calibration,
    class_vectors,
    evaluation,
    images,
    ladder,
    near_misses,
    prompts,
    report,
    student,
    teacher_prompts,
    zero_shot,
)
from clipstill.workflow.stage import Stage

STAGES: tuple[Stage, ...] = (
    zero_shot.STAGE,
    teacher_prompts.LEARNED,
    teacher_prompts.GIVEN,
    class_vectors.STAGE,
    adaptation.FEATURES,
    adaptation.STAGE,
    prompts.STAGE,
    images.STAGE,
    student.STAGE,
    near_misses.STAGE,
    calibration.STAGE,
    evaluation.STAGE,
    bundle.STAGE,
    ladder.STAGE,
    report.STAGE,
)
# What people read for the name of a stage.
TITLES = {stage.name: stage.title for stage in STAGES}
