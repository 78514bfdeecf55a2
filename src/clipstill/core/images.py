"""Pictures from files: read safely, cut to a square, walked through by class.

Only Pillow and numpy are used, so that the runtime, which ships to machines without torch, reads pictures by the same
code as training and evaluation.

Shapes: N images, H x W pixels, RGB order, uint8.
"""

from __future__ import annotations

import threading
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from clipstill.core.errors import DataError, PictureTooLargeError

IMAGE_SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"})
MAX_PIXELS = 64_000_000
# Pillow knows forty more, some of which start other programs (EPS runs Ghostscript); pictures come from strangers.
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
_OPENING = threading.Lock()
# A panorama wider than this is cut before it is resized: a strip of 60,000 x 1 would need gigabytes otherwise.
WIDEST = 4


def load_rgb(source: Path | BinaryIO, name: str | None = None) -> Image.Image:
    """Read one picture as upright RGB.

    Turned as its EXIF orientation says; the first frame of an animation; transparency composited on white; 16-bit grey
    scaled to 8. Safe in several threads at once, and for bytes from anywhere: only decoders of the kinds below are
    tried, and the size is looked at before anything is decoded.

    Args:
        source: a file, or an open stream of bytes that can be read from any place, such as an upload.
        name: what messages call it; the path of a file where it is None.

    Raises:
        DataError: absent, not an image, of a kind other than JPEG, PNG, WebP, GIF, BMP, TIFF and PPM, truncated, or
            larger than ``MAX_PIXELS``.
    """
    shown = name or (str(source) if isinstance(source, Path) else "the picture")
    try:
        with _open_lazily(source) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                raise PictureTooLargeError(_too_large(shown, f"{width} x {height} pixels"))
            image.load()
            return _to_rgb(ImageOps.exif_transpose(image))
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


def _open_lazily(source: Path | BinaryIO) -> Image.Image:
    """The picture's header. The filters of warnings are the whole process's, so one thread at a time."""
    with _OPENING, warnings.catch_warnings():
        # Pillow warns of large pictures from 89 million pixels on; the limit here is lower and is an error.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        return Image.open(source, formats=_FORMATS)


def _reason(error: Exception, source: Path | BinaryIO) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "no picture of a kind that is known: JPEG, PNG, WebP, GIF, BMP, TIFF or PPM"
    lines = str(error).splitlines()
    detail = lines[0] if lines else type(error).__name__
    return detail.replace(str(source), source.name) if isinstance(source, Path) else detail


