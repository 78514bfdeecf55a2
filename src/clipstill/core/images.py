"""Reads image files safely, cuts squares, and lists folders with one sub-folder per class.

Only Pillow and numpy are used, so that the runtime, which works without torch, reads images by the same code as
training and evaluation.
"""

from __future__ import annotations

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
from clipstill.core.file_names import SYSTEM, is_of_the_system
from clipstill.core.files import check_regular
from clipstill.core.names import by_position, class_key, class_meant, labels_of_folders
from clipstill.core.paths import user_path
from clipstill.core.picture_kinds import IMAGE_SUFFIXES, decoders, why_no_picture
from clipstill.core.progress import listed, say, warn

_SYSTEMS = "a folder of the system"
MAX_PIXELS = 64_000_000
_STRIP_PIXELS = 1 << 18  # Converted at once. Each is copied several times on its way to RGB.
BYTES = bytes | bytearray | memoryview
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
# Largest ratio of the sides when an image is resized; a strip of 60,000 x 1 pixels would need gigabytes.
WIDEST = 4


def load_rgb(
    source: Picture,
    name: str | None = None,
    smallest: int | None = None,
    *,
    containers: bool = True,
    before_decoding: Callable[[int], object] = lambda pixels: None,
) -> Image.Image:
    """Read one picture as upright RGB; it looks the same in whichever form it is given.

    EXIF orientation is applied (a broken EXIF block is ignored, which is said), the first frame of an animation taken,
    transparency composited on white, 16-bit grey scaled to 8 bits, and grey of floating point to [0, 255].
    Safe in threads and for untrusted bytes: few decoders are tried, and the size is checked first. HEIC needs the extra
    ``heic``, AVIF a Pillow with it. These are containers, which may state another size than the picture inside them.

    Args:
        source: A path, the bytes of a file, an open seekable stream, a PIL image, or an array of uint8 (H, W, 3).
        name: Name for messages; by default the path of the file.
        smallest: A JPEG may be decoded at a fraction of its size, which is quick, if no side gets shorter than this.
        containers: Whether HEIC and AVIF are read.
        before_decoding: Called with the number of pixels, which may take 17 bytes each while they are decoded.

    Raises:
        DataError: Missing, truncated, not an image, of another kind than those that are read, or larger than
            ``MAX_PIXELS``; an array of another shape or type.
    """
    source = user_path(source) if isinstance(source, str | os.PathLike) else source
    shown = name or (str(source) if isinstance(source, Path) else "the picture")
    try:
        with _open(source, containers) as image:
            width, height = image.size
            if not width * height:
                raise DataError(f"{shown} has no pixels ({width} x {height}). Leave it out.")
            if width * height > MAX_PIXELS:
                raise PictureTooLargeError(_too_large(shown, f"{width} x {height} pixels"))
            tile_width, tile_height = _tile(image)
            if tile_width * tile_height > MAX_PIXELS:
                raise PictureTooLargeError(_too_large(shown, f"tiles of {tile_width} x {tile_height} pixels"))
            if smallest is not None:
                image.draft("RGB", (smallest, smallest))
            before_decoding(width * height)
            image.load()
            decoded = _to_rgb(_upright(image, shown))
            if decoded is source:
                decoded = decoded.copy()
            decoded.info = {}  # Without the EXIF block, which would turn the picture again.
            return decoded
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


def _open(
    source: Path | bytes | BinaryIO | Image.Image | np.ndarray, containers: bool
) -> AbstractContextManager[Image.Image]:
    """The picture before it is decoded. An image of the caller's stays open."""
    if isinstance(source, Image.Image):
        return nullcontext(source)
    if isinstance(source, Path):
        check_regular(source)
    if isinstance(source, np.ndarray):
        if source.dtype != np.uint8 or source.shape[2:] != (3,) or 0 in source.shape:
            raise DataError(f"an array of a picture is uint8 (H, W, 3), got {source.dtype} {source.shape}. Convert it.")
        return nullcontext(Image.fromarray(source))
    if not isinstance(source, Path | BYTES) and not hasattr(source, "read"):
        raise DataError(
            f"a picture is a path, bytes, an open file, an image or an array, got {type(source).__name__}. Give "
            f"several as a list."
        )
    stream = io.BytesIO(source) if isinstance(source, BYTES) else source
    # One thread at a time, since warning filters are global. The size of large images is checked later.
    with _OPENING, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Also what Pillow says of damaged metadata, with places in its own code.
        return Image.open(stream, formats=decoders(stream, containers))


