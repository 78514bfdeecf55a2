import io
import os
import struct
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, features
from torchvision.transforms import functional as reference

from clipstill.assembly.training import read_all
from clipstill.core import picture_kinds
from clipstill.core.errors import DataError, PictureTooLargeError
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.images import fit, load_rgb, read_fitted
from clipstill.core.protocols import Preprocess

_NOBODY = 65_534


def photo(width: int = 40, height: int = 30) -> Image.Image:
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    return Image.fromarray(np.stack([x, y, 255 - x], axis=-1).astype(np.uint8))


def save(image: Image.Image, path: Path, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)
    return path


def test_truncated_image_is_named(tmp_path: Path) -> None:
    path = save(photo(200, 200), tmp_path / "cut.jpg")
    path.write_bytes(path.read_bytes()[:900])
    with pytest.raises(DataError, match=r"cut\.jpg cannot be read as an image"):
        load_rgb(path)


def test_missing_image_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no image .*gone\.png"):
        load_rgb(tmp_path / "gone.png")


def header_only(path: Path, width: int, height: int) -> Path:
    """A PNG that ends before its pixels: decoding it fails."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + struct.pack(">I", 8) + b"IDAT")
    return path


def test_huge_image_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    with pytest.raises(PictureTooLargeError, match=r"huge\.png is too large \(9000 x 9000 pixels"):
        load_rgb(header_only(tmp_path / "huge.png", 9000, 9000))


def test_bomb_that_pillow_itself_refuses_is_a_data_error(tmp_path: Path) -> None:
    with pytest.raises(PictureTooLargeError, match="too large"):
        load_rgb(header_only(tmp_path / "bomb.png", 60_000, 60_000))


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = photo(40, 30)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: rotate by 270 degrees to see it upright
    upright = load_rgb(save(image, tmp_path / "turned.png", exif=exif))
    assert np.array_equal(np.asarray(upright), np.asarray(image.transpose(Image.Transpose.ROTATE_270)))


def kinds(folder: Path) -> dict[str, Path]:
    """The same photo stored in ways that decoders treat differently."""
    image, exif = photo(40, 30), Image.Exif()
    exif[0x0112] = 6
    clear = image.convert("RGBA")
    clear.putalpha(Image.linear_gradient("L").resize(image.size))
    grey = np.asarray(image.convert("L")).astype(np.float32)
    ways: dict[str, tuple[Image.Image, dict[str, object]]] = {
        "plain.png": (image, {}),
        "turned.jpg": (image, {"exif": exif, "quality": 95}),
        "deep.png": (Image.fromarray((grey * 257).astype(np.uint16)), {}),
        "unit.tiff": (Image.fromarray(grey / 255), {}),
        "clear.png": (clear, {}),
        "grey-clear.png": (clear.convert("LA"), {}),
        "palette.gif": (image.convert("P"), {"transparency": 3}),
        "cmyk.jpg": (image.convert("CMYK"), {"quality": 95}),
        "moving.gif": (image, {"save_all": True, "append_images": [Image.new("RGB", image.size)]}),
        "black-white.png": (image.convert("1"), {}),
    }
    return {name: save(each, folder / name, **more) for name, (each, more) in ways.items()}


@pytest.mark.parametrize(
    "form", [str, Path.read_bytes, lambda path: path.open("rb"), Image.open], ids=["str", "bytes", "stream", "pil"]
)
def test_a_picture_looks_the_same_in_whichever_form_it_is_given(tmp_path: Path, form: Callable[[Path], Any]) -> None:
    for name, path in kinds(tmp_path).items():
        expected = load_rgb(path)
        assert np.array_equal(np.asarray(load_rgb(form(path))), np.asarray(expected)), name
        assert np.array_equal(np.asarray(load_rgb(expected)), np.asarray(expected)), name
        assert np.array_equal(np.asarray(load_rgb(np.asarray(expected))), np.asarray(expected)), name


def test_deep_and_unit_grey_are_the_grey_that_they_were_made_of(tmp_path: Path) -> None:
    paths, grey = kinds(tmp_path), np.asarray(photo(40, 30).convert("L"))
    for name in ("deep.png", "unit.tiff"):
        assert np.array_equal(np.asarray(load_rgb(paths[name]))[..., 0], grey), name


def test_an_image_of_the_caller_stays_open_and_as_it_is(tmp_path: Path) -> None:
    with Image.open(kinds(tmp_path)["turned.jpg"]) as image:
        load_rgb(image)
        assert image.size == (40, 30)
        assert image.getexif()[0x0112] == 6
        assert image.getpixel((0, 0)) is not None


def test_a_broken_exif_block_is_ignored_and_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "clipstill")
    image, exif = photo(40, 30), Image.Exif()
    exif[0x0112], exif[0x010F] = 6, "maker"
    block = exif.tobytes()
    header = save(image, tmp_path / "header.webp", lossless=True, exif=block[:6] + b"?" + block[7:])
    assert np.array_equal(np.asarray(load_rgb(header)), np.asarray(image))
    assert "header.webp: its EXIF block is damaged and ignored" in caplog.text
    cut = save(image, tmp_path / "cut.png", exif=block[:-3])
    assert load_rgb(cut).size in ((40, 30), (30, 40))
    assert "cut.png: its EXIF block is damaged and ignored" in caplog.text


def on_white(image: Image.Image) -> Image.Image:
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")


def test_a_large_picture_is_converted_as_in_one_piece(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    width, height = 517, 1031  # Not a whole number of the strips that it is converted in.
    clear = Image.fromarray(random.integers(0, 256, (height, width, 4), dtype=np.uint8), "RGBA")
    palette = clear.convert("RGB").quantize(64)
    deep = random.integers(0, 65_536, (height, width), dtype=np.uint16)
    # What decides about the scale is in the last row.
    low, real = deep >> 8, (deep / 65_535).astype(np.float32)
    low[-1, -1], beyond = 300, real.copy()
    beyond[-1, -1] = 2.5
    ways: dict[str, tuple[Image.Image, Image.Image, dict[str, object]]] = {
        "rgba.png": (clear, on_white(clear), {}),
        "la.png": (clear.convert("LA"), on_white(clear.convert("LA")), {}),
        "deep.png": (Image.fromarray(deep), Image.fromarray((deep >> 8).astype(np.uint8)), {}),
        "low.png": (Image.fromarray(low), Image.fromarray((low >> 8).astype(np.uint8)), {}),
        "unit.tiff": (Image.fromarray(real), Image.fromarray((real * 255).round().astype(np.uint8)), {}),
        "beyond.tiff": (Image.fromarray(beyond), Image.fromarray(beyond.round().astype(np.uint8)), {}),
        "key.png": (clear.convert("RGB"), clear.convert("RGB"), {"transparency": (1, 2, 3)}),
    }
    for name, (image, expected, more) in ways.items():
        found = load_rgb(save(image, tmp_path / name, compress_level=0, **more))
        assert np.array_equal(np.asarray(found), np.asarray(expected.convert("RGB"))), name
    path = save(palette, tmp_path / "palette.png", transparency=bytes(range(0, 256, 4)))
    with Image.open(path) as stored:
        assert np.array_equal(np.asarray(load_rgb(path)), np.asarray(on_white(stored)))


PEAK = """
import sys
from clipstill.core.images import load_rgb

