"""Cohorts: the classes of a run whose images are made together.

Images of one group share statistics, so a group is made once and whole. A plain run has one cohort. A class that is
added later begins another; a class that is removed leaves its images in the folder and finds them when it comes back.
Each stage's folder says for which classes and from which evidence it was made; which cohorts serve the present classes
follows from these folders, the settings and the task alone.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from clipstill.text.task import Task

if TYPE_CHECKING:
    from clipstill.workflow.keys import Keys


@dataclass(frozen=True)
class Evidence:
    """What class vectors come from, beside the texts."""

    learned: str | None = None  # Key of the prompts that the teacher has learned; None where it has none.
    examples: str | None = None  # Hash of all example images; None where there are none.
    # Class name -> hash of its own examples. Empty where images are not drawn towards examples.
    by_class: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """Classes whose images are made together, and all classes and evidence of the run at that time."""

    task: Task  # All classes of the run at that time.
    drawn: tuple[str, ...]  # Classes that have images here, in the order of the task.
    evidence: Evidence = Evidence()  # Evidence at that time.
    number: int = 1  # Number of its folder: ``surrogate`` for 1, ``surrogate-2`` for 2; 0 before it has one.
    key: str = ""  # Key of its images; empty before it is known.
    complete: bool = False  # Whether all its images are there.
    used: tuple[str, ...] = ()  # Classes of the present task whose images are taken from it; empty until that is known.

    @property
    def is_whole(self) -> bool:
        """Whether it has images of every class, as the cohort of a plain run."""
        return self.drawn == self.task.names

    @property
    def drawn_ids(self) -> list[int]:
        """Positions of the drawn classes in the task."""
        return [self.task.names.index(name) for name in self.drawn]

    def is_made_for(self, task: Task, evidence: Evidence) -> bool:
        """Whether its images can be made now as they were made then."""
        return self.task == task and self.evidence == evidence

    def covers(self, name: str, description: str) -> bool:
        """Whether it has images of this class, made from the same words."""
        described = set(zip(self.task.names, self.task.descriptions, strict=True))
        return name in self.drawn and (name, description) in described


@dataclass(frozen=True)
class StudentRecord:
    """A student that was trained; a head of class vectors lets it tell other classes apart."""

    cohort: Cohort  # Its classes, the evidence at that time, and the key of the stage.
    images: Any  # What it was trained on, as ``Keys.of_cohorts`` has it.

    @property
    def image_keys(self) -> set[str]:
        """Keys of the images that it was trained on."""
        if self.images is None:
            return set()
        return {self.images} if isinstance(self.images, str) else {str(key) for key, _ in self.images}


@dataclass(frozen=True)
class FolderHistory:
    """All cohorts and trained students of a run folder, the oldest first."""

    images: tuple[Cohort, ...] = ()
    near_misses: tuple[Cohort, ...] = ()
    students: tuple[StudentRecord, ...] = ()


@dataclass(frozen=True)
class CohortsInUse:
    """What serves the present classes."""

    images: tuple[Cohort, ...] = ()  # Cohorts whose images are used, the oldest first.
    near_misses: tuple[Cohort, ...] = ()  # Cohorts whose near misses are used.
    evidence: Evidence = Evidence()  # Evidence for the present classes.
    # The trained student whose head gets the present class vectors, in place of training one; else None.
    student: StudentRecord | None = None

    def of(self, stage: str) -> tuple[Cohort, ...]:
        """Cohorts in use of a stage that is per cohort."""
        return self.near_misses if stage == "near_misses" else self.images


def cohorts_in_use(keys: Keys, task: Task, history: FolderHistory) -> CohortsInUse:
    """Choose the cohorts that serve the present classes, with a new one for the classes that no cohort serves."""
    evidence = keys.evidence(task)
    images: tuple[Cohort, ...] = ()
    near_misses: tuple[Cohort, ...] = ()
    valid = _valid(keys, "surrogate", history.images, task=task, evidence=evidence)
    student = _reusable_student(keys, task, evidence, history, images={cohort.key for cohort in valid})
    new = Cohort(task, task.names, evidence, number=0)
    if "surrogate" in keys.stages:
        chosen = _chosen(valid, task, evidence.by_class)
        images = _used(keys, "surrogate", chosen, valid, new=new if student is None else None)
    if "near_misses" in keys.stages:
        valid = _valid(keys, "near_misses", history.near_misses, task=task, evidence=evidence)
        chosen = _chosen(valid, task, None)
        if keys.settings.refusal.near_misses != "auto" and chosen:
            # Names or a number were given: any cohort of them serves all classes.
            chosen = {name: chosen.get(name, next(iter(chosen.values()))) for name in task.names}
        new_or_none = new if student is None or not chosen else None
        near_misses = _used(keys, "near_misses", chosen, valid, new=new_or_none)
    return CohortsInUse(images, near_misses, evidence, student)


def _valid(keys: Keys, stage: str, cohorts: Sequence[Cohort], *, task: Task, evidence: Evidence) -> list[Cohort]:
    """Cohorts that the present settings would make the same; an unfinished one must be one that can be made now."""
    if stage not in keys.stages:
        return []
    possible = [each for each in cohorts if each.complete or each.is_made_for(task, evidence)]
    return [each for each in possible if keys.of(stage, each) == each.key]


def _chosen(valid: Sequence[Cohort], task: Task, by_class: Mapping[str, str] | None) -> dict[str, Cohort]:
    """The cohort of each class that has one: made from the same words and, unless None, these examples."""
    found: dict[str, Cohort] = {}
    for name, description in zip(task.names, task.descriptions, strict=True):
        for cohort in valid:
            same = by_class is None or cohort.evidence.by_class.get(name) == by_class.get(name)
            if same and cohort.covers(name, description):
                found.setdefault(name, cohort)
    return found


def _used(
    keys: Keys, stage: str, chosen: Mapping[str, Cohort], valid: Sequence[Cohort], *, new: Cohort | None
) -> tuple[Cohort, ...]:
    """Cohorts in use, each with a folder number of its own; ``new`` is for the classes without any, if it is given."""
    used = [replace(each, used=tuple(name for name in chosen if chosen[name] is each)) for each in valid]
    used = [each for each in used if each.used]
    missing = () if new is None else tuple(name for name in new.task.names if name not in chosen)
    if new is not None and missing:
        new = replace(new, drawn=missing, used=missing)
        used.append(replace(new, key=keys.of(stage, new)))
    # A folder may have held several cohorts, one after the other; two of them in use cannot both lie there.
    wanted = {each.number for each in used} - {0}
    reserved = wanted | ({each.number for each in valid} if wanted else set())
    taken: set[int] = set()
    numbered = []
    for each in used:
        number = each.number
        if number == 0 or number in taken:
            number = next(free for free in itertools.count(1) if free not in taken | reserved)
        taken.add(number)
        numbered.append(replace(each, number=number))
    return tuple(numbered)


def _reusable_student(
    keys: Keys, task: Task, evidence: Evidence, history: FolderHistory, *, images: set[str]
) -> StudentRecord | None:
    """The latest student whose head can get the present class vectors, where none was trained on these classes."""
    if keys.settings.student.head != "class-vectors" or evidence.learned is not None:
        return None

    def is_valid(student: StudentRecord) -> bool:
        # Its classes that are still there have the same examples; its images are those of the present settings.
        then = student.cohort.evidence
        shared = [name for name in student.cohort.task.names if name in task.names]
        return (
            then.learned is None
            and student.image_keys <= images
            and all(then.by_class.get(name) == evidence.by_class.get(name) for name in shared)
            and keys.of_student(student) == student.cohort.key
        )

    found = [student for student in history.students if is_valid(student)]
    if not found or any(student.cohort.task == task for student in found):
        return None
    return found[-1]
