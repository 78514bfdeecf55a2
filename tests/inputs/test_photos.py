"""Photos as people and attackers have them: what is seen at their centre, or the reason why they are not read."""

from __future__ import annotations

import io
import math
import os
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path, PurePath
from typing import Any

import numpy as np
import pytest
from PIL import Image

import clipstill
from clipstill.runtime import Bundle, load_bundle
from input_tables import refused, table, unchanged

RED = (200, 30, 30)
HALF_RED = (200, 30, 30, 128)


@pytest.fixture(scope="module")
def bundle(tiny_bundle: Path) -> Bundle:
    return load_bundle(tiny_bundle, threads=1)


def stored(kind: str, mode: str = "RGB", colour: Any = RED, size: tuple[int, int] = (40, 30), **options: Any) -> bytes:
    """The bytes of a picture of one colour."""
    stream = io.BytesIO()
    Image.new(mode, size, colour).save(stream, kind, **options)
    return stream.getvalue()


def turned(orientation: Any, kind: str = "PNG") -> bytes:
    """A picture, green on the left and red on the right, with this orientation in its EXIF block."""
    exif, image, stream = Image.Exif(), Image.new("RGB", (64, 64), RED), io.BytesIO()
    exif[0x0112] = orientation
    image.paste((0, 128, 0), (0, 0, 32, 64))
    image.save(stream, kind, exif=exif)
    return stream.getvalue()


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(name: bytes, data: bytes) -> bytes:
    """A PNG with one more chunk behind its header."""
    whole = stored("PNG")
    return whole[:33] + chunk(name, data) + whole[33:]


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that claims a size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def floats(inside: float, odd: float | None = None) -> Image.Image:
    """Grey of floating point, with another value in its first pixel."""
    values = np.full((8, 8), inside, np.float32)
    values[0, 0] = inside if odd is None else odd
    return Image.fromarray(values)


def sixteen_bits(colour_type: int) -> bytes:
    """A PNG of 16 bits a channel."""
    channels = {0: 1, 2: 3}[colour_type]
    rows = zlib.compress(b"".join(b"\0" + struct.pack(">H", 40_000) * channels * 8 for _ in range(8)))
    head = struct.pack(">IIBBBBB", 8, 8, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def ppm(head: bytes, *values: float, kind: str = "B") -> bytes:
    return head + b"\n" + struct.pack(f">{len(values)}{kind}", *values)


def twelve_bits() -> bytes:
    """A TIFF of 12 bits of grey, two pixels in three bytes, as scientific cameras write."""
    rows, tags = bytes((0x80, 0x08, 0x00)) * 4 * 8, []
    for tag, value in ((256, 8), (257, 8), (258, 12), (259, 1), (262, 1), (273, 8), (277, 1), (278, 8), (279, 96)):
        tags.append(struct.pack("<HHII", tag, 4, 1, value))
    return b"II*\0" + struct.pack("<I", 8 + len(rows)) + rows + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)


def fourth_byte() -> bytes:
    """A BMP whose header calls the fourth byte of a pixel its opacity, and which has zeros there."""
    pixels = bytes((*reversed(RED), 0)) * 64
    head = struct.pack("<IiiHHIIiiII", 108, 8, 8, 1, 32, 3, len(pixels), 0, 0, 0, 0)
    head += struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000) + b"BGRs" + bytes(48)
    return b"BM" + struct.pack("<IHHI", 14 + len(head) + len(pixels), 0, 0, 14 + len(head)) + head + pixels


def with_gap(kind: str) -> bytes:
    """A picture whose second half was never copied into its place."""
    stream = io.BytesIO()
    Image.effect_noise((300, 300), 60).convert("RGB").save(stream, kind)
    whole = stream.getvalue()
    return whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2)


def by_parts(values: bytes) -> io.BufferedReader:
    """A stream that cannot go back, as those of the web and of pipes."""
    reading, writing = os.pipe()
    with os.fdopen(writing, "wb") as stream:
        stream.write(values)
    return os.fdopen(reading, "rb")


