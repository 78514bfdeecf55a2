"""Data sets as lists of labelled files for training and test."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

from clipstill.core.errors import DataError
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import is_plain, plain, told_apart
from clipstill.core.progress import listed, warn
from clipstill.core.seeds import generator_for

Item = tuple[Path, int]
# File, label and class name of each item of ``"train"`` and ``"test"``.
Named = dict[str, list[tuple[Path, int, str]]]
Half = Literal["base", "novel"]
SPLITS = ("train", "test")
HALVES: tuple[Half, ...] = get_args(Half)


@dataclass(frozen=True)
class Dataset:
    """Files with labels; a label is a position in ``classes``."""

    name: str  # Name of the layout, the folder or the table.
    root: Path  # A folder above all files.
    classes: tuple[str, ...]
    train: tuple[Item, ...]
    test: tuple[Item, ...]
    layout: str | None = None  # Published layout of the data set; None for the user's own data.

    def half(self, which: Half) -> Dataset:
        """Only the base or the novel classes, with labels from 0 again.

        Source: Zhou et al., CVPR 2022 (CoCoOp), the base-to-novel protocol.
        """
        return self.only(half_of(len(self.classes), which))

    def only(self, labels: Sequence[int]) -> Dataset:
        """Only these classes, in this order, with labels from 0 again."""
        places = {label: place for place, label in enumerate(labels)}
        items: dict[str, Any] = {
            split: tuple((path, places[label]) for path, label in getattr(self, split) if label in places)
            for split in SPLITS
        }
        return replace(self, classes=tuple(self.classes[label] for label in labels), **items)

    def few(self, shots: int, seed: int, splits: Sequence[str] = ("train",)) -> Dataset:
        """At most ``shots`` files per class in some splits, drawn by class name. The draw is not CoOp's."""
        import torch

        chosen: dict[str, Any] = {}
        for split in splits:
            by_label: dict[int, list[Item]] = {}
            for item in getattr(self, split):
                by_label.setdefault(item[1], []).append(item)
            drawn: list[Item] = []
            for label, found in sorted(by_label.items()):
                draw = generator_for(seed, "shots", self.classes[label])
                drawn += [found[i] for i in torch.randperm(len(found), generator=draw)[:shots].tolist()]
            chosen[split] = tuple(drawn)
        return replace(self, **chosen)

    def folder(self, split: Literal["train", "test"]) -> ImageFolder:
        """One split as a folder of photos."""
        return ImageFolder(self.root, self.classes, sorted(getattr(self, split), key=lambda item: item[::-1]))


def half_of(count: int, which: Half) -> range:
    """Labels of one half of ``count`` classes; the base half is rounded up: 51 of 101."""
    middle = (count + 1) // 2
    return range(middle) if which == "base" else range(middle, count)


def joined(datasets: Sequence[Dataset]) -> Dataset:
    """Several data sets of the same classes, such as several domains, as one."""
    first = datasets[0]
    for other in datasets[1:]:
        if other.classes != first.classes:
            raise DataError(
                f"{first.name} and {other.name} have different classes, so they cannot be one source. Give one of them."
            )
    if len(datasets) == 1:
        return first
    items: dict[str, Any] = {
        split: tuple((path.absolute(), label) for each in datasets for path, label in getattr(each, split))
        for split in SPLITS
    }
    root = Path(os.path.commonpath([each.root.absolute() for each in datasets]))
    return replace(first, name="+".join(each.name for each in datasets), root=root, layout=None, **items)


def refuse_shown(labelled: Dataset, measured: Sequence[Dataset]) -> None:
    """Raise a ``DataError`` if labelled images are test images too, as in data sets published without a split."""
    shown = {path.absolute() for path, _ in labelled.train}
    for each in measured:
        if any(path.absolute() in shown for path, _ in each.test):
            raise DataError(
                f"labelled images of {labelled.name} are test images of {each.name}; its accuracy would be too high. "
                "Take labels of another domain, or none: --shots 0."
            )


def without_labels(folder: ImageFolder) -> ImageFolder:
    """The same files as unlabelled photos."""
    return ImageFolder(folder.path, (), sorted((path, -1) for path, _ in folder.items))


def below(place: object, split: Path) -> Path:
    """A relative path in a list; a ``DataError`` if it leaves the folder of the list."""
    path = Path(str(place))
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"{split} names {path}, which lies outside of its folder. Name files below it.")
    return path


def in_order(name: str, root: Path, parts: Named) -> Dataset:
    """A data set of named items; a ``DataError`` if labels are not 0 to C - 1, or names are unusable.

    Labels of one name are classes of their own, told apart by ``told_apart``: ImageNet has "missile" twice.
    """
    names: dict[int, str] = {}
    for items in parts.values():
        for _, label, class_name in items:
            if not is_plain(class_name):
                raise DataError(f"data set {name}: the class {class_name[:80]!a} holds a control character. Rename it.")
            if names.setdefault(label, class_name) != class_name:
                raise DataError(
                    f"data set {name}: label {label} is called '{names[label]}' and '{class_name}'. Fix its split file."
                )
    if sorted(names) != list(range(len(names))) or len(names) < 2:
        raise DataError(
            f"data set {name} has {len(names)} labels, {min(names, default=0)} to {max(names, default=0)}; there must "
            f"be two or more, from 0 on and without a gap. Fix its split file."
        )
    files: dict[str, Any] = {split: tuple((path, label) for path, label, _ in parts[split]) for split in SPLITS}
    given = [names[label] for label in range(len(names))]
    classes = told_apart(given)
    again = [own for own, name in zip(classes, given, strict=True) if own != name]
    if again:
        warn(f"data set {name}: {listed(again)} have names of other classes, and the teacher reads them as those")
    return Dataset(plain(name), root, classes=tuple(classes), **files)