def _tile(image: Image.Image) -> tuple[int, int]:
    """Width and height of a TIFF's tiles, which are decoded whole even where the picture is smaller."""
    tags = getattr(image, "tag_v2", {})
    width, height = (tags.get(tag, 1) for tag in (ExifTags.Base.TileWidth, ExifTags.Base.TileLength))
    return int(width), int(height)


def _upright(image: Image.Image, name: str) -> Image.Image:
    orientation: Any = None
    with _OPENING, warnings.catch_warnings(record=True) as damage:
        warnings.simplefilter("always")
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except Exception as error:  # As many kinds of errors as there are ways to damage it.
            warnings.warn(reason_of(error), stacklevel=1)
    if damage:
        say(f"{name}: its EXIF block is damaged and ignored ({str(damage[0].message).strip()})")
    turn = _TURNS.get(orientation)
    return image if turn is None else image.transpose(turn)


def _reason(error: Exception, source: object) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a kind that is known: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
    reason = error.strerror if isinstance(error, OSError) and error.strerror else reason_of(error)
    return reason.replace(str(source), source.name) if isinstance(source, Path) else reason


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large ({size}; the limit is {MAX_PIXELS // 1_000_000} million). Scale it down first."


def _to_rgb(image: Image.Image) -> Image.Image:
    """RGB on white; the image itself where it is that already."""
    if image.mode == "F":
        # The largest number tells the range: [0, 1], 8 or 16 bits, with room for what resampling overshoots.
        most = max(float(_finite(np.asarray(strip)).max(initial=0)) for _, strip in _strips(image))
        scale = 255 if most <= 2 else 1 if most <= 2 * 255 else 1 / 256
        return _by_strips(image, lambda values_HW: (_finite(values_HW) * scale).round())
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255.
        bits = getattr(image, "tag_v2", {}).get(ExifTags.Base.BitsPerSample, (16,))[0]  # 12 in TIFFs of some cameras.
        is_deep = any(np.asarray(strip).max(initial=0) > 255 for _, strip in _strips(image))
        shift = min(bits - 8, 8) if is_deep else 0
        return _by_strips(image, lambda values_HW: values_HW >> shift)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        whole = Image.new("RGB", image.size)
        for top, strip in _strips(image):
            layered = strip.convert("RGBA")
            white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
            whole.paste(Image.alpha_composite(white, layered).convert("RGB"), (0, top))
        return whole
    return image if image.mode == "RGB" else image.convert("RGB")


def _finite(values_HW: np.ndarray) -> np.ndarray:
    finite_HW: np.ndarray = np.nan_to_num(values_HW, posinf=0, neginf=0)
    return finite_HW


def _by_strips(image: Image.Image, to_grey: Callable[[np.ndarray], np.ndarray]) -> Image.Image:
    """RGB of deep grey whose values ``to_grey`` brings to [0, 255]; others are clipped."""
    whole = Image.new("RGB", image.size)
    for top, strip in _strips(image):
        grey_HW = to_grey(np.asarray(strip)).clip(0, 255).astype(np.uint8)
        whole.paste(Image.fromarray(grey_HW).convert("RGB"), (0, top))
    return whole


def _strips(image: Image.Image) -> Iterator[tuple[int, Image.Image]]:
    """Rows of an image, some at a time, each with the number of its first row."""
    width, height = image.size
    rows = max(1, _STRIP_PIXELS // max(1, width))
    for top in range(0, height, rows):
        yield top, image.crop((0, top, width, min(top + rows, height)))


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
    def open(cls, path: Path | str, classes: Sequence[str], *, allow_unmatched: bool = False) -> ImageFolder:
        """List the images of the classes; names of folders match without case, spaces, underscores and hyphens.

        Folders that are not used are told and stand in ``skipped``.

        Raises:
            DataError: No such folder, no sub-folder that matches a class, no image in those that do, or a class without
                images beside a folder whose name nearly is its name, unless ``allow_unmatched``.
        """
        path = user_path(path)
        entries = _entries(path)
        labels = labels_of_folders([entry.name for entry in entries if entry.is_dir()], classes)
        # A class may be called ".NET".
        entries = [entry for entry in entries if entry.name in labels or not is_of_the_system(entry.name)]
        names = [entry.name for entry in entries if entry.is_dir()]
        matched = sorted((label, name) for name, label in labels.items())
        meant = {name: class_meant(name, classes) for name in names if name not in labels}
        if not matched:
            hints = by_position(names, classes) or [f"'{n}' may be '{close}'" for n, close in meant.items() if close]
            raise DataError(
                f"no sub-folder of {path} is named after a class. Expected: {listed(classes)}; found: "
                f"{listed(names) or 'no sub-folders'}.{f' Rename them: {listed(hints)}.' if hints else ''}"
            )
        found = cls(path, tuple(classes))
        found._collect((path / name, label) for label, name in matched)
        if not found.items:
            raise DataError(
                f"the class folders of {path} ({listed([name for _, name in matched])}) hold no images. {_known(found)}"
            )
        for name, close in meant.items():
            if close in found.classes_without_images and not allow_unmatched:
                raise DataError(
                    f"the class '{close}' has no images in {path}, whose folder '{name}' is of no class. Rename it "
                    f"to '{close}', or to '.{name}' to leave it out; or go on without it: --allow-unmatched, or "
                    f"the setting allow_unmatched=true."
                )
            found.skipped.append((path / name, f"no class is called '{name}'"))
        found.skipped += [
            (entry, why_no_picture(entry) or "beside the class folders") for entry in entries if not entry.is_dir()
        ]
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
            raise DataError(f"{path} holds no images. {_known(found)}")
        found._tell_skipped()
        return found

    def _collect(self, folders: Iterable[tuple[Path, int]]) -> None:
        def unlisted(error: OSError) -> None:
            self.skipped.append((Path(str(error.filename)), f"cannot be listed ({error.strerror})"))

        for folder, label in folders:
            for root, below, names in os.walk(folder, onerror=unlisted):
                self.skipped += [(Path(root, name), _SYSTEMS) for name in below if SYSTEM.match(name)]
                below[:] = sorted(name for name in below if not is_of_the_system(name))
                # Path.is_symlink would raise where a name is too long.
                links = [path for path in (Path(root, name) for name in below) if os.path.islink(path)]  # noqa: PTH114
                self.skipped += [(path, "a link to a folder, which is not followed") for path in links]
                for file in (Path(root, name) for name in sorted(names) if not is_of_the_system(name)):
                    reason = why_no_picture(file)
                    if reason is None:
                        self.items.append((file, label))
                    else:
                        self.skipped.append((file, reason))
        self.items.sort(key=lambda item: (item[1], item[0]))

    @property
    def not_used(self) -> str:
        """The first files and folders that are skipped, each with its reason; empty where none is."""
        return listed([f"{path.relative_to(self.path)} ({reason})" for path, reason in self.skipped], most=5)

    def _tell_skipped(self) -> None:
        if self.skipped:
            # Whole folders and classes must not be missed. Path.is_file would raise where their names are too long.
            keys = {class_key(name) for name in self.classes}
            told = [path for path, reason in self.skipped if reason != _SYSTEMS]
            missed = (not os.path.isfile(path) or class_key(path.stem) in keys for path in told)  # noqa: PTH113
            tell = warn if any(missed) else say
            tell(f"{self.path}: not used: {self.not_used}")


def _entries(path: Path) -> list[Path]:
    try:
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder that holds one sub-folder per class.")
        return sorted(path.iterdir())
    except OSError as error:
        raise DataError(
            f"the image folder {path} cannot be listed ({error.strerror}). Check its permissions."
        ) from None


def _known(folder: ImageFolder) -> str:
    suffixes = f"Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}."
    return f"{suffixes} Not used: {folder.not_used}." if folder.skipped else suffixes


def _say_skipped(path: Path, reason: str) -> None:
    say(f"skipped: {reason}")


def iterate(
    folder: ImageFolder,
    size: int,
    crop_fraction: float,
    batch: int,
    on_skip: Callable[[Path, str], None] = _say_skipped,
) -> Iterator[tuple[np.ndarray, list[int]]]:
    """Read the folder in batches of at most ``batch`` images, cut by ``fit_square``.

    A file that cannot be read is skipped; ``on_skip`` is called with its path and the reason, and by default says so.

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
