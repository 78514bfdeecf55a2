import io
import os
import stat
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from clipstill.core.errors import ClipstillError, DataError
from clipstill.core.image_folder import ImageFolder
from clipstill.ui import uploads
from clipstill.ui.uploads import take_in


def picture() -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), "teal").save(stream, "PNG")
    return stream.getvalue()


def zipped(path: Path, *names: str) -> Path:
    with zipfile.ZipFile(path, "w") as packed:
        for name in names:
            packed.writestr(name, picture())
    return path


def test_a_zip_of_class_folders_becomes_an_image_folder(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "a.zip", "dog/1.png", "cat/1.png", "cat/2.png", "notes.txt", "__MACOSX/dog/._1.png")
    taken = take_in([packed], tmp_path / "in", labelled=True)
    assert (taken.photos, taken.left_out) == (3, ("notes.txt (not an image file type (.txt))",))
    assert len(ImageFolder.open(taken.folder, ["dog", "cat"]).items) == 3


def test_an_outer_folder_around_the_class_folders_is_left_out(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "a.zip", "my photos/dog/1.png", "my photos/cat/1.png")
    folder = take_in([packed], tmp_path / "in", labelled=True).folder
    assert sorted(entry.name for entry in folder.iterdir() if entry.is_dir()) == ["cat", "dog"]


def test_one_class_folder_is_no_outer_folder(tmp_path: Path) -> None:
    folder = take_in([zipped(tmp_path / "a.zip", "dog/1.png", "dog/2.png")], tmp_path / "in", labelled=True).folder
    assert len(ImageFolder.open(folder, ["dog", "cat"]).items) == 2


def test_the_same_upload_is_unpacked_once(tmp_path: Path) -> None:
    packed = zipped(tmp_path / "a.zip", "dog/1.png")
    first = take_in([packed], tmp_path / "in", labelled=True)
    assert take_in([packed.rename(tmp_path / "b.zip")], tmp_path / "in", labelled=True) == first
    assert len(list((tmp_path / "in").iterdir())) == 1


def test_what_a_killed_upload_left_is_swept_and_one_under_way_is_not(tmp_path: Path) -> None:
    for name, time in ((".tmp-dead", 1), (".tmp-alive", None)):
        (tmp_path / "in" / name / "photos").mkdir(parents=True)
        os.utime(tmp_path / "in" / name, None if time is None else (time, time))
    take_in([zipped(tmp_path / "a.zip", "dog/1.png")], tmp_path / "in", labelled=True)
    assert [path.name for path in (tmp_path / "in").glob(".tmp-*")] == [".tmp-alive"]


def test_single_photos_need_no_zip_where_they_have_no_labels(tmp_path: Path) -> None:
    files = [tmp_path / "a.png", tmp_path / "b.PNG", tmp_path / "c.doc"]
    for file in files:
        file.write_bytes(picture())
    taken = take_in(files, tmp_path / "in", labelled=False)
    assert (taken.photos, taken.left_out) == (2, ("c.doc (not an image file type (.doc))",))
    assert len(ImageFolder.without_labels(taken.folder).items) == 2


@pytest.mark.parametrize(
    "name", ["../outside.png", "/outside.png", "a/../../outside.png", "..\\outside.png", "C:\\outside.png"]
)
def test_no_file_lands_outside_its_folder(tmp_path: Path, name: str) -> None:
    place = tmp_path / "deep" / "in"
    taken = take_in([zipped(tmp_path / "a.zip", "dog/1.png", name)], place, labelled=False)
    assert all(file.is_relative_to(taken.folder) for file in tmp_path.rglob("*.png"))


def test_links_are_not_followed(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("dog/passwords.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as packed:
        packed.writestr(link, "/etc/passwd")
    (file,) = take_in([tmp_path / "a.zip"], tmp_path / "in", labelled=True).folder.rglob("*.png")
    assert not file.is_symlink()
    assert file.read_text() == "/etc/passwd"


def bomb(path: Path) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as opened:
        for number in range(4):
            opened.writestr(f"dog/{number}.png", bytes(300_000))
    assert path.stat().st_size < 10_000
    return path


def test_a_zip_that_unpacks_to_too_much_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "MOST_BYTES", 1 << 20)
    with pytest.raises(DataError, match="the zip holds more than"):
        take_in([bomb(tmp_path / "a.zip")], tmp_path / "in", labelled=True)
    assert list((tmp_path / "in").iterdir()) == []


def test_a_zip_that_states_too_small_sizes_is_refused(tmp_path: Path) -> None:
    true, false = (300_000).to_bytes(4, "little"), (1000).to_bytes(4, "little")
    packed = bomb(tmp_path / "a.zip")
    packed.write_bytes(packed.read_bytes().replace(true, false))
    with pytest.raises(DataError, match="cannot be unpacked"):
        take_in([packed], tmp_path / "in", labelled=True)
    assert list((tmp_path / "in").iterdir()) == []


def test_damaged_zips_and_zips_without_photos_are_told(tmp_path: Path) -> None:
    good = zipped(tmp_path / "a.zip", "dog/1.png").read_bytes()
    for name, content in (("cut.zip", good[: len(good) // 2]), ("no.zip", b"hello"), ("empty.zip", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match="cannot be unpacked"):
            take_in([tmp_path / name], tmp_path / "in", labelled=True)
    flipped = bytearray(good)
    flipped[60] ^= 255
    (tmp_path / "flipped.zip").write_bytes(flipped)
    with pytest.raises(DataError, match="cannot be unpacked"):
        take_in([tmp_path / "flipped.zip"], tmp_path / "in", labelled=True)
    with pytest.raises(DataError, match=r"none of the 1 files is a photo: dog/readme.txt \(not an image file type"):
        take_in([zipped(tmp_path / "text.zip", "dog/readme.txt")], tmp_path / "in", labelled=True)


def test_names_in_a_zip_that_are_no_utf8_or_stand_there_twice_are_told_or_taken_once(tmp_path: Path) -> None:
    good = zipped(tmp_path / "a.zip", "dog/é1.png").read_bytes()
    (tmp_path / "odd.zip").write_bytes(good.replace("é".encode(), b"\xff\xfe"))
    with pytest.raises(DataError, match="odd.zip cannot be unpacked"):
        take_in([tmp_path / "odd.zip"], tmp_path / "in", labelled=True)
    with pytest.warns(UserWarning, match="Duplicate name"):
        twice = zipped(tmp_path / "twice.zip", "dog/1.png", "dog/1.png")
    assert take_in([twice], tmp_path / "in", labelled=True).photos == 1


def test_a_file_that_is_a_folder_too_in_a_zip_is_told(tmp_path: Path) -> None:
    with pytest.raises(ClipstillError, match="cannot"):
        take_in([zipped(tmp_path / "a.zip", "dog/1.png", "dog/1.png/2.png")], tmp_path / "in", labelled=True)
    assert list((tmp_path / "in").iterdir()) == []
