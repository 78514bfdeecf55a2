"""What a run folder remembers of the classes that it has had: whose images were made together, and who was taught.

Images of one group share statistics, so a group is made once and whole. The classes of a run are therefore kept in
cohorts: those that were drawn together, under the same evidence. A plain run has one cohort; a class that comes later
begins another, and the images of the others stay what they are. A class that goes leaves its images where they are, and
finds them when it comes back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from clipstill.core.errors import ArtifactError
from clipstill.text.task import Task


@dataclass(frozen=True)
class Evidence:
    """What, beside its texts, class vectors came from.

    Attributes:
        learned: key of the teacher's prompts; None where it has none.
        examples: hash of all example images; None where there are none.
        of_class: class -> hash of its own examples, for classes that have some. Empty where images are not drawn
            towards examples.
    """

    learned: str | None = None
    examples: str | None = None
    of_class: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cohort:
    """Classes whose images are made together.

    Attributes:
        number: of its folders: ``surrogate`` for 1, ``surrogate-2``, and so on.
        task: all classes of the run at that time; the objective tells the images from each of these.
        drawn: those of them that have images here, in the order of the task.
        evidence: at that time.
        key: of the images; empty before it is known.
        done: the images are all there.
    """

    number: int
    task: Task
    drawn: tuple[str, ...]
    evidence: Evidence = Evidence()
    key: str = ""
    done: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether it has images of every class that it tells apart, as the cohort of a plain run."""
        return self.drawn == self.task.names

    def is_made_for(self, task: Task, evidence: Evidence) -> bool:
        """Whether its images can be made now, as they were or would have been made then."""
        return self.task == task and self.evidence == evidence

    def covers(self, name: str, description: str) -> bool:
        """Whether there are images of this class in it, by the same words."""
        return (name, description) in _described(self.task) and name in self.drawn

    @property
    def drawn_ids(self) -> list[int]:
        """Positions in its task of the classes that have images here."""
        return [self.task.names.index(name) for name in self.drawn]


@dataclass(frozen=True)
class Part:
    """A cohort in use.

    Attributes:
        cohort: with all its images.
        used: classes of the present task whose images are taken from it.
    """

    cohort: Cohort
    used: tuple[str, ...]

    def position_of(self, task: Task) -> dict[int, int]:
        """Class id of the cohort's own images -> class id in a task, for the classes in use."""
        return {self.cohort.task.names.index(name): task.names.index(name) for name in self.used}


@dataclass(frozen=True)
class Taught:
    """A student that was taught; a head of class vectors lets it tell other classes apart.

    Attributes:
        task: its classes.
        evidence: at that time.
        surrogate: what it was taught on, as it stands in its key.
        key: of the student.
    """

    task: Task
    evidence: Evidence
    surrogate: Any
    key: str

    def is_of(self, task: Task) -> bool:
        """Whether it was taught these very classes."""
        return self.task == task


@dataclass(frozen=True)
class Growth:
    """How the folder of a run serves the present classes.

    Attributes:
        images: cohorts whose images are in use, the oldest first.
        near_misses: the same of near misses.
        evidence: for the present classes.
        taught: the student whose head gets other class vectors, instead of teaching one; None where one is taught.
    """

    images: tuple[Part, ...]
    near_misses: tuple[Part, ...]
    evidence: Evidence = Evidence()
    taught: Taught | None = None

    @classmethod
    def plain(cls, task: Task, evidence: Evidence, with_images: bool, with_near_misses: bool) -> Growth:
        """That of a new folder."""
        whole = (Part(Cohort(1, task, task.names, evidence), task.names),)
        return cls(whole if with_images else (), whole if with_near_misses else (), evidence)


@dataclass(frozen=True)
class Ledger:
    """All cohorts and students of a run folder, the oldest first.

    Attributes:
        images: cohorts of synthetic images.
        near_misses: cohorts of near misses.
        taught: students.
    """

    images: tuple[Cohort, ...] = ()
    near_misses: tuple[Cohort, ...] = ()
    taught: tuple[Taught, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """A JSON value that ``from_json`` reads back."""
        return {
            "images": [_cohort_to_json(each) for each in self.images],
            "near_misses": [_cohort_to_json(each) for each in self.near_misses],
            "taught": [{**asdict(each), "task": each.task.to_json()} for each in self.taught],
        }

    @classmethod
    def from_json(cls, value: Any) -> Ledger:
        """The ledger of ``to_json``.

        Raises:
            ArtifactError: the value is none.
        """
        try:
            return cls(
                tuple(_cohort_from_json(each) for each in value["images"]),
                tuple(_cohort_from_json(each) for each in value["near_misses"]),
                tuple(
                    Taught(
                        Task.from_json(each["task"]), Evidence(**each["evidence"]), each["surrogate"], str(each["key"])
                    )
                    for each in value["taught"]
                ),
            )
        except (TypeError, KeyError):
            raise ArtifactError(
                "what task.json says of the run's cohorts cannot be read. Start the run in a new folder."
            ) from None

    def with_done(self, key: str) -> Ledger:
        """The same where the images of this key are all there."""

        def changed(cohorts: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
            return tuple(replace(each, done=True) if each.key == key else each for each in cohorts)

        return replace(self, images=changed(self.images), near_misses=changed(self.near_misses))

    def without(self, key: str) -> Ledger:
        """The same without the cohort, or the student, of this key."""
        return Ledger(
            tuple(each for each in self.images if each.key != key),
            tuple(each for each in self.near_misses if each.key != key),
            tuple(each for each in self.taught if each.key != key),
        )

    def with_taught(self, student: Taught) -> Ledger:
        """The same with this student as the latest."""
        return replace(self, taught=(*(each for each in self.taught if each.key != student.key), student))


def stage_of(kind: str, cohort: Cohort) -> str:
    """The stage of a cohort: ``surrogate``, ``surrogate-2``, ..."""
    return kind if cohort.number == 1 else f"{kind}-{cohort.number}"


def kind_of(stage: str) -> str:
    """``surrogate`` of ``surrogate-2``."""
    return stage.partition("-")[0]


def _described(task: Task) -> set[tuple[str, str]]:
    return set(zip(task.names, task.descriptions, strict=True))


def _cohort_to_json(cohort: Cohort) -> dict[str, Any]:
    return {**asdict(cohort), "task": cohort.task.to_json(), "drawn": list(cohort.drawn)}


def _cohort_from_json(value: Any) -> Cohort:
    return Cohort(
        int(value["number"]),
        Task.from_json(value["task"]),
        tuple(str(name) for name in value["drawn"]),
        Evidence(**value["evidence"]),
        str(value["key"]),
        bool(value["done"]),
    )
