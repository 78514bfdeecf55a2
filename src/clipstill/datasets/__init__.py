"""Labelled data sets with their splits: published layouts, folders, and tables."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from clipstill.core.errors import DataError, UnknownNameError, did_you_mean
from clipstill.core.paths import user_path
from clipstill.datasets.coop import LAYOUTS, open_layout
from clipstill.datasets.own import open_csv, open_folders
from clipstill.datasets.split import Dataset, Item, joined, without_labels

__all__ = ["Dataset", "Item", "joined", "open_dataset", "without_labels"]


def open_dataset(where: str | Path) -> Dataset:
    """Read a data set's lists; no image is opened.

    Args:
        where: ``LAYOUT:ROOT`` for a layout of CoOp below the folder ROOT; a folder that holds ``train/CLASS`` and
            ``test/CLASS``; or a ``.csv`` file with the columns path, class and split.

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
        return replace(open_layout(layout, user_path(root)), layout=layout)
    path = user_path(where)
    if path.suffix.lower() == ".csv":
        return open_csv(path)
    if path.is_dir():
        return open_folders(path)
    raise DataError(
        f"there is no data set {path}. Give a folder with train and test, a .csv file, or LAYOUT:ROOT (layouts: "
        f"{', '.join(LAYOUTS)})."
    )