UNKNOWN = "no picture of a kind that is known"
# Bytes of a file, or a value of Python; the colour at the centre, or words of the message.
PHOTOS: dict[str, tuple[Any, tuple[int, int, int] | str]] = {
    "PNG": (stored("PNG"), RED),
    "JPEG of grey": (stored("JPEG", "L", 100, quality=95), (100,) * 3),
    "JPEG of ink": (stored("JPEG", "CMYK", (0, 255, 255, 0), quality=95), (255, 0, 0)),
    "JPEG in passes": (stored("JPEG", "L", 100, progressive=True), (100,) * 3),
    "WebP": (stored("WEBP", lossless=True), RED),
    "BMP": (stored("BMP"), RED),
    "TIFF": (stored("TIFF"), RED),
    "TIFF of several pages": (stored("TIFF", save_all=True, append_images=[Image.new("RGB", (9, 9))]), RED),
    "TIFF, packed": (stored("TIFF", compression="tiff_lzw"), RED),
    "TIFF of a fax": (stored("TIFF", "1", 1, compression="group4"), (255,) * 3),
    "BigTIFF": (stored("TIFF", big_tiff=True), RED),
    "TIFF of ink": (stored("TIFF", "CMYK", (0, 255, 255, 0)), (255, 0, 0)),
    "TIFF of CIE Lab": (stored("TIFF", "LAB", (136, 208, 195)), (250, 3, 11)),
    "TIFF of 12 bits": (twelve_bits(), (128,) * 3),
    "two eyes of a camera": (
        stored("MPO", "L", 100, save_all=True, append_images=[Image.new("L", (40, 30))]),
        (100,) * 3,
    ),
    "animation of PNG": (stored("PNG", save_all=True, append_images=[Image.new("RGB", (40, 30))]), RED),
    "a panorama": (stored("PNG", size=(20_000, 50)), RED),
    "PFM of grey": (ppm(b"Pf 2 2 1.0", *[0.5] * 4, kind="f"), (128,) * 3),
    "animation": (stored("GIF", save_all=True, append_images=[Image.new("RGB", (40, 30))]), RED),
    "black and white": (stored("PNG", "1", 1), (255,) * 3),
    "16 bits of grey": (sixteen_bits(0), (156,) * 3),
    "16 bits of colour": (sixteen_bits(2), (156,) * 3),
    "16 bits of grey in TIFF": (stored("TIFF", "I;16", 40_000), (156,) * 3),
    "16 bits of grey in memory": (Image.new("I;16", (8, 8), 40_000), (156,) * 3),
    "32 bits beyond 16": (Image.new("I", (8, 8), 70_000), (255,) * 3),
    "32 bits below nothing": (Image.new("I", (8, 8), -5), (0,) * 3),
    "see-through": (stored("PNG", "RGBA", HALF_RED), (227, 142, 142)),
    "see-through, multiplied already": (Image.new("RGBA", (8, 8), HALF_RED).convert("RGBa"), (227, 142, 142)),
    "a profile that is none": (stored("PNG", icc_profile=b"none" * 9), RED),
    "invisible": (stored("PNG", "RGBA", (200, 30, 30, 0)), (255,) * 3),
    "a fourth byte of Windows": (fourth_byte(), RED),
    "invisible grey": (stored("PNG", "LA", (9, 0)), (255,) * 3),
    "one colour made invisible": (with_chunk(b"tRNS", b"\0\xc8\0\x1e\0\x1e"), (255,) * 3),
    "invisible in a palette": (stored("GIF", "P", 3, transparency=3), (255,) * 3),
    "floating point to one": (floats(0.5), (128,) * 3),
    "floating point to 255": (floats(128.0), (128,) * 3),
    "floating point of 16 bits": (floats(32_768.0), (128,) * 3),
    "floating point, one pixel missing": (floats(0.5, np.nan), (128,) * 3),
    "floating point, one pixel endless": (floats(0.5, np.inf), (128,) * 3),
    "floating point, one pixel below nothing": (floats(0.5, -0.01), (128,) * 3),
    "floating point, one pixel over one": (floats(0.5, 1.02), (128,) * 3),
    "floating point, one pixel over 255": (floats(128.0, 255.5), (128,) * 3),
    "floating point, none": (floats(np.nan), (0,) * 3),
    "turned by 0, which is none": (turned(0), RED),
    "mirrored": (turned(2), (0, 128, 0)),
    "turned by 180 degrees": (turned(3), (0, 128, 0)),
    "turned, in TIFF": (turned(3, "TIFF"), (0, 128, 0)),
    "turned by 9, which is none": (turned(9), RED),
    "turned by two numbers": (turned((2, 2)), (0, 128, 0)),
    "a broken EXIF block": (with_chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xffjunk"), RED),
    "a broken animation": (with_chunk(b"acTL", struct.pack(">II", 0xFFFFFFFF, 0)), RED),
    "a script behind the end": (stored("PNG") + b"<script>alert(1)</script>", RED),
    "no end": (stored("PNG")[:-12], RED),
    "two JPEGs": (stored("JPEG", "L", 100) * 2, (100,) * 3),
    "zeros behind the end of a JPEG": (stored("JPEG", "L", 100) + bytes(9_000), (100,) * 3),
    "PPM of 16 bits": (ppm(b"P6 2 2 65535", *[40_000] * 12, kind="H"), (156,) * 3),
    "PGM of two bits": (ppm(b"P5 2 2 3", *[3] * 4), (255,) * 3),
    "one pixel": (stored("PNG", size=(1, 1)), RED),
    "a strip": (stored("PNG", size=(30_000, 1)), RED),
    "a mutable buffer": (bytearray(stored("PNG")), RED),
    "a view of memory": (memoryview(stored("PNG")), RED),
    "a stream": (io.BytesIO(stored("PNG")), RED),
    "an array": (np.full((8, 8, 3), RED, np.uint8), RED),
    "an array upside down": (np.full((8, 8, 3), RED, np.uint8)[::-1], RED),
    "empty": (b"", UNKNOWN),
    "null bytes": (bytes(5000), UNKNOWN),
    "text": (b"I am a picture, believe me", UNKNOWN),
    "a web page": (b"<!doctype html><title>404</title>", UNKNOWN),
    "a drawing": (b'<svg xmlns="http://www.w3.org/2000/svg"><script>1</script></svg>', UNKNOWN),
    "PostScript": (stored("EPS"), UNKNOWN),
    "a PDF": (stored("PDF"), UNKNOWN),
    "a zip of photos": (b"PK\3\4" + bytes(26), "unpack it"),
    "a preview of a raw photo": (stored("TIFF", tiffinfo={254: 1}), "is a raw photo"),
    "an icon": (stored("ICO"), UNKNOWN),
    "JPEG 2000": (stored("JPEG2000"), UNKNOWN),
    "lines ends of a text": (stored("PNG").replace(b"\r\n", b"\n"), UNKNOWN),
    "a mark of byte order": (b"\xef\xbb\xbf" + stored("PNG"), UNKNOWN),
    "a wrong checksum": (stored("PNG")[:29] + bytes(4) + stored("PNG")[33:], UNKNOWN),
    "nothing but a start": (b"\xff\xd8\xff\xd9", UNKNOWN),
    "a TIFF of no tags": (b"II*\0" + b"\xff" * 100, UNKNOWN),
    "half a JPEG": (stored("JPEG", size=(300, 300))[:700], "truncated"),
    "half a WebP": (stored("WEBP")[:-10], "cannot be read as an image"),
    "a copy of a JPEG that stopped": (with_gap("JPEG"), "it ends in zeros"),
    "a copy of a WebP that stopped": (with_gap("WEBP"), "it ends in zeros"),
    "a stream that cannot go back": (by_parts(stored("PNG")), "give the bytes that it holds"),
    "a film": (b"\0\0\0\x18ftypmp42" + bytes(100), UNKNOWN),
    "a film behind the suffix of a photo": (b"\x1aE\xdf\xa3" + bytes(100), UNKNOWN),
    "an answer of a cloud": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', UNKNOWN),
    "letters of base 64": (b"data:image/png;base64,iVBORw0KGgo=", UNKNOWN),
    "half a GIF": (stored("GIF", size=(300, 300))[:-90], "truncated"),
    "text without end": (with_chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000))), "too large"),
    "a profile without end": (with_chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(3_000_000))), "too large"),
    "billions of pixels": (claiming(60_000, 60_000), "too large"),
    "more pixels than 64 million": (claiming(9_000, 8_000), "too large (9000 x 8000 pixels"),
    "a PPM of a million lines": (b"P6 1000000 1000000 255\n", "too large"),
    "a PPM of a number without end": (b"P6 99999999999999999999 2 255\n", "Token too long"),
    "a PPM of less than nothing": (b"P6 -1 2 255\n", UNKNOWN),
    "a PGM of no levels": (ppm(b"P5 2 2 0", *[0] * 4), "maxval"),
    "no width": (claiming(0, 9), "cannot be read as an image"),
    "an image without pixels": (Image.new("RGB", (0, 0)), "no pixels (0 x 0)"),
    "an image that is closed": ("closed", "closed image"),
    "a stream of text": (io.StringIO("x"), "cannot be read as an image"),
    "None": (None, "got NoneType"),
    "a number": (5, "got int"),
    "an array of numbers of another kind": (np.zeros((2, 2, 3), np.int64), "uint8 (H, W, 3), got int64"),
    "an array of floating point": (np.zeros((4, 4, 3)), "uint8 (H, W, 3), got float64"),
    "an array with channels first": (np.zeros((3, 4, 4), np.uint8), "uint8 (H, W, 3), got uint8 (3, 4, 4)"),
    "an array of four channels": (np.zeros((4, 4, 4), np.uint8), "uint8 (H, W, 3), got uint8 (4, 4, 4)"),
    "an array of truth": (np.zeros((4, 4, 3), bool), "uint8 (H, W, 3), got bool"),
    "paths in an array": (np.array(["a.png", "b.png"]), "uint8 (H, W, 3), got <U5 (2,)"),
    "a set of photos": ({"a.png"}, "got set. Give several as a list"),
    "an array of grey": (np.zeros((4, 4), np.uint8), "uint8 (H, W, 3), got uint8 (4, 4)"),
    "an array of nothing": (np.zeros((0, 4, 3), np.uint8), "uint8 (H, W, 3), got uint8 (0, 4, 3)"),
    "an array of a batch": (np.zeros((1, 4, 4, 3), np.uint8), "got uint8 (1, 4, 4, 3)"),
}


