"""The real photos of a run: what it measures on, and what it learns from."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.copies import equal_files, tell_two_labels
from clipstill.core.errors import DataError, TaskError
from clipstill.core.files import sha256_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import spoken
from clipstill.core.progress import listed, warn
from clipstill.core.seeds import seed_for

if TYPE_CHECKING:
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings


@dataclass(frozen=True)
class Photos:
    """Photos of a run; each kind is None where there are none."""

    measured: ImageFolder | None = None
    examples: ImageFolder | None = None
    unlabelled: ImageFolder | None = None
    listed: bool = False  # Whether they were given as lists of files, so that the settings do not name their folders.

    @property
    def counts(self) -> dict[str, int]:
        """Number of ``examples`` and of ``unlabelled`` photos."""
        kinds = {"examples": self.examples, "unlabelled": self.unlabelled}
        return {kind: 0 if folder is None else len(folder.items) for kind, folder in kinds.items()}

    @classmethod
    def of(cls, settings: Settings, task: Task) -> Photos:
        """Open the folders that the settings name; no photo to learn from may lie in the folder to measure on."""
        labelled = partial(ImageFolder.open, classes=task.names, allow_unmatched=settings.allow_unmatched)
        measured = None if settings.evaluation.images is None else labelled(settings.evaluation.images)
        examples = unlabelled = None
        if settings.examples.images is not None:
            examples = limited(labelled(settings.examples.images), settings.examples.per_class, settings.seed)
        if settings.unlabelled.images is not None:
            unlabelled = limited(
                ImageFolder.without_labels(settings.unlabelled.images), settings.unlabelled.limit, settings.seed
            )
        check_told_apart(task, examples, has_prompts=settings.has_prompts)
        for folder in (measured, examples):
            if folder is not None:
                tell_two_labels(folder)
        for learned in (examples, unlabelled):
            if learned is not None and measured is not None:
                refuse_overlap(learned, measured)
        return cls(measured, examples, unlabelled)


def check_told_apart(task: Task, examples: ImageFolder | None, *, has_prompts: bool = False) -> None:
    """Warn of classes that only their examples tell apart; raise ``TaskError`` where there are none.

    A teacher that ``has_prompts`` reads names without descriptions and stores no examples: nothing but a warning.
    """
    for group in task.read_alike(described=not has_prompts):
        without = [name for name in group if examples is None or name in examples.classes_without_images]
        alike = f"{listed(group)} are all '{spoken(group[0])}' to the teacher, which reads no numbers of classes"
        if has_prompts:
            warn(f"{alike} and, with learned prompts, no descriptions: it cannot tell them apart")
        elif len(without) > 1:
            raise TaskError(
                f'{alike}. Rename one of them, describe what differs ("{without[1]}: ..."), or give examples of each '
                f"(--examples DIR with a folder '{without[1]}')."
            )
        else:
            warn(f"{alike}: only their examples tell them apart")


def refuse_overlap(learned: ImageFolder, measured: ImageFolder) -> None:
    """Raise ``DataError`` if a photo to learn from lies in the folder to measure on, or is a copy of a photo there."""
    within = measured.path.resolve()
    both = [path for path, _ in learned.items if path.resolve().is_relative_to(within)]
    if both:
        raise DataError(
            f"{both[0]} would be learned from and measured on, which flatters the student. Move the photos to learn "
            f"from out of {measured.path}."
        )
    to_learn, to_measure = ({path for path, _ in folder.items} for folder in (learned, measured))
    for group in equal_files([*sorted(to_learn), *sorted(to_measure)]):
        copies = to_learn.intersection(group), to_measure.intersection(group)
        if all(copies):
            raise DataError(
                f"{min(copies[0])} would be learned from and measured on, which flatters the student: {min(copies[1])} "
                f"is a copy of it. Remove one of them."
            )


def limited(folder: ImageFolder, per_class: int | None, seed: int) -> ImageFolder:
    """At most so many photos of each class, drawn by the seed; None for all of them.

    The photos of a smaller limit are among those of a larger one.
    """
    if per_class is None:
        return folder
    order = sorted(folder.items, key=lambda item: seed_for(seed, str(item[0].relative_to(folder.path))))
    taken: dict[int, int] = {}
    chosen = []
    for path, label in order:
        taken[label] = taken.get(label, 0) + 1
        if taken[label] <= per_class:
            chosen.append((path, label))
    return replace(folder, items=sorted(chosen, key=lambda item: (item[1], item[0])))


def photos_digest(photos: ImageFolder) -> str:
    """Hash of names, sizes and times of change; hashing gigabytes of content at each start would take too long."""
    facts = {str(path.relative_to(photos.path)): (label, *_size_and_time(path)) for path, label in photos.items}
    return sha256_json({"folder": str(photos.path.resolve()), "files": facts})


def digests_by_class(photos: ImageFolder) -> dict[str, str]:
    """Class name -> hash of its own photos, for the classes that have some; wherever the folder lies."""
    facts: dict[str, dict[str, tuple[int, int]]] = {}
    for path, label in photos.items:
        facts.setdefault(photos.classes[label], {})[str(path.relative_to(photos.path))] = _size_and_time(path)
    return {name: sha256_json(of_class) for name, of_class in facts.items()}


def _size_and_time(path: Path) -> tuple[int, int]:
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns
