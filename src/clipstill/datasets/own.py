"""One's own labelled data: folders, or a table."""

from __future__ import annotations

import csv
from pathlib import Path

from clipstill.core.errors import DataError
from clipstill.core.images import ImageFolder
from clipstill.datasets.split import Dataset, below, in_order

_COLUMNS = ("path", "class", "split")
_SPLITS = ("train", "val", "test")


def open_folders(folder: Path) -> Dataset:
    """``train/CLASS`` and ``test/CLASS``, and ``val/CLASS`` where there is one; classes in alphabetical order.

    Raises:
        DataError: a folder is missing or empty, or ``test`` has other classes than ``train``.
    """
    for needed in ("train", "test"):
        if not (folder / needed).is_dir():
            raise DataError(f"{folder} has no folder '{needed}'. A data set has train/CLASS and test/CLASS.")
    names = _class_folders(folder / "train")
    if _class_folders(folder / "test") != names:
        raise DataError(f"{folder}: train and test have different classes. Give both the same sub-folders.")
    parts = {
        part: [(path, label, names[label].replace("_", " ")) for path, label in ImageFolder.open(place, names).items]
        for part in _SPLITS
        if (place := folder / part).is_dir()
    }
    return in_order(folder.name, folder, parts)


def _class_folders(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def open_csv(path: Path) -> Dataset:
    """A table with the columns path, class and split (train, val or test); paths count from the table's folder.

    Labels follow the alphabetical order of the classes.

    Raises:
        DataError: a column is missing, a split is unknown, or train or test is empty.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
            if missing:
                raise DataError(f"{path} has no column '{missing[0]}'. It needs the columns {', '.join(_COLUMNS)}.")
            rows = [
                (number, {name: (row[name] or "").strip() for name in _COLUMNS}) for number, row in enumerate(reader, 2)
            ]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}). Save it as CSV in UTF-8.") from None
    parts: dict[str, list[tuple[Path, int, str]]] = {part: [] for part in _SPLITS}
    names = sorted({row["class"] for _, row in rows})
    for number, row in rows:
        if row["split"] not in _SPLITS or not row["path"] or not row["class"]:
            raise DataError(
                f"{path}, line {number}: each row needs a path, a class and a split, one of {', '.join(_SPLITS)}."
            )
        parts[row["split"]].append((path.parent / below(row["path"], path), names.index(row["class"]), row["class"]))
    for needed in ("train", "test"):
        if not parts[needed]:
            raise DataError(f"{path} has no row whose split is '{needed}'. Add some.")
    return in_order(path.stem, path.parent, parts)
