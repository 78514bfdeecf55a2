"""A data set as lists of files: what is trained on, what is chosen by, what is measured on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from clipstill.core.errors import DataError
from clipstill.core.images import ImageFolder
from clipstill.core.names import is_plain
from clipstill.core.seeds import generator_for

Item = tuple[Path, int]
Half = Literal["base", "novel"]
HALVES: tuple[Half, ...] = get_args(Half)


@dataclass(frozen=True)
class Dataset:
    """Files with labels; a label is a position in ``classes``.

    Attributes:
        name: of the layout, or of the folder.
        root: a folder above all files.
        classes: names, in the order of the labels.
        train: to learn from.
        val: to choose by; empty where the data set has none.
        test: to measure on.
        layout: the published layout that it was read by; None for one's own data.
    """

    name: str
    root: Path
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    val: tuple[Item, ...]
    test: tuple[Item, ...]
    layout: str | None = None

    def half(self, which: Half) -> Dataset:
        """Base or novel classes alone, labels counted from 0 again.

        Base is the first half of the labels, rounded up: of 101 classes, 51.

        Source: Zhou et al., CVPR 2022 (CoCoOp), the base-to-novel protocol.
        """
        kept = half_of(len(self.classes), which)
        return self._among(kept)

    def few(self, shots: int, seed: int) -> Dataset:
        """The same with ``shots`` training files a class, all of a class that has no more; ``val`` gets at most four.

        Drawn for each class by itself, so that the same files come whatever other classes there are. CoOp's own draws
        are kept in pickles that depend on Python's generator; these are others.
        """
        return replace(self, train=self._drawn(self.train, shots, seed), val=self._drawn(self.val, min(shots, 4), seed))

    def folder(self, split: Literal["train", "val", "test"]) -> ImageFolder:
        """One split as what evaluation and training read."""
        return ImageFolder(self.root, self.classes, sorted(getattr(self, split), key=lambda item: item[::-1]))

    def _among(self, kept: range) -> Dataset:
        def of(items: Sequence[Item]) -> tuple[Item, ...]:
            return tuple((path, label - kept.start) for path, label in items if label in kept)

        names = tuple(self.classes[label] for label in kept)
        return replace(self, classes=names, train=of(self.train), val=of(self.val), test=of(self.test))

    def _drawn(self, items: Sequence[Item], shots: int, seed: int) -> tuple[Item, ...]:
        import torch

        by_label: dict[int, list[Item]] = {}
        for item in items:
            by_label.setdefault(item[1], []).append(item)
        chosen: list[Item] = []
        for label, found in sorted(by_label.items()):
            draw = generator_for(seed, "shots", self.classes[label])
            chosen += [found[i] for i in torch.randperm(len(found), generator=draw)[:shots].tolist()]
        return tuple(chosen)


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets of the same classes as one, such as the domains that a student may see.

    Raises:
        DataError: their classes differ.
    """
    first = datasets[0]
    for other in datasets[1:]:
        if other.classes != first.classes:
            raise DataError(
                f"{first.name} and {other.name} have different classes, so they cannot be one source. Give one of them."
            )
    if len(datasets) == 1:
        return first
    return Dataset(
        "+".join(each.name for each in datasets),
        Path(os.path.commonpath([each.root.resolve() for each in datasets])),
        first.classes,
        tuple(item for each in datasets for item in _resolved(each, each.train)),
        tuple(item for each in datasets for item in _resolved(each, each.val)),
        tuple(item for each in datasets for item in _resolved(each, each.test)),
    )


def _resolved(dataset: Dataset, items: Sequence[Item]) -> tuple[Item, ...]:
    """The same files below the resolved root, which may be reached by links."""
    root = dataset.root.resolve()
    return tuple((root / path.relative_to(dataset.root), label) for path, label in items)


def without_labels(folder: ImageFolder) -> ImageFolder:
    """The same files as unlabelled photos."""
    return ImageFolder(folder.path, (), sorted((path, -1) for path, _ in folder.items))


def below(place: object, split: Path) -> Path:
    """A path that a list names, which must not leave the data set's folder.

    Raises:
        DataError: it does.
    """
    path = Path(str(place))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{split} names {path}, which lies outside of its folder. Name files below it.")
    return path


def half_of(count: int, which: Half) -> range:
    """Labels of a half of ``count`` classes."""
    middle = (count + 1) // 2
    return range(middle) if which == "base" else range(middle, count)


def in_order(name: str, root: Path, parts: dict[str, list[tuple[Path, int, str]]]) -> Dataset:
    """A data set from files, labels and class names, whose labels must be 0 to C - 1 and have one name each.

    Raises:
        DataError: they do not.
    """
    names: dict[int, str] = {}
    for items in parts.values():
        for _, label, class_name in items:
            if not is_plain(class_name):
                raise DataError(f"data set {name}: the class {class_name[:80]!a} holds a control character. Rename it.")
            if names.setdefault(label, class_name) != class_name:
                raise DataError(
                    f"data set {name}: label {label} is called '{names[label]}' and '{class_name}'. Mend its split "
                    f"file."
                )
    if sorted(names) != list(range(len(names))) or len(names) < 2:
        raise DataError(
            f"data set {name} has {len(names)} labels, {min(names, default=0)} to {max(names, default=0)}; there must "
            f"be two or more, from 0 on and without a gap. Mend its split file."
        )
    files = {part: tuple((path, label) for path, label, _ in items) for part, items in parts.items()}
    classes = tuple(names[label] for label in range(len(names)))
    return Dataset(name, root, classes, files["train"], files.get("val", ()), files["test"])
