"""Reads image files safely and fits them to a model.

Only Pillow and numpy are used, so that the runtime, which works without torch, reads images by the same code as
training and evaluation.
"""

from __future__ import annotations

import functools
import io
import math
import os
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from clipstill.core.errors import DataError, PictureTooLargeError, reason_of
from clipstill.core.files import check_regular
from clipstill.core.paths import user_path
from clipstill.core.picture_kinds import decoders
from clipstill.core.progress import say

if TYPE_CHECKING:
    from clipstill.core.protocols import Preprocess

MAX_PIXELS = 64_000_000
_STRIP_PIXELS = 1 << 18  # Converted at once. Each is copied several times on its way to RGB.
BYTES = bytes | bytearray | memoryview
_OPENING = threading.Lock()
Diminished = Callable[[tuple[int, int]], tuple[int, int]]
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
# A JPEG is decoded at a fraction of its size that leaves this many times the pixels a side that a model needs.
_ENOUGH = 2


def read_fitted(
    source: Picture,
    preprocess: Preprocess,
    name: str | None = None,
    *,
    containers: bool = True,
    before_decoding: Callable[[int], object] = lambda pixels: None,
) -> np.ndarray:
    """Read one picture as a model sees it, uint8 (H, W, 3): ``load_rgb``, then ``fit``.

    A JPEG with at least four times the pixels a side that the model needs is decoded at a fraction of its size, by the
    format's own means, if both sides are multiples of it: else the last column and row would stand for fewer pixels
    than the others. The arguments and errors are those of ``load_rgb``.
    """
    least = math.ceil(_ENOUGH * max(preprocess.shape) / preprocess.crop_fraction)

    def diminished(size: tuple[int, int]) -> tuple[int, int]:
        parts = (part for part in (8, 4, 2) if min(size) >= part * least and not any(side % part for side in size))
        part = next(parts, 1)
        return size[0] // part, size[1] // part

    image, _ = load_with_size(source, name, diminished, containers=containers, before_decoding=before_decoding)
    return fit(image, preprocess)


def load_rgb(
    source: Picture,
    name: str | None = None,
    diminished: Diminished | None = None,
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
        diminished: Width and height of the file -> those that suffice: a JPEG is decoded at the least fraction of its
            size, which is quick, that has as many.
        containers: Whether HEIC and AVIF are read.
        before_decoding: Called with the number of pixels, which may take 17 bytes each while they are decoded.

    Raises:
        DataError: Missing, truncated, not an image, of another kind than those that are read, or larger than
            ``MAX_PIXELS``; an array of another shape or type.
    """
    return load_with_size(source, name, diminished, containers=containers, before_decoding=before_decoding)[0]


def load_with_size(
    source: Picture,
    name: str | None = None,
    diminished: Diminished | None = None,
    *,
    containers: bool = True,
    before_decoding: Callable[[int], object] = lambda pixels: None,
) -> tuple[Image.Image, tuple[int, int]]:
    """The picture of ``load_rgb``, and the width and height that it has upright and undiminished."""
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
            if _is_raw(image):
                raise DataError(
                    f"{shown} is a raw photo, of which only a small preview can be read. Convert it to JPEG."
                )
            if diminished is not None and image is not source:  # The caller's image stays as it is.
                image.draft("RGB", diminished(image.size))
            before_decoding(width * height)
            image.load()
            turn = _turn(image, shown)
            decoded = _to_rgb(image if turn is None else image.transpose(turn))
            if decoded is source:
                decoded = decoded.copy()
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


def _is_raw(image: Image.Image) -> bool:
    """Whether the first picture of a TIFF is marked as a small copy, as in DNG and NEF."""
    return bool(getattr(image, "tag_v2", {}).get(ExifTags.Base.NewSubfileType, 0) & 1)


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
    if image.format == "BMP" and image.mode == "RGBA" and not image.getchannel("A").getbbox():
        return image.convert("RGB")  # Programs of Windows leave the fourth byte at zero.
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


def fit(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """Resize an RGB image, then cut or pad it, as ``core.protocols.Preprocess`` says, by Pillow's antialiased kernels.

    The result is uint8 (H, W, 3), not yet scaled to [0, 1].
    """
    height, width = preprocess.shape
    if preprocess.resize_mode == "shortest":
        image = _cut_to_widest(image)
    resized, (left, top) = placement(image.size, preprocess)
    if resized != image.size:
        image = image.resize(resized, Image.Resampling[preprocess.interpolation.upper()])
    if preprocess.resize_mode == "longest":
        canvas = Image.new("RGB", (width, height), (preprocess.fill,) * 3)
        canvas.paste(image, (-left, -top))
        return np.array(canvas)
    return np.array(image.crop((left, top, left + width, top + height)), dtype=np.uint8)


def _cut_to_widest(image: Image.Image) -> Image.Image:
    """The centre of an image whose sides differ by more than ``WIDEST``, else the image."""
    width, height = image.size
    most = WIDEST * min(width, height)
    if max(width, height) <= most:
        return image
    keep_w, keep_h = min(width, most), min(height, most)
    left, top = (width - keep_w) // 2, (height - keep_h) // 2
    return image.crop((left, top, left + keep_w, top + keep_h))


def placement(size: tuple[int, int], preprocess: Preprocess) -> tuple[tuple[int, int], tuple[int, int]]:
    """Width and height of an image after the resize, and left and top of the window that the model sees.

    The corner of the window is negative where the image is padded. Roundings are those of torchvision and open_clip,
    for equal pixels: for a square the long side is rounded down, else both sides to the nearest pixel.

    Args:
        size: Width and height of the image.
    """
    width, height = size
    rows, columns = preprocess.shape
    ratios = (height / rows, width / columns)
    if preprocess.resize_mode == "squash":
        return (columns, rows), (0, 0)
    if preprocess.resize_mode == "longest":
        # At least a pixel: a strip may be thousands of times longer than wide.
        new_width, new_height = (max(1, round(side / max(ratios))) for side in size)
        return (new_width, new_height), (-((columns - new_width) // 2), -((rows - new_height) // 2))
    if rows == columns:
        short, side = min(size), max(rows, round(rows / preprocess.crop_fraction))
        new_width, new_height = width * side // short, height * side // short
    else:
        ratio = min(ratios) * preprocess.crop_fraction
        new_width, new_height = round(width / ratio), round(height / ratio)
    return (new_width, new_height), (round((new_width - columns) / 2), round((new_height - rows) / 2))