def _too_large(name: str, size: str) -> str:
    return f"{name} is too large ({size}; the limit is {MAX_PIXELS // 1_000_000} million). Scale it down first."


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # Pillow's own conversion clips 16-bit grey at 255, which turns such photos white.
        values = np.asarray(image)
        shift = 8 if values.max(initial=0) > 255 else 0
        return Image.fromarray((values >> shift).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layered = image.convert("RGBA")
        white = Image.new("RGBA", layered.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layered).convert("RGB")
    return image.convert("RGB")


def fit_square(image: Image.Image, size: int, crop_fraction: float = 1.0) -> np.ndarray:
    """Scale the short side to ``round(size / crop_fraction)``, then cut the centre square.

    Bicubic with antialias (Pillow's); the steps that ``core.protocols.Preprocess`` names, before the scaling to [0, 1].

    Args:
        image: RGB.
        size: side of the result in pixels.
        crop_fraction: share of the short side that is kept, in (0, 1].

    Returns:
        uint8 (size, size, 3).
    """
    width, height = image.size
    short = min(width, height)
    if max(width, height) > WIDEST * short:
        keep_w, keep_h = min(width, WIDEST * short), min(height, WIDEST * short)
        left, top = (width - keep_w) // 2, (height - keep_h) // 2
        image = image.crop((left, top, left + keep_w, top + keep_h))
        width, height = image.size
    side = max(size, round(size / crop_fraction))
    # Cut off, not rounded, and the crop's corner rounded: torchvision's way, so that its users get equal pixels.
    new_width, new_height = width * side // short, height * side // short
    if (new_width, new_height) != (width, height):
        image = image.resize((new_width, new_height), Image.Resampling.BICUBIC)
    left, top = round((new_width - size) / 2), round((new_height - size) / 2)
    return np.array(image.crop((left, top, left + size, top + size)), dtype=np.uint8)


def _name_key(name: str) -> str:
    """What two spellings of a class share: letters and digits, without case, space, underscore or hyphen."""
    folded = unicodedata.normalize("NFKC", name).casefold()
    return "".join(letter for letter in folded if not letter.isspace() and letter not in "_-")


@dataclass
class ImageFolder:
    """A folder of photos with one sub-folder a class.

    Attributes:
        path: the folder.
        classes: the names of the task, in its order; labels are positions in it.
        items: (file, label), sorted by label and path.
        skipped: (file, reason) of files that are no images by their suffix.
        unmatched_folders: sub-folders that belong to no class of the task; ignored.
    """

    path: Path
    classes: tuple[str, ...]
    items: list[tuple[Path, int]] = field(default_factory=list)
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    unmatched_folders: list[str] = field(default_factory=list)

    @property
    def classes_without_images(self) -> list[str]:
        """Names of the task for which the folder holds no picture."""
        present = {label for _, label in self.items}
        return [name for label, name in enumerate(self.classes) if label not in present]

    @classmethod
    def open(cls, path: Path | str, classes: Sequence[str]) -> ImageFolder:
        """List the pictures of the classes; folder names match without case, spaces, underscores and hyphens.

        Raises:
            DataError: no such folder, no sub-folder that matches a class, or no picture in those that do.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder that holds one sub-folder a class.")
        exact = {name: label for label, name in enumerate(classes)}
        by_key: dict[str, int] = {}
        for label, name in enumerate(classes):
            by_key.setdefault(_name_key(name), label)
        found = cls(path, tuple(classes))
        matched: list[tuple[int, Path]] = []
        try:
            folders = sorted(entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))
            for entry in folders:
                match = exact.get(entry.name, by_key.get(_name_key(entry.name)))
                if match is None:
                    found.unmatched_folders.append(entry.name)
                else:
                    matched.append((match, entry))
            for label, entry in sorted(matched):
                found._collect(entry, label)
        except OSError as error:
            raise DataError(f"{path} cannot be listed ({error.strerror or error}). Check its permissions.") from None
        if not matched:
            raise DataError(
                f"no sub-folder of {path} is named after a class. Expected: {_some(classes)}; found: "
                f"{_some([entry.name for entry in folders]) or 'no sub-folders'}."
            )
        if not found.items:
            raise DataError(
                f"the class folders of {path} ({_some([entry.name for _, entry in matched])}) hold no images. "
                f"Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}."
            )
        return found

    @classmethod
    def without_labels(cls, path: Path | str) -> ImageFolder:
        """List all pictures of a folder and its sub-folders; the label of each is -1.

        Raises:
            DataError: no such folder, or no picture in it.
        """
        path = Path(path)
        if not path.is_dir():
            raise DataError(f"there is no image folder {path}. Give a folder of photos.")
        found = cls(path, ())
        try:
            found._collect(path, -1)
        except OSError as error:
            raise DataError(f"{path} cannot be listed ({error.strerror or error}). Check its permissions.") from None
        if not found.items:
            raise DataError(f"{path} holds no images. Known suffixes: {' '.join(sorted(IMAGE_SUFFIXES))}.")
        return found

    def _collect(self, folder: Path, label: int) -> None:
        for file in sorted(folder.rglob("*")):
            if file.name.startswith(".") or not file.is_file():
                continue
            if file.suffix.lower() in IMAGE_SUFFIXES:
                self.items.append((file, label))
            else:
                self.skipped.append((file, f"not an image file type ({file.suffix or 'no suffix'})"))


def _some(names: Sequence[str], limit: int = 8) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:limit])
    return f"{shown} and {len(names) - limit} more" if len(names) > limit else shown


def iterate(
    folder: ImageFolder,
    size: int,
    crop_fraction: float,
    batch: int,
    on_skip: Callable[[Path, str], None],
) -> Iterator[tuple[np.ndarray, list[int], list[Path]]]:
    """Read the folder in batches; files that cannot be read are reported, left out, and never end the walk.

    Args:
        folder: what to read.
        size: side of the squares in pixels.
        crop_fraction: see ``fit_square``.
        batch: most images a batch.
        on_skip: called with the path and the reason for each file left out.

    Yields:
        uint8 (N, size, size, 3), N labels, N paths; N >= 1.
    """
    squares: list[np.ndarray] = []
    labels: list[int] = []
    paths: list[Path] = []
    for path, label in folder.items:
        try:
            squares.append(fit_square(load_rgb(path), size, crop_fraction))
        except DataError as error:
            on_skip(path, str(error))
            continue
        labels.append(label)
        paths.append(path)
        if len(squares) == batch:
            yield np.stack(squares), labels, paths
            squares, labels, paths = [], [], []
    if squares:
        yield np.stack(squares), labels, paths
