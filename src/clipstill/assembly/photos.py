"""The real photos of a run, as its settings name them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import DataError
from clipstill.core.images import ImageFolder
from clipstill.core.seeds import seed_for

if TYPE_CHECKING:
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings


def examples_of(config: Settings, task: Task) -> ImageFolder | None:
    """The example images of a run, where it has any.

    Raises:
        DataError: the folder is missing, empty, or fits none of the classes.
    """
    section = config.examples
    if section.images is None:
        return None
    folder = limited(ImageFolder.open(section.images, task.names), section.per_class, config.seed)
    if config.evaluation.images is not None:
        refuse_overlap(folder, config.evaluation.images)
    return folder


def unlabelled_of(config: Settings) -> ImageFolder | None:
    """The unlabelled photos of a run, where it has any.

    Raises:
        DataError: the folder is missing or empty.
    """
    section = config.unlabelled
    if section.images is None:
        return None
    folder = limited(ImageFolder.without_labels(section.images), section.limit, config.seed)
    if config.evaluation.images is not None:
        refuse_overlap(folder, config.evaluation.images)
    return folder


def refuse_overlap(examples: ImageFolder, images: Path) -> None:
    """Keep what is taught out of what is measured.

    Raises:
        DataError: an example lies below ``images``.
    """
    within = images.resolve()
    both = [path for path, _ in examples.items if path.resolve().is_relative_to(within)]
    if both:
        raise DataError(
            f"{both[0]} would be taught by and measured on too, which flatters the student. Keep what is taught by out "
            f"of {images}."
        )


def limited(folder: ImageFolder, per_class: int | None, seed: int) -> ImageFolder:
    """At most so many pictures of each class, drawn by the seed; those of a smaller number are among them.

    None leaves the folder as it is.
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
