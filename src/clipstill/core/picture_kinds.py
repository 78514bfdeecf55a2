"""Which files are pictures: suffixes, decoders by the first bytes, and files that stand in place of one."""

from __future__ import annotations

import importlib.util
import io
import os
from pathlib import Path, PurePath
from typing import BinaryIO

from clipstill.core.files import stand_in


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ImportError:
        return False


# Pillow is built with or without AVIF; HEIC, which phones take, is read by the extra heic.
_AVIF, _HEIF = _is_there("PIL._avif"), _is_there("pillow_heif")
IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
    | ({".avif"} if _AVIF else set())
    | ({".heic", ".heif"} if _HEIF else set())
)
_RAW = "a kind of picture that is not read; convert it to JPEG"
_HEIC = "a HEIC picture: pip install 'clipstill[heic]', or convert it to JPEG"
_NO_IMAGES = dict.fromkeys((".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"), _RAW)
_NO_IMAGES |= {".heic": _HEIC, ".heif": _HEIC}
_NO_IMAGES |= {".dvc": "a pointer of DVC in place of the picture; fetch it"}
_LONGEST_POINTER = 1_024
_GAP = 4_096  # Zeros at the end of a file from which on it is looked at.
# Pillow has forty more, some of which start other programs (EPS runs Ghostscript), a risk with unknown images.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


def _start(source: Path | BinaryIO) -> bytes:
    """The first bytes of a file, whose end is there too.

    Raises:
        OSError: The file cannot be opened, its end was not copied, or it is a stream that cannot go back.
    """
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return _start(stream)
    try:
        source.seek(-min(_GAP, source.seek(0, os.SEEK_END)), os.SEEK_END)
        is_suspect = not any(source.read())
        source.seek(0)  # As Pillow does.
        start = source.read(12)
    except (AttributeError, io.UnsupportedOperation):
        raise OSError("it is a stream that cannot go back; give the bytes that it holds") from None
    if is_suspect and start:
        source.seek(0)
        whole = source.read()
        content = whole.rstrip(b"\0")
        # Some cameras write zeros behind the end. Without the end, decoders show grey for what is not there.
        is_cut = start[:2] == b"\xff\xd8" and not content.endswith(b"\xff\xd9")
        is_cut |= start[8:] == b"WEBP" and int.from_bytes(start[4:8], "little") - len(content) > _GAP // 2
        if is_cut and len(whole) - len(content) >= _GAP:
            raise OSError("it ends in zeros, as after a download or copy that was cut short")
    return start


def decoders(source: Path | BinaryIO, containers: bool) -> tuple[str, ...]:
    """Decoders that are tried for a file, by Pillow's names; those of containers are loaded for their files only.

    Raises:
        OSError: As ``_start``, the file is a zip, or it needs the extra ``heic``.
    """
    start = _start(source)
    if start[:4] == b"PK\3\4":
        raise OSError("it is a zip, not a photo; unpack it and give its folder")
    if not containers:
        return FORMATS
    brand = start[8:12] if start[4:8] == b"ftyp" else b""
    if _AVIF and brand in (b"avif", b"avis"):
        from PIL import AvifImagePlugin  # noqa: F401 - registers itself

        return ("AVIF",)
    if brand in _HEIF_BRANDS:
        if not _HEIF:
            raise OSError(_HEIC)
        from pillow_heif import register_heif_opener

        register_heif_opener()
        return ("HEIF",)
    return FORMATS


def why_no_picture_name(file: PurePath) -> str | None:
    """Why a file counts as no image, by its name alone; None where it may be one."""
    suffix = file.suffix.lower()
    if suffix in IMAGE_SUFFIXES:
        return None
    return _NO_IMAGES.get(suffix, f"not an image file type ({file.suffix or 'no suffix'})")


def why_no_picture(file: Path) -> str | None:
    """Why a file counts as no image, by its name and the start of its content; None where it may be one."""
    try:
        return _why_unsuitable(file)
    except OSError as error:
        return f"cannot be read ({error.strerror})"


def _why_unsuitable(file: Path) -> str | None:
    if file.is_symlink() and not file.exists():
        return f"a link to {file.readlink()}, which is not there"
    if not file.is_file():
        return "no file"
    if other := why_no_picture_name(file):
        return other
    if not os.access(file, os.R_OK):
        return "cannot be read (Permission denied)"
    if file.stat().st_size < _LONGEST_POINTER:
        instead = stand_in(file.read_bytes())
        return instead and f"{instead} in place of the picture; fetch it"
    return None