def peak():
    lines = open("/proc/self/status").read().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))

before = peak()
image = load_rgb(sys.argv[1])
print((peak() - before) / (image.width * image.height))
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read as Linux tells it")
@pytest.mark.parametrize(("mode", "most"), [("RGB", 5.5), ("RGBA", 10), ("P", 7), ("I;16", 8), ("F", 10)])
def test_decoding_takes_few_bytes_a_pixel(tmp_path: Path, mode: str, most: float) -> None:
    image = Image.new(mode, (3000, 3000))
    more = {"transparency": 0} if mode == "P" else {}
    path = save(image, tmp_path / ("large.tiff" if mode == "F" else "large.png"), **more)
    done = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True, timeout=60)
    assert float(done.stdout) < most


def test_tiles_that_are_larger_than_the_picture_are_refused(tmp_path: Path) -> None:
    """A TIFF of one pixel whose one tile would be decoded to 10 gigabytes."""
    tags = [(256, 4, 1), (257, 4, 1), (258, 3, 8), (259, 3, 8), (262, 3, 1), (277, 3, 1)]
    tags += [(322, 4, 100_000), (323, 4, 100_000), (324, 4, 8), (325, 4, 20)]
    entries = b"".join(struct.pack("<HHII", tag, kind, 1, value) for tag, kind, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    path = tmp_path / "tile.tiff"
    path.write_bytes(b"II*\0" + struct.pack("<I", 28) + zlib.compress(bytes(9)).ljust(20, b"\0") + directory)
    with pytest.raises(PictureTooLargeError, match=r"tile.tiff is too large \(tiles of 100000 x 100000 pixels"):
        load_rgb(path)


@pytest.mark.parametrize(("width", "height"), [(90, 60), (60, 90), (64, 64), (20, 31)])
@pytest.mark.parametrize("crop_fraction", [1.0, 0.875])
def test_fit_is_resize_and_centre_crop(width: int, height: int, crop_fraction: float) -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (6, 9, 3), dtype=np.uint8))
    image = small.resize((width, height), Image.Resampling.BICUBIC)
    resized = reference.resize(image, round(32 / crop_fraction), reference.InterpolationMode.BICUBIC)
    expected = np.asarray(reference.center_crop(resized, [32, 32]))
    assert np.array_equal(fit(image, Preprocess(32, crop_fraction=crop_fraction)), expected)


