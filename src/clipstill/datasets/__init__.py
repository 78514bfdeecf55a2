"""Labelled data sets with their splits: published layouts, folders, and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipstill.core.errors import DataError, UnknownNameError, did_you_mean
from clipstill.core.paths import user_path
from clipstill.datasets.coop import LAYOUTS, open_layout
from clipstill.datasets.own import open_csv, open_folders
from clipstill.datasets.published import PUBLISHED, open_published
from clipstill.datasets.split import Dataset, Item, joined, without_labels

__all__ = ["Dataset", "Item", "joined", "open_dataset", "without_labels"]

_NAMES = [*LAYOUTS, *PUBLISHED]


def open_dataset(where: str | Path) -> Dataset:
    """Read a data set's lists; no image is opened.

    Args:
        where: ``LAYOUT:ROOT`` for a published layout below the folder ROOT, of CoOp's data sets or of a domain such as
            ``pacs-sketch``; a folder that holds ``train/CLASS`` and ``test/CLASS``; or a ``.csv`` file with the columns
            path, class and split.

    Raises:
        DataError: A file or folder is missing or malformed.
        UnknownNameError: There is no such layout.
    """
    layout, colon, root = str(where).partition(":")
    # One letter is a drive, as in "C:\photos".
    if colon and len(layout) > 1:
        if layout in LAYOUTS:
            return replace(open_layout(layout, user_path(root)), layout=layout)
        if layout in PUBLISHED:
            of_imagenet = PUBLISHED[layout][0].of_imagenet
            return replace(open_published(layout, user_path(root)), layout="imagenet" if of_imagenet else None)
        known = [name for name in PUBLISHED if name.startswith(f"{layout}-")] or _NAMES
        hint = did_you_mean(layout, known)
        raise UnknownNameError(f"no data set layout '{layout}'.{hint} There are: {', '.join(known)}.")
    path = user_path(where)
    if path.suffix.lower() == ".csv":
        return open_csv(path)
    if path.is_dir():
        return open_folders(path)
    raise DataError(
        f"there is no data set {path}. Give a folder with train and test, a .csv file, or LAYOUT:ROOT (layouts: "
        f"{', '.join(_NAMES)})."
    )