@table(PHOTOS)
def test_a_photo_in_any_form(
    given: Any, expected: Any, bundle: Bundle, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if isinstance(given, str):
        given = Image.new("RGB", (8, 8))
        given.save(tmp_path / "a.png")
        given = Image.open(tmp_path / "a.png")
        given.close()
    if isinstance(given, bytes):
        (tmp_path / "photo.png").write_bytes(given)  # Whatever its suffix says.
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # Pillow's own would stand on standard error.
        if isinstance(expected, str):
            with pytest.raises(clipstill.DataError) as caught:
                bundle.pixels(given)
            assert expected in str(caught.value)
        else:
            pixels = bundle.pixels(given)
            height, width = pixels.shape[:2]
            np.testing.assert_allclose(pixels[height // 2, (3 * width) // 4], expected, atol=1)
        if isinstance(given, bytes):
            with_path(bundle, tmp_path, expected, capsys)


def with_path(bundle: Bundle, folder: Path, expected: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """The same by its path, as the command line is given it."""
    if isinstance(expected, str):
        line = refused(capsys, folder, "predict", bundle.folder, folder / "photo.png")
        assert expected in line
        assert f"{folder / 'photo.png'} " in line
    else:
        assert np.array_equal(bundle.pixels(folder / "photo.png"), bundle.pixels((folder / "photo.png").read_bytes()))


def at(name: str, make: Callable[[Path], object]) -> Callable[[Path], str]:
    def made(folder: Path) -> str:
        make(folder / name)
        return str(folder / name)

    return made


# What makes the place, whose name it returns; words of the one line.
PLACES: dict[str, tuple[Callable[[Path], str], str]] = {
    "not there": (lambda folder: str(folder / "gone.png"), "there is no image"),
    "the path is empty": (lambda folder: "", "a path is empty"),
    "an address": (lambda folder: "https://example.org/a.png", "https://example.org/a.png is no path"),
    "an address of a file": (lambda folder: "file:///etc/passwd", "file:///etc/passwd is no path"),
    "the home of nobody": (lambda folder: "~nobody-of-that-name/a.png", "no home folder"),
    "a pattern": (lambda folder: "*.png", "there is no image *.png"),
    "standard input": (lambda folder: "/dev/stdin", "cannot be read as an image"),
    "a pipe": (at("a.png", os.mkfifo), "a pipe or a device"),
    "a device": (lambda folder: "/dev/zero", "a pipe or a device"),
    "a link to a device": (at("a.png", lambda path: path.symlink_to("/dev/zero")), "a pipe or a device"),
    "a link to itself": (at("a.png", lambda path: path.symlink_to(path)), "symbolic links"),
    "a broken link": (at("a.png", lambda path: path.symlink_to("gone")), "there is no image"),
    "an empty folder": (at("photos", Path.mkdir), "holds no images"),
    "below a file": (lambda folder: at("a.png", Path.touch)(folder) + "/b.png", "(Not a directory). Replace"),
    "a name with an escape": (at("a\x1b[31m.png", Path.touch), r"a\x1b[31m.png cannot be read"),
    "a name with a new line": (at("a\nerror: b.png", Path.touch), r"a\nerror: b.png cannot be read"),
    "a name with two spaces": (at("a  b.png", Path.touch), "a  b.png cannot be read"),
    "a name that turns the line": (at("a\u202egnp.exe", Path.touch), r"a\u202egnp.exe cannot be read"),
    "a name that is not UTF-8": (at(os.fsdecode(b"caf\xe9.png"), Path.touch), r"caf\udce9.png cannot be read"),
    "half a pair of surrogates": (lambda folder: "\ud800", r"\ud800 is no path"),
    "a path that is too long": (lambda folder: "x/" * 3000, "too long for a path"),
    "a name that is too long": (lambda folder: "x" * 300, "too long for a path"),
}


@table(PLACES)
def test_a_place_that_is_no_photo(
    given: Callable[[Path], str],
    expected: str,
    bundle: Bundle,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    path = given(tmp_path)
    assert expected in refused(capsys, tmp_path, "predict", bundle.folder, path)
    with unchanged(tmp_path), pytest.raises(clipstill.ClipstillError):
        clipstill.evaluate(run=bundle.folder, images=path)


class Place:
    """A path of another library."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)


# How one photo is given from Python, or several: then the answer is a list of answers.
GIVEN: dict[str, tuple[Callable[[Path], Any], bool]] = {
    "a path of another library": (Place, False),
    "a pure path": (PurePath, False),
    "a text of numpy": (np.str_, False),
    "an entry of a folder": (lambda path: next(os.scandir(path.parent)), False),
    "a mutable buffer": (lambda path: bytearray(path.read_bytes()), False),
    "a view of memory": (lambda path: memoryview(path.read_bytes()), False),
    "a stream at its end": (lambda path: at_its_end(path), False),
    "a pattern of pathlib": (lambda path: path.parent.glob("*.png"), True),
    "a generator": (lambda path: (each for each in [path]), True),
    "a map": (lambda path: map(str, [path]), True),
    "a tuple": (lambda path: (path,), True),
}


def at_its_end(path: Path) -> io.BytesIO:
    stream = io.BytesIO()
    stream.write(path.read_bytes())
    return stream


@table(GIVEN)
def test_a_photo_from_python(given: Callable[[Path], Any], expected: bool, bundle: Bundle, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(stored("PNG"))
    answer = bundle.predict(path)
    assert bundle.predict(given(path)) == ([answer] if expected else answer)


@pytest.mark.parametrize("top", [0, -1, 1.0, 2.7, "2", math.inf, math.nan])
def test_a_number_of_classes_that_is_none(top: Any, bundle: Bundle) -> None:
    with pytest.raises(clipstill.DataError, match="Ask for at least one class"):
        bundle.predict(stored("PNG"), top=top)


@pytest.mark.parametrize("given", [None, 3, b"bundle", ["bundle"]])
def test_a_path_that_is_no_text(given: Any) -> None:
    with pytest.raises(clipstill.DataError, match="a path is a text or a pathlib.Path, got"):
        load_bundle(given)


@pytest.mark.parametrize("threads", [-1, 10**9, "1", 1.0, None])
def test_a_number_of_threads_that_is_none(threads: Any, bundle: Bundle) -> None:
    with pytest.raises(clipstill.ArtifactError, match="a whole number from 0 to 1024"):
        load_bundle(bundle.folder, threads=threads)