def test_a_picture_of_the_right_size_is_left_alone() -> None:
    image = photo(32, 32)
    assert np.array_equal(fit(image, Preprocess(32)), np.asarray(image))


@pytest.mark.parametrize(("width", "height"), [(20_000, 2), (2, 20_000), (1, 1)])
def test_extreme_shapes_fit(width: int, height: int) -> None:
    assert fit(Image.new("RGB", (width, height), "red"), Preprocess(48)).tolist() == [[[255, 0, 0]] * 48] * 48


def jpeg_of_a_phone(path: Path, width: int, height: int, orientation: int = 1) -> Path:
    """Soft shapes with the noise of a sensor."""
    draw = np.random.default_rng(0)
    soft = Image.fromarray(draw.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((width, height), 3)
    noisy = np.asarray(soft, dtype=np.float32) + draw.normal(0, 6, (height, width, 3))
    exif = Image.Exif()
    exif[0x0112] = orientation
    return save(Image.fromarray(noisy.clip(0, 255).astype(np.uint8)), path, quality=90, exif=exif)


@pytest.mark.parametrize("mode", ["shortest", "squash", "longest"])
@pytest.mark.parametrize(
    ("width", "height", "orientation"), [(1600, 1200, 1), (1208, 2000, 6), (1203, 1999, 6), (2104, 304, 1)]
)
def test_a_large_jpeg_is_fitted_as_if_decoded_whole(
    tmp_path: Path, mode: str, width: int, height: int, orientation: int
) -> None:
    path = jpeg_of_a_phone(tmp_path / "photo.jpg", width, height, orientation)
    preprocess = Preprocess(64, resize_mode=mode, crop_fraction=0.9 if mode == "shortest" else 1.0)
    found, whole = (each.astype(int) for each in (read_fitted(path, preprocess), fit(load_rgb(path), preprocess)))
    assert found.shape == whole.shape
    assert np.abs(found - whole).mean() < 1
    assert np.abs(found - whole).max() <= 12


def test_a_small_jpeg_and_an_open_picture_are_decoded_whole(tmp_path: Path) -> None:
    small, odd, large = (jpeg_of_a_phone(tmp_path / f"{side}.jpg", side, side) for side in (254, 801, 800))
    preprocess = Preprocess(64)
    for path in (small, odd):
        assert np.array_equal(read_fitted(path, preprocess), fit(load_rgb(path), preprocess))
    with Image.open(large) as opened:
        assert np.array_equal(read_fitted(opened, preprocess), fit(load_rgb(large), preprocess))
        assert opened.size == (800, 800)
    assert not np.array_equal(read_fitted(large, preprocess), fit(load_rgb(large), preprocess))


def test_folder_names_match_without_case_space_underscore_hyphen(tmp_path: Path) -> None:
    save(photo(), tmp_path / "Polar_Bear" / "a.JPG")
    save(photo(), tmp_path / "sea-horse" / "deep" / "b.png")
    save(photo(), tmp_path / "spoon" / "c.png")
    (tmp_path / "Polar_Bear" / "notes.md").write_text("x")
    (tmp_path / "Polar_Bear" / ".hidden.png").write_text("x")
    folder = ImageFolder.open(tmp_path, ["sea horse", "polar bear", "yak"])
    assert [(path.name, label) for path, label in folder.items] == [("b.png", 0), ("a.JPG", 1)]
    assert [path.name for path, _ in folder.skipped] == ["notes.md", "spoon"]
    assert folder.classes_without_images == ["yak"]


def test_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no image folder"):
        ImageFolder.open(tmp_path / "gone", ["dog", "cat"])


def test_folder_without_class_folders_names_expected_and_found(tmp_path: Path) -> None:
    (tmp_path / "spoon").mkdir()
    with pytest.raises(DataError, match=r"Expected: dog, cat; found: spoon"):
        ImageFolder.open(tmp_path, ["dog", "cat"])


def test_class_folders_without_images_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="hold no images"):
        ImageFolder.open(tmp_path, ["dog", "cat"])


