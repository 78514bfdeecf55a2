"""Photos that come in through the page: a zip, or single files, into a folder of the workspace.

Only pictures are taken. A zip may come from anybody: ``zipfile`` keeps what it extracts inside the folder, makes no
links, and reads no more bytes of a file than the zip states.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from clipstill.core.archives import opened_zip
from clipstill.core.errors import DataError
from clipstill.core.file_names import SYSTEM, is_of_the_system, visible
from clipstill.core.files import TEMPORARY, sha256_file, sweep, writing
from clipstill.core.picture_kinds import IMAGE_SUFFIXES, why_no_picture_name
from clipstill.core.progress import listed

MOST_FILES = 50_000
MOST_BYTES = 4 << 30
# No upload takes longer to unpack; another page may be unpacking one.
_UNPACKED_SECONDS = 86_400.0


@dataclass(frozen=True)
class Taken:
    """The photos of an upload."""

    folder: Path
    photos: int
    left_out: tuple[str, ...]  # Files that are no pictures, each with the reason.


def take_in(files: Sequence[Path], place: Path, labelled: bool) -> Taken:
    """Put uploaded photos into a folder of their own, the same folder for the same upload.

    Args:
        files: One zip, or photos.
        place: Folder for all uploads.
        labelled: Whether they are a zip with one folder per class. Then a single outer folder around these is left out.

    Raises:
        DataError: The upload is damaged, too large, or without photos.
    """
    zips = [file for file in files if file.suffix.lower() == ".zip"]
    if zips and len(files) > 1:
        raise DataError("give one zip, or photos without a zip, but not both.")
    digests = "".join(sha256_file(file) for file in files)
    target = place / hashlib.sha256(digests.encode()).hexdigest()[:16]
    with writing(target), opened_zip(zips[0]) if zips else nullcontext() as archive:
        entries = {} if archive is None else _entries_in(archive, labelled)
        names = [str(file) for file in files] if archive is None else list(entries)
        reasons = {name: why_no_picture_name(PurePosixPath(name)) for name in names}
        pictures = [name for name in names if reasons[name] is None]
        left_out = tuple(f"{_shown(name, archive)} ({reason})" for name, reason in reasons.items() if reason)
        if not pictures:
            known = " ".join(sorted(IMAGE_SUFFIXES))
            told = f": {listed(left_out, most=3)}" if left_out else ""
            raise DataError(f"none of the {len(names)} files is a photo{told}. Known suffixes: {known}.")
        if not target.is_dir():
            place.mkdir(parents=True, exist_ok=True)
            sweep(place, _UNPACKED_SECONDS)
            with tempfile.TemporaryDirectory(dir=place, prefix=TEMPORARY) as temporary:
                _fill(Path(temporary) / "photos", pictures, archive, entries).rename(target)
    photos = sum(1 for file in target.rglob("*") if file.is_file())
    return Taken(_without_outer(target) if labelled else target, photos, left_out)


def _shown(name: str, archive: zipfile.ZipFile | None) -> str:
    return name if archive is not None else Path(name).name


def _entries_in(archive: zipfile.ZipFile, labelled: bool) -> dict[str, zipfile.ZipInfo]:
    """The files in a zip by their names, without those that file managers put beside the photos."""
    found = {}
    for entry in archive.infolist():
        if not entry.flag_bits & 0x800:  # Macs write UTF-8 without saying so.
            with suppress(UnicodeError):
                entry.filename = entry.filename.encode("cp437").decode()
        entry.filename = entry.filename.replace("\\", "/")  # As older programs of Windows write it.
        *folders, file = PurePosixPath(entry.filename).parts
        # A class may be called ".NET"; other folders whose names begin with a dot are left out once it is unpacked.
        is_other = SYSTEM.match if labelled else is_of_the_system
        if not (entry.is_dir() or is_of_the_system(file) or any(map(is_other, folders))):
            found[entry.filename] = entry
    return found


def _fill(
    folder: Path,
    pictures: Sequence[str],
    archive: zipfile.ZipFile | None,
    entries: Mapping[str, zipfile.ZipInfo],
) -> Path:
    """Make a folder of pictures: those of a zip by their names there, or files by their paths."""
    folder.mkdir()
    if archive is None:
        for number, path in enumerate(pictures):
            shutil.copyfile(path, folder / f"{number:05d}{Path(path).suffix.lower()}")
        return folder
    size = sum(entries[name].file_size for name in pictures)
    if len(pictures) > MOST_FILES or size > MOST_BYTES:
        raise DataError(f"the zip holds more than {MOST_FILES:,} photos or {MOST_BYTES >> 30} GB. Give fewer photos.")
    archive.extractall(folder, [entries[name] for name in pictures])
    return folder


def _without_outer(folder: Path) -> Path:
    """The only folder inside, if it holds nothing but folders; else the folder itself."""
    inside = visible(folder.iterdir())
    has_outer = len(inside) == 1 and inside[0].is_dir() and all(entry.is_dir() for entry in inside[0].iterdir())
    return inside[0] if has_outer else folder
