"""Reads image files safely, cuts squares, and lists folders with one sub-folder per class.

Only Pillow and numpy are used, so that the runtime, which works without torch, reads images by the same code as
training and evaluation.
"""

from __future__ import annotations

import difflib
import functools
import io
import os
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clipstill.core.errors import DataError, PictureTooLargeError, reason_of
from clipstill.core.file_names import SYSTEM, is_of_the_system, visible
from clipstill.core.files import check_regular, user_path
from clipstill.core.names import class_key
from clipstill.core.progress import listed, say, warn

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".jpe", ".jfif", ".mpo", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
)
_SYSTEMS = "a folder of the system"
_RAW = "a kind of picture that is not read; convert it to JPEG"
_NO_IMAGES = dict.fromkeys((".heic", ".heif", ".avif", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw"), _RAW)
_NO_IMAGES |= {".dvc": "a pointer of DVC in place of the picture; fetch it"}
# Start of a text that a tool for large files puts in place of a file.
_POINTERS = {
    b"version https://git-lfs.github.com/spec/": "Git LFS",
    b"/annex/objects/": "git-annex",
    b"../.git/annex/objects/": "git-annex",
}
_LONGEST_POINTER = 1_024
MAX_PIXELS = 64_000_000
# Pillow has forty more, some of which start other programs (EPS runs Ghostscript), a risk with unknown images.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_OPENING = threading.Lock()
Picture = str | Path | bytes | BinaryIO | Image.Image | np.ndarray
# EXIF's orientation -> what turns the picture upright.
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = {_TURNS[orientation] for orientation in (5, 6, 7, 8)}
# Largest ratio of the sides when an image is resized; a strip of 60,000 x 1 pixels would need gigabytes.
WIDEST = 4


def load_rgb(source: Picture, name: str | None = None, smallest: int | None = None) -> Image.Image:
    """Read one picture as upright RGB; it looks the same in whichever form it is given.

    EXIF orientation is applied (a broken EXIF block is ignored, which is said), the first frame of an animation taken,
    transparency composited on white, 16-bit grey scaled to 8 bits, and grey of floating point in [0, 1] to [0, 255].
    Safe in threads and for untrusted bytes: few decoders are tried, and the size is checked first.

    Args:
        source: A path, the bytes of a file, an open seekable stream, a PIL image, or an array of uint8 (H, W, 3).
        name: Name for messages; by default the path of the file.
        smallest: A JPEG may be decoded at a fraction of its size, which is quick, if no side gets shorter than this.

    Raises:
        DataError: Missing, truncated, not an image, of a kind other than JPEG, PNG, WebP, GIF, BMP, TIFF and PPM, or
            larger than ``MAX_PIXELS``; an array of another shape or type.
    """
    return load_with_size(source, name, smallest)[0]


def load_with_size(
    source: Picture, name: str | None = None, smallest: int | None = None
) -> tuple[Image.Image, tuple[int, int]]:
    """The picture of ``load_rgb``, and the width and height that it has upright and undiminished."""
    source = user_path(source) if isinstance(source, str | Path) else source
    shown = name or (str(source) if isinstance(source, Path) else "the picture")
    try:
        with _open(source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureTooLargeError(_too_large(shown, f"{width} x {height} pixels"))
            if smallest is not None:
                image.draft("RGB", (smallest, smallest))
            image.load()
            turn = _turn(image, shown)
            decoded = _to_rgb(image if turn is None else image.transpose(turn))
            decoded.info = {}  # Without the EXIF block, which would turn the picture again.
            return decoded, (height, width) if turn in _SIDEWAYS else (width, height)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"there is no image {shown}. Check the path.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise PictureTooLargeError(_too_large(shown, "more pixels than can be opened safely")) from None
    except Exception as error:  # Decoders of damaged files raise anything: OSError, SyntaxError, struct.error.
        raise DataError(
            f"{shown} cannot be read as an image ({_reason(error, source)}). Replace it or leave it out."
        ) from None


def _open(source: Path | bytes | BinaryIO | Image.Image | np.ndarray) -> AbstractContextManager[Image.Image]:
    """The picture before it is decoded. An image of the caller's stays open."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, Path):
        check_regular(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] != (3,) or 0 in source.shape:
            raise DataError(f"an array of a picture is uint8 (H, W, 3), got {source.dtype} {source.shape}. Convert it.")
        return nullcontext(Image.fromarray(source))
    # One thread at a time, since warning filters are global. The size of large images is checked later.
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(io.BytesIO(source) if isinstance(source, bytes) else source, formats=_FORMATS)


def _turn(image: Image.Image, name: str) -> Image.Transpose | None:
    """What turns the picture upright; None where it is."""
    orientation: Any = None
    with _OPENING, warnings.catch_warnings(record=True) as damage:
        warnings.simplefilter("always")
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception as error:  # As many kinds of errors as there are ways to damage it.
            warnings.warn(reason_of(error), stacklevel=1)
    if damage:
        _say_once(f"{name}: its EXIF block is damaged and ignored ({str(damage[0].message).strip()})")
    return _TURNS.get(orientation)


@functools.lru_cache(maxsize=1024)
def _say_once(message: str) -> None:
    """Photos that teach are read in each epoch."""
    say(message)


def _reason(error: Exception, source: object) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a kind that is known: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
    reason = reason_of(error)
    return reason.replace(str(source), source.name) if isinstance(source, Path) else reason


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large ({size}; the limit is {MAX_PIXELS // 1_000_000} million). Scale it down first."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "F":
        values = np.nan_to_num(np.asarray(image))
        scale = 255 if values.min(initial=0) >= 0 and values.max(initial=0) <= 1 else 1
        return Image.fromarray((values * scale).round().clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255.
        values = np.asarray(image)
        shift = 8 if values.max(initial=0) > 255 else 0
        return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def fit_square(image: Image.Image, size: int, crop_fraction: float = 1.0) -> np.ndarray:
    """Scale the short side of an RGB image to ``round(size / crop_fraction)``, then cut the centre square.

    These are the steps of ``core.protocols.Preprocess`` before the scaling to [0, 1], by Pillow's antialiased bicubic.
    The result is uint8 (size, size, 3).
    """
    width, height = image.size
    short = min(width, height)
    if max(width, height) > WIDEST * short:
        keep_w, keep_h = min(width, WIDEST * short), min(height, WIDEST * short)
        left, top = (width - keep_w) // 2, (height - keep_h) // 2
        image = image.crop((left, top, left + keep_w, top + keep_h))
        width, height = image.size
    side = max(size, round(size / crop_fraction))
    # As in torchvision, sizes are rounded down and the corner of the crop to the nearest pixel, for equal pixels.
    new_width, new_height = width * side // short, height * side // short
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


@dataclass
class ImageFolder:
    """The photos of a folder with one sub-folder per class."""

    path: Path
    classes: tuple[str, ...]  # Class names of the task; a label is a position in it.
    items: list[tuple[Path, int]] = field(default_factory=list)  # File and label, sorted by label and path.
    skipped: list[tuple[Path, str]] = field(default_factory=list)  # Other files, and why they are skipped.

    @property
    def classes_without_images(self) -> list[str]:
        """Names of the classes that have no image."""
        present = {label for _, label in self.items}
        return [name for label, name in enumerate(self.classes) if label not in present]

    @classmethod
    def open(cls, path: Path | str, classes: Sequence[str]) -> ImageFolder:
        """List the images of the classes; names of folders match without case, spaces, underscores and hyphens.

        Folders that are not used are told and stand in ``skipped``.

        Raises:
            DataError: No such folder, no sub-folder that matches a class, no image in those that do, or a class without
                images beside a folder whose name nearly is its name.
        """
        path = user_path(path)
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder that holds one sub-folder per class.")
        by_key = {class_key(name): label for label, name in enumerate(classes)}
        names = [entry.name for entry in visible(path.iterdir()) if entry.is_dir()]
        matched = sorted((by_key[class_key(name)], name) for name in names if class_key(name) in by_key)
        meant = {name: _class_meant(name, classes) for name in names if class_key(name) not in by_key}
        if not matched:
            hints = _by_position(names, classes) or [f"'{n}' may be '{close}'" for n, close in meant.items() if close]
            raise DataError(
                f"no sub-folder of {path} is named after a class. Expected: {listed(classes)}; found: "
                f"{listed(names) or 'no sub-folders'}.{f' Rename them: {listed(hints)}.' if hints else ''}"
            )
        found = cls(path, tuple(classes))
        found._collect((path / name, label) for label, name in matched)
        if not found.items:
            raise DataError(
                f"the class folders of {path} ({listed([name for _, name in matched])}) hold no images. "
                f"Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}."
            )
        for name, close in meant.items():
            if close in found.classes_without_images:
                raise DataError(
                    f"the class '{close}' has no images in {path}, whose folder '{name}' is of no class. Rename it "
                    f"to '{close}', or to '.{name}' to leave it out."
                )
            found.skipped.append((path / name, f"no class is called '{name}'"))
        found._tell_skipped()
        return found

    @classmethod
    def without_labels(cls, path: Path | str) -> ImageFolder:
        """List all images of a folder and its sub-folders; the label of each is -1.

        Raises:
            DataError: No such folder, or no image in it.
        """
        path = user_path(path)
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder of photos.")
        found = cls(path, ())
        found._collect([(path, -1)])
        if not found.items:
            raise DataError(f"{path} holds no images. Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}.")
        found._tell_skipped()
        return found

    def _collect(self, folders: Iterable[tuple[Path, int]]) -> None:
        def unlisted(error: OSError) -> None:
            self.skipped.append((Path(str(error.filename)), f"cannot be listed ({error.strerror})"))

        for folder, label in folders:
            for root, below, names in os.walk(folder, onerror=unlisted):
                self.skipped += [(Path(root, name), _SYSTEMS) for name in below if SYSTEM.match(name)]
                below[:] = sorted(name for name in below if not is_of_the_system(name))
                for file in (Path(root, name) for name in sorted(names) if not is_of_the_system(name)):
                    reason = _why_no_image(file)
                    if reason is None:
                        self.items.append((file, label))
                    else:
                        self.skipped.append((file, reason))
        self.items.sort(key=lambda item: (item[1], item[0]))

    def _tell_skipped(self) -> None:
        if self.skipped:
            # Whole folders must not be missed.
            tell = warn if any(path.is_dir() for path, reason in self.skipped if reason != _SYSTEMS) else say
            reasons = [f"{path.relative_to(self.path)} ({reason})" for path, reason in self.skipped]
            tell(f"{self.path}: not used: {listed(reasons, most=5)}")


def _by_position(folders: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Which class each folder ``0``, ``1``, ... would be if they count the classes; none for other folders."""
    numbers = {int(name): name for name in folders if name.isdecimal()}
    if not numbers or len(numbers) < len(folders):
        return []
    first = min(numbers)
    if first > 1 or max(numbers) - first >= len(classes):
        return []
    hints = [f"'{name}' would be class {n - first + 1}, '{classes[n - first]}'" for n, name in sorted(numbers.items())]
    return [f"numbers are not matched by position; counted in the order of the classes, {hints[0]}", *hints[1:]]


def _class_meant(folder: str, classes: Sequence[str]) -> str | None:
    """The class that a folder without one is probably for: a plural, a singular, or another spelling."""
    keys = {class_key(name): name for name in classes}
    close = difflib.get_close_matches(class_key(folder), list(keys), n=1, cutoff=0.75)
    return keys[close[0]] if close else None


def _why_no_image(file: Path) -> str | None:
    """Why a file counts as no image, by its name and the start of its content; None where it may be one."""
    suffix = file.suffix.lower()
    if file.is_symlink() and not file.exists():
        return f"a link to {file.readlink()}, which is not there"
    if not file.is_file():
        return "no file"
    if suffix not in IMAGE_SUFFIXES:
        return _NO_IMAGES.get(suffix, f"not an image file type ({file.suffix or 'no suffix'})")
    if file.stat().st_size < _LONGEST_POINTER:
        start = file.read_bytes()
        for pointer, tool in _POINTERS.items():
            if start.startswith(pointer):
                return f"a pointer of {tool} in place of the picture; fetch it"
    return None


def iterate(
    folder: ImageFolder,
    size: int,
    crop_fraction: float,
    batch: int,
    on_skip: Callable[[Path, str], None] = lambda path, reason: None,
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Read the folder in batches of at most ``batch`` images, cut by ``fit_square``.

    A file that cannot be read is skipped; ``on_skip`` is called with its path and the reason.

    Yields:
        uint8 (N, size, size, 3), N labels; N >= 1.
    """
    read: list[tuple[np.ndarray, int]] = []
    for place, (path, label) in enumerate(folder.items, 1):
        try:
            read.append((fit_square(load_rgb(path), size, crop_fraction), label))
        except DataError as error:
            on_skip(path, str(error))
        if read and (len(read) == batch or place == len(folder.items)):
            squares, labels = zip(*read, strict=True)
            yield np.stack(squares), list(labels)
            read = []
