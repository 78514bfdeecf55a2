"""Zips and run folders that the page is given, as other systems and people leave them."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from clipstill.core.errors import DataError
from clipstill.core.image_folder import ImageFolder
from clipstill.ui.runs import open_run, runs_in
from clipstill.ui.uploads import take_in
from input_tables import copied, table
from tests.inputs.test_photos import stored

LOCKED, UTF8 = 0x1, 0x800


def zipped(path: Path, names: Sequence[str], on: int = 0, off: int = 0) -> Path:
    """A zip of photos, with bits of the flags of each switched on and off."""
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, stored("PNG"))
        places = [entry.header_offset + 6 for entry in packed.infolist()]
        start = packed.fp.tell() if packed.fp is not None else 0
    content = bytearray(path.read_bytes())
    while (start := content.find(b"PK\1\2", start)) >= 0:
        places.append(start + 8)
        start += 4
    for place in places:
        flags = int.from_bytes(content[place : place + 2], "little")
        content[place : place + 2] = (flags & ~off | on).to_bytes(2, "little")
    path.write_bytes(content)
    return path


# Names of the photos in a zip, flags on, flags off; the class folders that are found, or words of the one line.
ZIPS: dict[str, tuple[tuple[Sequence[str], int, int], list[str] | str]] = {
    "a class with a dot first": (([".NET/1.png", "Java/1.png"], 0, 0), [".NET", "Java"]),
    "a class with a dot first, in a folder": (
        ([f"z/{each}/1.png" for each in (".NET", "Java")], 0, 0),
        [".NET", "Java"],
    ),
    "hidden folders": ((["z/dog/1.png", "z/cat/1.png", ".thumbnails/1.png", "z/.trash/1.png"], 0, 0), ["dog", "cat"]),
    "a zip of a Mac": (
        (["Ka\u0308se/1.png", "__MACOSX/Ka\u0308se/._1.png", "Brot/1.png"], 0, UTF8),
        ["K\xe4se", "Brot"],
    ),
    "a zip of DOS": ((["K\xe4se/1.png", "Brot/1.png"], 0, 0), ["K\xe4se", "Brot"]),
    "backslashes": ((["zoo\\dog\\1.png", "zoo\\cat\\1.png"], 0, 0), ["dog", "cat"]),
    "backslashes that lead above": ((["..\\..\\dog\\1.png", "..\\cat\\1.png"], 0, 0), ["dog", "cat"]),
    "a password": ((["dog/1.png", "cat/1.png"], LOCKED, 0), "photos.zip is locked with a password"),
}


@table(ZIPS)
def test_a_zip(given: tuple[Sequence[str], int, int], expected: list[str] | str, tmp_path: Path) -> None:
    names, on, off = given
    packed = zipped(tmp_path / "photos.zip", names, on, off)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            take_in([packed], tmp_path / "ws" / "in", labelled=True)
        return
    taken = take_in([packed], tmp_path / "ws" / "in", labelled=True)
    found = ImageFolder.open(taken.folder, expected)
    assert [label for _, label in found.items] == list(range(len(expected)))
    assert found.skipped == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["photos.zip", "ws"]


@pytest.mark.parametrize("name", ["my zoo", "zoo (1)", "Zoo \u2013 Kopie", "_old", "zoo, M\xe4rz #2 & more"])
def test_a_run_that_was_renamed_is_on_the_page(name: str, quick_run: Path, tmp_path: Path) -> None:
    copied(quick_run, tmp_path / name)
    assert runs_in(tmp_path) == [name]
    assert open_run(tmp_path, name).finished
