"""Labelled data sets with their splits: published layouts, and folders of the user."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipstill.core.errors import DataError, UnknownNameError, did_you_mean
from clipstill.core.images import ImageFolder
from clipstill.core.names import spoken
from clipstill.datasets.coop import LAYOUTS, open_layout
from clipstill.datasets.split import SPLITS, Dataset, in_order, joined, without_labels

__all__ = ["Dataset", "joined", "open_dataset", "without_labels"]


def open_dataset(where: str | Path) -> Dataset:
    """Read a data set's lists; no image is opened.

    Args:
        where: ``LAYOUT:ROOT`` for a layout of CoOp below the folder ROOT, or a folder that holds ``train/CLASS`` and
            ``test/CLASS``.

    Raises:
        DataError: A file or folder is missing or malformed.
        UnknownNameError: There is no such layout.
    """
    layout, colon, root = str(where).partition(":")
    # One letter is a drive, as in "C:\photos".
    if colon and len(layout) > 1:
        if layout not in LAYOUTS:
            known = ", ".join(LAYOUTS)
            raise UnknownNameError(f"no data set layout '{layout}'.{did_you_mean(layout, LAYOUTS)} There are: {known}.")
        return replace(open_layout(layout, Path(root)), layout=layout)
    path = Path(where)
    if path.is_dir():
        return _open_folders(path)
    raise DataError(
        f"there is no data set {path}. Give a folder with train and test, or LAYOUT:ROOT (layouts: "
        f"{', '.join(LAYOUTS)})."
    )


def _open_folders(folder: Path) -> Dataset:
    """Read ``train/CLASS`` and ``test/CLASS``; classes in alphabetical order."""
    for needed in SPLITS:
        if not (folder / needed).is_dir():
            raise DataError(f"{folder} has no folder '{needed}'. A data set has train/CLASS and test/CLASS.")
    names = _class_folders(folder / "train")
    if _class_folders(folder / "test") != names:
        raise DataError(f"{folder}: train and test have different classes. Give both the same sub-folders.")
    parts = {
        part: [(path, label, spoken(names[label])) for path, label in ImageFolder.open(folder / part, names).items]
        for part in SPLITS
    }
    return in_order(folder.name, folder, parts)


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
