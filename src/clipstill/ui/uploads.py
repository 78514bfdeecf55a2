"""Photos that come in through the page: a zip, or single files, into a folder of the workspace.

A zip may come from anybody, so nothing in it is trusted: names may lead out of the folder, stated sizes may be wrong,
entries may be links. Only pictures are taken.
"""

from __future__ import annotations

import hashlib
import shutil
import stat
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipstill.core.errors import DataError
from clipstill.core.files import sha256_file, writing
from clipstill.core.images import IMAGE_SUFFIXES

MOST_FILES = 50_000
MOST_BYTES = 4 << 30
_LEFT_OUT = ".left-out"
_SUFFIXES = f"Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}."


@dataclass(frozen=True)
class Taken:
    """The photos of an upload."""

    folder: Path
    photos: int
    left_out: int  # Files that are no pictures.


def take_in(files: Sequence[Path], place: Path, labelled: bool) -> Taken:
    """Put uploaded photos into a folder of their own, the same folder for the same upload.

    Args:
        files: One zip, or photos.
        place: Folder for all uploads.
        labelled: Whether the photos belong to classes. Then a zip with one folder per class is needed; a single outer
            folder around the class folders is left out.

    Raises:
        DataError: The upload is damaged, too large, without photos, unsafe, or without labels where they are needed.
    """
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    if zips and len(files) > 1:
        raise DataError("give one zip, or photos without a zip, but not both.")
    if labelled and not zips:
        raise DataError(
            "photos of classes must come as a zip with one folder a class (dog/1.jpg, cat/1.jpg), or as the path of "
            "such a folder on this machine."
        )
    digests = "".join(sha256_file(file) for file in files)
    target = place / hashlib.sha256(digests.encode()).hexdigest()[:16]
    with writing(target):
        if not target.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=place, prefix=".tmp-") as temporary:
                fresh = Path(temporary) / "photos"
                fresh.mkdir()
                left_out = _unzip(zips[0], fresh, labelled) if zips else _copy(files, fresh)
                (fresh / _LEFT_OUT).write_text(str(left_out), encoding="ascii")
                fresh.rename(target)
        left_out = int((target / _LEFT_OUT).read_text(encoding="ascii"))
    photos = sum(1 for file in target.rglob("*") if file.is_file() and file.name != _LEFT_OUT)
    return Taken(target, photos, left_out)


def _copy(files: Sequence[Path], folder: Path) -> int:
    """Copy the pictures; return how many other files there are."""
    pictures = [file for file in files if file.suffix.lower() in IMAGE_SUFFIXES]
    if not pictures:
        raise DataError(f"none of the {len(files)} files is a photo. {_SUFFIXES}")
    for number, file in enumerate(pictures):
        shutil.copyfile(file, folder / f"{number:05d}{file.suffix.lower()}")
    return len(files) - len(pictures)


def _unzip(archive: Path, folder: Path, labelled: bool) -> int:
    """Unpack the pictures of a zip; return how many other files it holds."""
    try:
        with zipfile.ZipFile(archive) as opened:
            files = [(entry, _safe_path(entry, archive.name)) for entry in opened.infolist() if not entry.is_dir()]
            # File managers put files of their own beside the photos.
            files = [each for each in files if not each[1].name.startswith(".") and "__MACOSX" not in each[1].parts]
            pictures = [(entry, path) for entry, path in files if path.suffix.lower() in IMAGE_SUFFIXES]
            if not pictures:
                raise DataError(f"{archive.name} holds no photos. {_SUFFIXES}")
            if len(pictures) > MOST_FILES:
                raise DataError(f"{archive.name} holds more than {MOST_FILES:,} photos. Give fewer.")
            paths = [path for _, path in pictures]
            has_outer = len({path.parts[0] for path in paths}) == 1 and all(len(path.parts) > 2 for path in paths)
            room = MOST_BYTES
            for entry, path in pictures:
                inner = PurePosixPath(*path.parts[1:]) if labelled and has_outer else path
                room = _unpack(opened, entry, target=folder / inner, room=room)
            return len(files) - len(pictures)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError) as error:
        # Damaged, cut short, an unknown way of packing, or locked with a password.
        raise DataError(f"{archive.name} cannot be unpacked ({error}). Make the zip again.") from None


def _safe_path(entry: zipfile.ZipInfo, archive: str) -> PurePosixPath:
    name = entry.filename.replace("\\", "/")
    path = PurePosixPath(name)
    drive = ":" in name.partition("/")[0]
    if not path.parts or path.is_absolute() or drive or ".." in path.parts or "\0" in name:
        raise DataError(f"{archive} holds a file that would land outside its folder ('{name}'). It was not unpacked.")
    if stat.S_ISLNK(entry.external_attr >> 16):
        raise DataError(f"{archive} holds a link ('{name}'). It was not unpacked.")
    return path


def _unpack(opened: zipfile.ZipFile, entry: zipfile.ZipInfo, *, target: Path, room: int) -> int:
    """Write one file; return how many bytes may still come. Unpacked bytes count, not the sizes in the zip."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with opened.open(entry) as source, target.open("wb") as sink:
        while chunk := source.read(1 << 20):
            room -= len(chunk)
            if room < 0:
                raise DataError(f"the zip is larger than {MOST_BYTES >> 30} GB when unpacked. Give fewer photos.")
            sink.write(chunk)
    return room