def test_bad_files_are_skipped_named_and_never_fatal(tmp_path: Path) -> None:
    for number in range(3):
        save(photo(), tmp_path / "dog" / f"{number}.png")
    (tmp_path / "dog" / "1.png").write_bytes(b"broken")
    save(photo(), tmp_path / "cat" / "last.png")
    skipped: list[tuple[str, str]] = []
    folder = ImageFolder.open(tmp_path, ["dog", "cat"])
    batches = list(iterate(folder, Preprocess(32), 2, lambda path, reason: skipped.append((path.name, reason))))
    assert [squares.shape for squares, _ in batches] == [(2, 32, 32, 3), (1, 32, 32, 3)]
    assert [label for _, labels in batches for label in labels] == [0, 0, 1]
    assert [name for name, _ in skipped] == ["1.png"]


def folder_of(place: Path, *files: str) -> Path:
    """A folder with a photo at each of these places."""
    for file in files:
        save(photo(), place / file)
    return place


def test_a_folder_that_is_nearly_a_class_may_be_left_out(tmp_path: Path) -> None:
    folder_of(tmp_path, "cats/1.png", "dog/1.png")
    folder = ImageFolder.open(tmp_path, ["cat", "dog"], allow_unmatched=True)
    assert [path.parent.name for path, _ in folder.items] == ["dog"]
    assert folder.not_used == "cats (no class is called 'cats')"


def test_a_folder_of_no_class_is_told_and_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = ImageFolder.open(
        folder_of(tmp_path, "cat/1.png", "dogs/1.png", "dog/1.png", "zebra/1.png"), ["cat", "dog"]
    )
    assert folder.skipped == [
        (tmp_path / "dogs", "no class is called 'dogs'"),
        (tmp_path / "zebra", "no class is called 'zebra'"),
    ]
    [told] = [record for record in caplog.records if record.levelname == "WARNING"]
    assert "not used: dogs (no class is called 'dogs'), zebra (no class is called 'zebra')" in told.getMessage()


