"""Synthetic images and photos -> a trained student."""

from __future__ import annotations

import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.files import read_json, write_json
from clipstill.core.progress import listed, say
from clipstill.distributed import torchrun
from clipstill.stages import adaptation, class_vectors, images, teacher_prompts
from clipstill.stages.curation import kept_facts
from clipstill.workflow.cohorts import StudentRecord
from clipstill.workflow.photos import limited
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from clipstill.assembly.training import TrainingSet
    from clipstill.distillation.trainer import DistilResult
    from clipstill.students.student import Student

NAME = "student"
STUDENT_FILE = "student.safetensors"
HISTORY_FILE = "history.json"
KEPT_FILE = "kept.json"
_WORK = "work"


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    if run.cohorts.student is not None:
        return _with_present_vectors(run, folder, run.cohorts.student)
    from clipstill.assembly.training import trains_together
    from clipstill.core.tensors import write_tensors

    settings, examples = run.settings, run.photos.examples
    training_set = collect_training_set(run)
    if examples is not None and examples.classes_without_images and settings.examples.teach_share > 0:
        say("student: not trained on the examples, because some classes have none")
    say(f"student: {training_set.summary()}")
    if trains_together(settings):
        torchrun.broadcast(torchrun.Offer(step.name, step.key, [], run.store.threads, cohorts=run.cohorts))
    student, result = _train(run, training_set, folder)
    curation = training_set.curation
    write_tensors(folder / STUDENT_FILE, student.state_dict())
    facts = ("history", "best_phase", "best_step", "best_agreement", "train_count", "held_out_count")
    history = {
        **{name: getattr(result, name) for name in facts},
        "images": 0 if curation is None else int(curation.keep_N.sum()),
        "images_made": 0 if training_set.images is None else len(training_set.images),
        "examples": training_set.examples,
        "unlabelled": training_set.unlabelled,
        "provenance": [asdict(part) for part in student.provenance],
    }
    write_json(folder / HISTORY_FILE, history)
    files = [STUDENT_FILE, HISTORY_FILE]
    if training_set.images is not None and curation is not None:
        write_json(folder / KEPT_FILE, kept_facts(training_set.images, curation, len(run.task.names)))
        files.append(KEPT_FILE)
    # Checkpoints and cached features serve to resume; the student is stored now.
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    return files


def assist(run: Run) -> None:
    """Train together with the first rank of torchrun."""
    _train(replace(run, watch=None), collect_training_set(run), run.folder(NAME))


def _train(run: Run, training_set: TrainingSet, folder: Path) -> tuple[Student, DistilResult]:
    from clipstill.assembly.training import train_student

    return train_student(
        run.models,
        training_set.data,
        teacher=teacher_prompts.teacher_of(run),
        class_vectors_CD=adaptation.read_taught_vectors(run),
        task=run.task,
        work=folder / _WORK,
        watch=run.watch,
    )


def collect_training_set(run: Run, *, with_examples: bool = True, most_photos: int | None = None) -> TrainingSet:
    """What is trained on: synthetic images, examples and at most ``most_photos`` unlabelled photos."""
    from clipstill.assembly.training import TrainingSet

    photos, seed = run.photos, run.settings.seed
    unlabelled = None if photos.unlabelled is None else limited(photos.unlabelled, most_photos, seed)
    return TrainingSet.of(
        run.settings,
        images.read_images(run),
        examples=photos.examples if with_examples else None,
        unlabelled=unlabelled,
    )


def _with_present_vectors(run: Run, folder: Path, record: StudentRecord) -> list[str]:
    """A student that was trained before gets the vectors of the present classes, and nothing is trained."""
    from clipstill.assembly.students import student_of
    from clipstill.core.tensors import write_tensors

    source, before = run.store.kept(NAME, record.cohort.key), record.cohort.task.names
    added = [name for name in run.task.names if name not in before]
    news = f"; new to it: {listed(added)}" if added else ""
    say(f"student: the present classes get their vectors, and nothing is trained{news}")
    student = student_of(run.models, len(before), source / STUDENT_FILE).eval()
    student.use_class_vectors(
        adaptation.read_taught_vectors(run), class_vectors.read_teacher_metadata(run)["logit_scale"]
    )
    write_tensors(folder / STUDENT_FILE, student.state_dict())
    write_json(folder / HISTORY_FILE, {**read_json(source / HISTORY_FILE), "by_vector": added})
    files = [STUDENT_FILE, HISTORY_FILE]
    if (source / KEPT_FILE).is_file():
        kept = dict(zip(before, read_json(source / KEPT_FILE), strict=True))
        nothing = {"kept": 0, "low_score": 0, "duplicates": 0, "duplicate_pairs": 0}
        write_json(folder / KEPT_FILE, [kept.get(name, nothing) for name in run.task.names])
        files.append(KEPT_FILE)
    return files


def read_student(run: Run) -> Student:
    """The trained student, on the CPU, in evaluation mode."""
    from clipstill.assembly.students import student_of

    return student_of(run.models, len(run.task.names), run.folder(NAME) / STUDENT_FILE).eval()


def read_student_metadata(run: Run) -> dict[str, Any]:
    """History of the training, counts of what it was trained on, and provenance, as JSON values."""
    return dict(read_json(run.folder(NAME) / HISTORY_FILE))


def read_kept(run: Run) -> list[dict[str, int]]:
    """How many synthetic images of each class were trained on and left out."""
    return list(read_json(run.folder(NAME) / KEPT_FILE))


STAGE = Stage(
    name=NAME,
    version=9,
    title="Train the student",
    make=_make,
    settings=(
        "student",
        "distillation",
        "curation.min_score",
        "curation.duplicate_cosine",
        "examples.teach_share",
        "unlabelled.images",
        "seed",
    ),
    inputs=(class_vectors.NAME, adaptation.NAME, images.NAME),
)
