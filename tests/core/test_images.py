import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import functional as reference

from clipstill.core.errors import DataError, PictureTooLargeError
from clipstill.core.images import ImageFolder, fit, iterate, load_rgb
from clipstill.core.protocols import Preprocess


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


@pytest.mark.parametrize("content", [b"", b"no image at all", b"\x89PNG\r\n\x1a\n broken"])
def test_file_that_is_no_image_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "odd.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"odd\.png cannot be read as an image"):
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


@pytest.mark.parametrize("array", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3))])
def test_an_array_of_another_form_is_refused(array: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"an array of a picture is uint8 \(H, W, 3\), got"):
        load_rgb(array)


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


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_becomes_white(tmp_path: Path, mode: str) -> None:
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0)).convert(mode)
    assert np.asarray(load_rgb(save(clear, tmp_path / "clear.png"))).min() == 255


def test_sixteen_bit_grey_keeps_its_middle(tmp_path: Path) -> None:
    grey = Image.fromarray(np.full((4, 4), 32768, dtype=np.uint16))
    assert np.asarray(load_rgb(save(grey, tmp_path / "deep.png"))).tolist() == [[[128] * 3] * 4] * 4


def test_animation_gives_its_first_frame(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    path = tmp_path / "moving.gif"
    frames[0].save(path, save_all=True, append_images=frames[1:])
    assert load_rgb(path).getpixel((0, 0)) == (255, 0, 0)


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


@pytest.mark.parametrize("given", ["cats", "Cat.", "catt"])
def test_a_class_without_images_beside_a_folder_that_is_nearly_its_name_is_refused(tmp_path: Path, given: str) -> None:
    folder_of(tmp_path, f"{given}/1.png", "dog/1.png")
    with pytest.raises(DataError, match=f"the class 'cat' has no images in .*Rename it to 'cat', or to '.{given}'"):
        ImageFolder.open(tmp_path, ["cat", "dog"])


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


def test_folders_of_no_class_at_all_come_with_the_classes_meant(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"Rename them: 'cats' may be 'cat', 'dogs' may be 'dog'\."):
        ImageFolder.open(folder_of(tmp_path, "cats/1.png", "dogs/1.png"), ["cat", "dog"])


@pytest.mark.parametrize(
    "inside", [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".Trash-1000", "#recycle", "$RECYCLE.BIN", ".thumbs/deep"]
)
def test_pictures_in_folders_of_the_system_are_no_photos(tmp_path: Path, inside: str) -> None:
    folder_of(tmp_path, "cat/1.png", f"cat/{inside}/2.png", "cat/summer/3.png", "dog/1.png", f"{inside}/cat/4.png")
    for folder in (ImageFolder.open(tmp_path, ["cat", "dog"]), ImageFolder.without_labels(tmp_path)):
        found = [path.relative_to(tmp_path).as_posix() for path, _ in folder.items]
        assert found == ["cat/1.png", "cat/summer/3.png", "dog/1.png"]


def test_what_stands_in_place_of_a_picture_is_named(tmp_path: Path) -> None:
    cat = folder_of(tmp_path, "cat/1.png", "cat/2.jfif", "cat/3.jpe") / "cat"
    (cat / "lfs.jpg").write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n")
    (cat / "annex.jpg").write_bytes(b"/annex/objects/SHA256E-s1--00.jpg\n")
    (cat / "linked.jpg").symlink_to("../.git/annex/objects/SHA256E-s1--00.jpg")
    (cat / "dvc.jpg.dvc").write_text("outs:\n- md5: 00\n")
    (cat / "phone.HEIC").write_bytes(b"....ftypheic")
    folder = ImageFolder.open(tmp_path, ["cat"])
    assert [path.name for path, _ in folder.items] == ["1.png", "2.jfif", "3.jpe"]
    assert {path.name: reason for path, reason in folder.skipped} == {
        "annex.jpg": "a pointer of git-annex in place of the picture; fetch it",
        "dvc.jpg.dvc": "a pointer of DVC in place of the picture; fetch it",
        "lfs.jpg": "a pointer of Git LFS in place of the picture; fetch it",
        "linked.jpg": "a link to ../.git/annex/objects/SHA256E-s1--00.jpg, which is not there",
        "phone.HEIC": "a kind of picture that is not read; convert it to JPEG",
    }


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


def test_a_pipe_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(DataError, match="pipe"):
        load_rgb(tmp_path / "photo.jpg")
