"""What a stage is given: settings, classes and photos of a run, its folder, and its models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_manifest, verify_files, write_json, write_text
from clipstill.core.records import read_record
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, CohortsInUse
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos
from clipstill.workflow.records import StepEntry
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import Stage, Step
from clipstill.workflow.store import CONFIG_FILE, TASK_FILE, Store, read_task

if TYPE_CHECKING:
    from torch import nn

    from clipstill.students.student import Student

STEPS_FILE = "steps.json"
# Mark in the classes' file of a run whose photos were given as lists of files.
PHOTOS_LISTED = "photos_listed"
# Called at each validation with the step, the student for its features, and the head to answer by.
Watch = Callable[[int, "Student", "nn.Module"], None]


@dataclass(frozen=True)
class Run:
    """One run. A stage reads the results of earlier stages from its store."""

    settings: Settings
    task: Task
    photos: Photos
    store: Store
    cohorts: CohortsInUse  # Nothing for a finished run that is only read.
    steps: tuple[Step, ...]
    models: Models
    watch: Watch | None = None  # Called with the student's weights at each validation; None for nobody.

    @classmethod
    def open(cls, path: Path, stages: Sequence[Stage], settings: Settings, photos: Photos) -> Run:
        """A finished run, wherever the photos that it learned from lie now; ``photos`` are those that the caller has.

        Raises:
            ArtifactError: The folder is no run, or a stage of it is not complete or damaged.
        """
        task, store = read_task(path), Store(path)
        by_name = {stage.name: stage for stage in stages}
        steps: list[Step] = []
        for entry in read_record(path / STEPS_FILE, list[StepEntry]):
            stage, cohort = by_name.get(entry["stage"]), Cohort(task, task.names)
            if stage is None:
                raise _not_finished(path, entry["stage"])
            if stage.per_cohort:
                cohort = replace(store.cohort(entry["name"]), used=tuple(entry["used"] or ()))
            step = Step(stage, entry["key"], cohort)
            if step.is_kept:
                _check_finished(path, store.folder(step))
            steps.append(step)
        _check_finished(path, path / "bundle")
        models, none = Models(settings), CohortsInUse()
        return cls(settings, task, photos, store=store, cohorts=none, steps=tuple(steps), models=models)

    def save(self) -> None:
        """Write down classes, settings, and which steps serve the run, for ``open``."""
        out = self.store.path
        listed = {PHOTOS_LISTED: True} if self.photos.listed else {}
        write_json(out / TASK_FILE, {**self.task.to_json(), **listed})
        settings = self.settings.model_dump(mode="json")
        write_text(out / CONFIG_FILE, yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
        entries = [
            {"name": step.name, "stage": step.stage.name, "key": step.key, "used": step.cohort.used or None}
            for step in self.steps
        ]
        write_json(out / STEPS_FILE, entries)

    def has(self, stage: str) -> bool:
        """Whether the run has a stage of this name."""
        return any(step.stage.name == stage for step in self.steps)

    def steps_of(self, stage: str) -> list[Step]:
        """The steps of a stage, one for each cohort in use; none where the run does not have it."""
        return [step for step in self.steps if step.stage.name == stage]

    def step(self, stage: str) -> Step:
        """The only step of a stage that is not per cohort."""
        found = self.steps_of(stage)
        if len(found) != 1:
            raise _not_finished(self.store.path, stage)
        return found[0]

    def folder(self, stage: str) -> Path:
        """The folder of a stage that is not per cohort."""
        return self.store.folder(self.step(stage))

    def metadata(self) -> dict[str, Any]:
        """Seed, versions, device and names, for manifests, card and report."""
        from clipstill.core.device import precision_on, versions

        student = self.settings.student
        tower = {"prompts": student.prompts, "prompt_depth": student.prompt_depth, "tower": student.tower}
        return {
            **({"student_tower": tower} if student.tower_of else {}),
            **versions(),
            "device": str(self.models.device),
            "threads": self.store.threads,
            "seed": self.settings.seed,
            "teacher": self.settings.teacher.name,
            "teacher_precision": precision_on(self.models.device, self.settings.teacher.precision),
            "generator": self.settings.generator.name,
            "student": student.name,
            "student_init": student.init,
            "images_per_class": self.settings.prompts.images_per_class,
            "unlabelled": self.photos.counts["unlabelled"],
        }


def _check_finished(path: Path, folder: Path) -> None:
    """Check that a stage is complete and its JSON as it was written. Readers of tensors and shards check these."""
    manifest = read_manifest(folder)
    if manifest is None:
        raise _not_finished(path, folder.name)
    files = {name: digest for name, digest in manifest.files.items() if name.endswith(".json")}
    verify_files(folder, replace(manifest, files=files))


def _not_finished(path: Path, stage: str) -> ArtifactError:
    return ArtifactError(
        f"the run {path} is not finished: its stage '{stage}' is missing. Finish it with the command that began it."
    )