@pytest.mark.parametrize(
    "inside", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "#recycle", "$RECYCLE.BIN", ".thumbs/deep"]
)
def test_pictures_in_folders_of_the_system_are_no_photos(tmp_path: Path, inside: str) -> None:
    folder_of(tmp_path, "cat/1.png", f"cat/{inside}/2.png", "cat/summer/3.png", "dog/1.png", f"{inside}/cat/4.png")
    for folder in (ImageFolder.open(tmp_path, ["cat", "dog"]), ImageFolder.without_labels(tmp_path)):
        found = [path.relative_to(tmp_path).as_posix() for path, _ in folder.items]
        assert found == ["cat/1.png", "cat/summer/3.png", "dog/1.png"]


@pytest.fixture
def ordinary(tmp_path: Path) -> Iterator[Path]:
    """A folder of a user whom permissions bind, which they do not bind root."""
    if os.geteuid() != 0:
        yield tmp_path
        return
    with tempfile.TemporaryDirectory() as place:
        os.chown(place, _NOBODY, _NOBODY)
        os.seteuid(_NOBODY)
        try:
            yield Path(place)
        finally:
            os.seteuid(0)


@contextmanager
def shut(*paths: Path) -> Iterator[None]:
    """Files and folders without any permission."""
    modes = [path.stat().st_mode for path in paths]
    try:
        for path in paths:
            path.chmod(0)
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            path.chmod(mode)


