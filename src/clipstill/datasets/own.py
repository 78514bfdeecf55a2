"""The user's own labelled data: folders, or a table."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from clipstill.core.errors import DataError
from clipstill.core.file_names import visible
from clipstill.core.files import read_text
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import spoken
from clipstill.core.progress import listed
from clipstill.datasets.split import SPLITS, Dataset, Named, below, in_order

_COLUMNS = ("path", "class", "split")


def open_folders(folder: Path) -> Dataset:
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
    return [entry.name for entry in visible(folder.iterdir()) if entry.is_dir()]


def open_csv(path: Path) -> Dataset:
    """Read a table with the columns path, class and split (train or test; val is left out).

    Paths are relative to the table's folder; labels follow the alphabetical order of the classes.
    """
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        missing = [column for column in _COLUMNS if column not in (reader.fieldnames or ())]
        if missing:
            raise DataError(
                f"{path} has no column '{missing[0]}'. It needs the columns {', '.join(_COLUMNS)}, and has: "
                f"{listed(reader.fieldnames or ()) or 'none'}."
            )
        rows = [[(row[column] or "").strip() for column in _COLUMNS] for row in reader]
    except (OSError, csv.Error) as error:
        raise DataError(f"{path} cannot be read as a table ({error}). Save it as CSV in UTF-8.") from None
    parts: Named = {part: [] for part in SPLITS}
    names = sorted({name for _, name, split in rows if split != "val"})
    for number, (place, name, split) in enumerate(rows, 2):
        if split == "val":
            continue
        if split not in SPLITS or not place or not name:
            raise DataError(f"{path}, line {number}: each row needs a path, a class and a split, train or test.")
        parts[split].append((path.parent / below(place, path), names.index(name), name))
    for needed in SPLITS:
        if not parts[needed]:
            raise DataError(f"{path} has no row whose split is '{needed}'. Add some.")
    return in_order(path.stem, path.parent, parts)
