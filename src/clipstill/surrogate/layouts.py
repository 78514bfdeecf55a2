"""Writes synthetic images for other tools: in class folders with a table, or as shards that WebDataset reads.

The files of the images are copied as they are, with their mark of synthetic pictures.
"""

from __future__ import annotations

import csv
import json
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from clipstill.core.names import folder_names, with_articles
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.surrogate.shards import add_member

TABLE = "metadata.csv"  # As ``datasets`` reads it beside image folders.
CLASSES_FILE = "classes.txt"
_SHARD = 1000


def write_folders(images: SurrogateSet, folder: Path, classes: Sequence[str], licence: str) -> None:
    """Write ``CLASS/00000.png`` and a table with file, label, caption, score and licence of each image."""
    names = folder_names(classes)
    with (folder / TABLE).open("w", encoding="utf-8", newline="") as stream:
        table = csv.writer(stream, lineterminator="\n")
        table.writerow(("file_name", "label", "caption", "score", "licence"))
        for records, pictures in _parts(images):
            for record, picture in zip(records, pictures, strict=True):
                place = f"{names[record.class_id]}/{record.index:05d}.png"
                (folder / place).parent.mkdir(exist_ok=True)
                (folder / place).write_bytes(picture)
                table.writerow((place, *_facts(record, classes, licence).values()))


def write_webdataset(images: SurrogateSet, folder: Path, classes: Sequence[str], licence: str) -> None:
    """Write ``images-00000.tar`` and so on, with ``.png``, ``.cls``, ``.txt`` (the caption) and ``.json`` an image.

    ``.cls`` is the place of its class in ``classes.txt``, from 0.
    """
    (folder / CLASSES_FILE).write_text("".join(f"{name}\n" for name in classes), encoding="utf-8")
    for number, (records, pictures) in enumerate(_parts(images)):
        with tarfile.open(folder / f"images-{number:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for position, (record, picture) in enumerate(zip(records, pictures, strict=True), number * _SHARD):
                facts = _facts(record, classes, licence)
                add_member(tar, f"{position:06d}.png", picture)
                texts = {
                    "cls": str(record.class_id),
                    "txt": facts["caption"],
                    "json": json.dumps(facts, ensure_ascii=False),
                }
                for suffix, text in texts.items():
                    add_member(tar, f"{position:06d}.{suffix}", text.encode())


def _parts(images: SurrogateSet) -> Iterator[tuple[list[ImageRecord], list[bytes]]]:
    """Records and files of some images at a time."""
    for start in range(0, len(images), _SHARD):
        part = slice(start, start + _SHARD)
        records = images.records[part]
        yield records, SurrogateSet(images.members[part], records).decoded(".png", bytes)


def _facts(record: ImageRecord, classes: Sequence[str], licence: str) -> dict[str, Any]:
    return {
        "label": classes[record.class_id],
        "caption": with_articles(record.prompt),
        "score": round(record.score, 4),
        "licence": licence,
    }