def test_folders_and_files_without_permission_are_told_with_the_reason(
    ordinary: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder_of(ordinary, "cat/1.png", "cat/2.png", "cat/deep/3.png", "dog/1.png")
    with shut(ordinary / "cat" / "2.png", ordinary / "cat" / "deep", ordinary / "dog"):
        folder = ImageFolder.open(ordinary, ["cat", "dog"])
        unlabelled = ImageFolder.without_labels(ordinary)
        with shut(ordinary), pytest.raises(DataError, match=r"cannot be (listed|read)|holds no images"):
            ImageFolder.open(ordinary, ["cat", "dog"])
        with pytest.raises(
            DataError, match=r"hold no images\. .*Not used: dog \(cannot be listed \(Permission denied\)\)"
        ):
            ImageFolder.open(ordinary, ["dog", "bird"])
    assert [path.relative_to(ordinary).as_posix() for path, _ in folder.items] == ["cat/1.png"]
    reasons = {path.relative_to(ordinary).as_posix(): reason for path, reason in folder.skipped}
    assert reasons == {
        "cat/2.png": "cannot be read (Permission denied)",
        "cat/deep": "cannot be listed (Permission denied)",
        "dog": "cannot be listed (Permission denied)",
    }
    assert sorted(unlabelled.skipped) == sorted(folder.skipped)
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 2
    assert all("dog (cannot be listed (Permission denied))" in line for line in told)


def test_a_folder_too_deep_to_be_listed_is_told(tmp_path: Path) -> None:
    place = os.open(folder_of(tmp_path, "cat/1.png") / "cat", os.O_RDONLY)
    for _ in range(18):  # More than 4,096 characters, which no call takes at once.
        os.mkdir("x" * 250, dir_fd=place)
        below = os.open("x" * 250, os.O_RDONLY, dir_fd=place)
        os.close(place)
        place = below
    os.close(place)
    folder = ImageFolder.open(tmp_path, ["cat"])
    assert len(folder.items) == 1
    [(_, reason)] = folder.skipped
    assert reason == "cannot be listed (File name too long)"


def test_files_that_cannot_be_decoded_are_named_unless_asked_otherwise(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "clipstill")
    (folder_of(tmp_path, "cat/1.png") / "cat" / "2.png").write_bytes(b"broken")
    pixels, _ = read_all(ImageFolder.without_labels(tmp_path), Preprocess(16))
    assert len(pixels) == 1
    assert "2.png cannot be read as an image" in caplog.text


@pytest.mark.parametrize(
    ("folders", "first"), [(("0", "1"), "'0' would be class 1, 'dog'"), (("2", "1"), "'1' would be")]
)
def test_numbered_folders_come_with_the_classes_that_they_would_be(
    tmp_path: Path, folders: tuple[str, ...], first: str
) -> None:
    for folder in folders:
        (tmp_path / folder).mkdir()
    with pytest.raises(DataError, match="numbers are not matched by position") as caught:
        ImageFolder.open(tmp_path, ["dog", "cat"])
    assert first in str(caught.value)
    assert f"'{max(folders)}' would be class 2, 'cat'" in str(caught.value)


def test_numbered_folders_that_cannot_be_positions_come_without_hints(tmp_path: Path) -> None:
    (tmp_path / "7").mkdir()
    with pytest.raises(DataError, match=r"found: 7\.$"):
        ImageFolder.open(tmp_path, ["dog", "cat"])


def modern(suffix: str, path: Path, height: int = 48, **options: object) -> Path:
    """A photo as AVIF or HEIC; the test is skipped where nothing here writes it."""
    if suffix == ".heic":
        pytest.importorskip("pillow_heif").register_heif_opener()
    elif not features.check("avif"):
        pytest.skip("this Pillow is built without AVIF")
    return save(photo(64, height), path, quality=90, **options)


@pytest.mark.parametrize("suffix", [".avif", ".heic"])
def test_modern_pictures_are_read_upright_and_by_their_content(tmp_path: Path, suffix: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    expected = np.asarray(photo(64, 48).transpose(Image.Transpose.ROTATE_270), dtype=int)
    path = modern(suffix, tmp_path / "cat" / f"a{suffix}", exif=exif.tobytes())
    [(found, _)] = ImageFolder.open(tmp_path, ["cat"]).items
    renamed = path.with_suffix(".jpg")
    renamed.write_bytes(path.read_bytes())
    for source in (found, renamed, path.read_bytes(), io.BytesIO(path.read_bytes())):
        pixels = np.asarray(load_rgb(source), dtype=int)
        assert pixels.shape == expected.shape
        assert np.abs(pixels - expected).mean() < 6


@pytest.mark.parametrize("suffix", [".avif", ".heic"])
def test_a_modern_picture_that_is_too_large_or_damaged_is_refused(tmp_path: Path, suffix: str) -> None:
    whole = modern(suffix, tmp_path / f"a{suffix}", 64).read_bytes()
    start, place, rest = whole.partition(b"ispe\0\0\0\0")  # What follows is width and height.
    with pytest.raises(PictureTooLargeError, match="too large"):
        load_rgb(start + place + struct.pack(">II", 9000, 9000) + rest[8:])
    for damaged in (whole[:40], whole[: len(whole) // 2], whole[:-9]):
        with pytest.raises(DataError, match="cannot be read as an image"):
            load_rgb(damaged)
    assert load_rgb(whole).size == (64, 64)
    with pytest.raises(DataError, match="no picture of a kind that is known"):
        load_rgb(whole, containers=False)


def test_a_heic_picture_comes_with_the_command_that_lets_it_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(picture_kinds, "_HEIF", False)
    monkeypatch.setattr(picture_kinds, "IMAGE_SUFFIXES", picture_kinds.IMAGE_SUFFIXES - {".heic"})
    (folder_of(tmp_path, "cat/1.png") / "cat" / "phone.HEIC").write_bytes(b"....ftypheic")
    [(path, reason)] = ImageFolder.open(tmp_path, ["cat"]).skipped
    assert path.name == "phone.HEIC"
    assert "pip install 'clipstill[heic]'" in reason
    with pytest.raises(DataError, match=r"pip install 'clipstill\[heic\]'"):
        load_rgb(path)


def test_films_and_other_files_in_the_same_container_are_no_pictures() -> None:
    with pytest.raises(DataError, match="no picture of a kind that is known: JPEG, PNG"):
        load_rgb(b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom")
