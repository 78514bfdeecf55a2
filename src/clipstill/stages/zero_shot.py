"""Class names, and photos if any -> the bundle of the small teacher with stored class vectors, within seconds."""

from __future__ import annotations

from pathlib import Path

from clipstill.core.file_names import ZERO_SHOT_FOLDER
from clipstill.workflow.run import Run
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import Stage, Step

NAME = "zero_shot"


def _make(run: Run, step: Step, folder: Path) -> None:
    from clipstill.assembly.zero_shot import export_zero_shot

    settings = run.settings.changed(**{"teacher.name": run.settings.small_teacher})
    export_zero_shot(run.task, settings, run.photos, folder, key=step.key)


def is_wanted(settings: Settings) -> bool:
    """Whether a run makes it by itself; the tower of a published CLIP has hundreds of megabytes."""
    return settings.export.zero_shot and settings.small_teacher.startswith("embedded-")


STAGE = Stage(
    name=NAME,
    version=2,
    title="Pack the small teacher, no training",
    make=_make,
    settings=(
        "task",
        "teacher.name",
        "evaluation.small_teacher",
        "evaluation.images",
        "prompts.templates",
        "examples.images",
        "examples.text_count",
        "examples.whitening",
        "unlabelled.images",
        "unlabelled.adapt",
        "seed",
        "export.page",
    ),
    needed=lambda settings, photos: is_wanted(settings),
    folder=ZERO_SHOT_FOLDER,
)
