"""Folders of photos as people have them: what is measured, what is told as not used, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from clipstill.cli.main import main
from clipstill.core.errors import DataError
from clipstill.core.image_folder import ImageFolder
from export_fixtures import LABELS
from input_tables import refused, table, unchanged

Make = Callable[[Path], object]


def photo(name: str, colour: str = "navy") -> Make:
    def make(folder: Path) -> None:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9), colour).save(folder / name, "PNG")

    return make


def text(name: str, content: str = "x") -> Make:
    return lambda folder: (folder / name).write_text(content)


def moved(name: str, to: str) -> Make:
    return lambda folder: (folder / name).rename(folder / to)


def link(name: str, to: str) -> Make:
    return lambda folder: (folder / name).symlink_to(to)


def hard_link(name: str, to: str) -> Make:
    return lambda folder: (folder / to).hardlink_to(folder / name)


def both(*makes: Make) -> Make:
    return lambda folder: [make(folder) for make in makes]


def without_dog(*makes: Make) -> Make:
    return both(moved("dog", ".dog"), *makes)


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"
POINTER = "in place of the picture; fetch it"

# What is done to a folder with one photo of each of dog, elephant and guitar; then how many photos are measured, and
# the reason why something is told as not used (empty where all is used), or words of the one line.
FOLDERS: dict[str, tuple[Make, tuple[int, str] | str]] = {
    "as it should be": (both(), (3, "")),
    "another case": (moved("dog", "Dog"), (3, "")),
    "spaces around": (moved("dog", " dog "), (3, "")),
    "letters of full width": (moved("dog", "\uff44\uff4f\uff47"), (3, "")),
    "a space of no width": (moved("dog", "d\u200bog"), (3, "")),
    "two folders of one class": (photo("DOG/2.png"), (4, "")),
    "photos in folders below": (photo("dog/summer/2.png"), (4, "")),
    "a link to a class folder": (both(moved("dog", ".dog"), link("dog", ".dog")), (3, "")),
    "a link to a photo elsewhere": (both(photo(".x.png"), link("dog/2.png", "../.x.png")), (4, "")),
    "suffixes of other kinds": (both(photo("dog/2.jfif"), photo("dog/3.jpe"), photo("dog/4.JPG")), (6, "")),
    "a wrong suffix": (moved("dog/a.png", "dog/a.jpg"), (3, "")),
    "a name with a new line": (photo("dog/a\nerror: b.png"), (4, "")),
    "long paths": (photo("dog/" + "x" * 200 + "/" + "y" * 200 + "/2.png"), (4, "")),
    "notebooks": (photo("dog/.ipynb_checkpoints/2.png"), (3, "")),
    "a zip of a Mac": (photo("dog/__MACOSX/2.png"), (3, "a folder of the system")),
    "a network drive": (photo("dog/@eaDir/2.png"), (3, "a folder of the system")),
    "a network drive, in capitals": (photo("dog/@EADIR/2.png"), (3, "a folder of the system")),
    "a waste bin of another network drive": (photo("dog/@Recycle/2.png"), (3, "a folder of the system")),
    "small copies of a network drive": (photo("dog/@__thumb/2.png"), (3, "a folder of the system")),
    "an older state of a network drive": (photo("dog/#snapshot/2.png"), (3, "a folder of the system")),
    "a waste bin of a Mac's drive": (photo("dog/Network Trash Folder/2.png"), (3, "a folder of the system")),
    "previews of an archive of photos": (photo("dog/2026 Previews.lrdata/2.png"), (3, "a folder of the system")),
    "states of a program that copies": (photo("dog/_gsdata_/2.png"), (3, "a folder of the system")),
    "parts that a check of Windows found": (photo("dog/FOUND.000/2.png"), (3, "a folder of the system")),
    "a photo whose name begins with @": (photo("dog/@2x.png"), (4, "")),
    "a copy of a photo, as a link": (hard_link("dog/a.png", "dog/b.png"), (4, "")),
    "a photo of the future": (lambda folder: os.utime(folder / "dog" / "a.png", (4e9, 4e9)), (3, "")),
    "a photo of 1938": (lambda folder: os.utime(folder / "dog" / "a.png", (-1e9, -1e9)), (3, "")),
    "a waste bin": (photo("#recycle/dog/2.png"), (3, "")),
    "a waste bin of Windows": (photo("$RECYCLE.BIN/2.png"), (3, "")),
    "a waste bin of Linux": (photo("dog/.Trash-1000/2.png"), (3, "")),
    "found by a check of the disk": (photo("lost+found/2.png"), (3, "")),
    "hidden photos": (both(photo("dog/._a.png"), text(".DS_Store"), text("dog/Thumbs.db")), (3, "")),
    "folders of other classes": (photo("zebra/2.png"), (3, "no class is called 'zebra'")),
    "a plural beside the class": (photo("dogs/2.png"), (3, "no class is called 'dogs'")),
    "a copy beside the class": (photo("dog - Copy/2.png"), (3, "no class is called 'dog - Copy'")),
    "samples of a teachable machine beside the class": (photo("dog-samples/2.png"), (3, "is called 'dog-samples'")),
    "an empty new folder": (lambda folder: (folder / "New folder").mkdir(), (3, "no class is called 'New folder'")),
    "a zip inside a class": (text("dog/photos.zip"), (3, "(.zip)")),
    "an escape in a folder's name": (photo("x\x1b[31m/2.png"), (3, r"no class is called 'x\x1b[31m'")),
    "a folder's name that is not UTF-8": (photo(os.fsdecode(b"x\xff/2.png")), (3, r"no class is called 'x\udcff'")),
    "a link to a folder of more": (both(photo(".more/2.png"), link("dog/more", "../.more")), (3, "not followed")),
    "a link to the folder around": (link("dog/up", ".."), (3, "not followed")),
    "a broken link in place of a class": (without_dog(link("dog", "gone")), (2, "a link to gone, which is not there")),
    "a link to itself in place of a class": (without_dog(link("dog", "dog")), (2, "which is not there")),
    "a file in place of a class": (without_dog(text("dog")), (2, "not an image file type (no suffix)")),
    "a zip in place of a class": (without_dog(text("dog.zip")), (2, "not an image file type (.zip)")),
    "a photo beside the folders": (photo("stray.png"), (3, "beside the class folders")),
    "a table beside the folders": (text("labels.csv"), (3, "not an image file type (.csv)")),
    "an icon of a Mac's folder": (text("dog/Icon\r"), (3, "no suffix")),
    "a stream of Windows": (text("dog/a.png:Zone.Identifier"), (3, "(.Identifier)")),
    "a film beside the photo": (text("dog/a.MOV"), (3, "(.MOV)")),
    "edits beside the photo": (text("dog/a.AAE"), (3, "(.AAE)")),
    "words beside the photo": (text("dog/a.png.json"), (3, "(.json)")),
    "a photo of a phone without its reader": (text("dog/2.jxl"), (3, "convert it to JPEG")),
    "a photo that is in the cloud": (text("dog/2.jpg.icloud"), (3, "(.icloud)")),
    "a question behind the suffix": (text("dog/2.jpg?width=30"), (3, "(.jpg?width=30)")),
    "a space behind the suffix": (text("dog/2.jpg "), (3, "(.jpg )")),
    "splits beside the classes": (photo("train/dog/2.png"), (3, "no class is called 'train'")),
    "splits inside the classes": (both(photo("dog/train/2.png"), photo("dog/val/3.png", "grey")), (5, "")),
    "a folder of two classes": (photo("dog, elephant/2.png"), (3, "no class is called 'dog, elephant'")),
    "a name that turns the line": (photo("\u202egod/2.png"), (3, r"no class is called '\u202egod'")),
    "a letter of another script": (photo("d\u043eg/2.png"), (3, "no class is called 'd\u043eg'")),
    "a tab behind the name": (moved("dog", "dog\t"), (3, "")),
    "a mark of direction": (moved("dog", "dog\u200f"), (3, "")),
    "a photo without a suffix": (photo("dog/2"), (3, "no suffix")),
    "a download cut short": (text("dog/2.jpg.crdownload"), (3, "(.crdownload)")),
    "a raw photo": (text("dog/2.CR2"), (3, "convert it to JPEG")),
    "a pointer of Git LFS": (text("dog/2.png", LFS), (3, f"a pointer of Git LFS {POINTER}")),
    "a pointer of git-annex": (text("dog/2.png", "/annex/objects/SHA256E-s1--00.jpg\n"), (3, POINTER)),
    "a link of git-annex": (link("dog/2.png", "../.git/annex/objects/x"), (3, "a link to ../.git/annex/objects/x")),
    "a pointer of DVC": (text("dog/2.png.dvc", "outs:\n- md5: 00\n"), (3, f"a pointer of DVC {POINTER}")),
    "a page in place of a photo": (text("dog/2.png", "<!DOCTYPE html>404"), (3, f"a web page {POINTER}")),
    "an empty photo": (text("dog/2.png", ""), (3, "cannot be read as an image")),
    "a damaged photo": (text("dog/2.png", "x" * 5000), (3, "cannot be read as an image")),
    "a pipe": (lambda folder: os.mkfifo(folder / "dog" / "2.png"), (3, "no file")),
    "a link to a device": (link("dog/2.png", "/dev/zero"), (3, "no file")),
    "a photo that links to itself": (link("dog/2.png", "2.png"), (3, "which is not there")),
    "a folder that is called like a photo": (photo("dog/2.png/3.png"), (4, "")),
    "a plural": (moved("dog", "dogs"), "Rename it to 'dog', or to '.dogs' to leave it out"),
    "a dot at the end": (moved("dog", "Dog."), "whose folder 'Dog.' is of no class"),
    "a typing mistake": (moved("elephant", "elefant"), "the class 'elephant' has no images"),
    "counted": (moved("dog", "01_dog"), "Rename it to 'dog'"),
    "unpacked twice": (moved("dog", "dog (1)"), "whose folder 'dog (1)' is of no class"),
    "copied alone": (moved("dog", "dog - Copy"), "whose folder 'dog - Copy' is of no class"),
    "counted, all": (
        both(*(moved(each, f"{number}_{each}") for number, each in enumerate(LABELS))),
        "'0_dog' may be 'dog'",
    ),
    "counted, of Caltech": (both(*(moved(each, f"064.{each}") for each in LABELS)), "'064.elephant' may be 'elephant'"),
    "ids of WordNet": (
        both(*(moved(each, f"n0{number}084071") for number, each in enumerate(LABELS))),
        "found: n00084071",
    ),
    "photos without folders": (
        both(*(both(moved(f"{each}/a.png", f"{each}.1.png"), moved(each, f".{each}")) for each in LABELS)),
        "found: no sub-folders",
    ),
    "plurals alone": (both(*(moved(each, f"{each}s") for each in LABELS)), "'dogs' may be 'dog'"),
    "numbers": (
        both(*(moved(each, str(number)) for number, each in enumerate(LABELS))),
        "'0' would be class 1, 'dog'",
    ),
    "numbers from 1": (
        both(*(moved(each, str(number)) for number, each in enumerate(LABELS, 1))),
        "'1' would be class 1, 'dog'",
    ),
    "one level too high": (
        both(lambda folder: (folder / "train").mkdir(), *(moved(each, f"train/{each}") for each in LABELS)),
        "found: train.",
    ),
    "empty folders": (both(*(moved(f"{each}/a.png", f".{each}") for each in LABELS)), "hold no images. Known"),
    "pointers alone": (both(*(text(f"{each}/a.png", LFS) for each in LABELS)), "dog/a.png (a pointer of Git LFS"),
}


@table(FOLDERS)
def test_a_folder_of_photos(
    given: Make, expected: tuple[int, str] | str, tiny_bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = tmp_path / "photos"
    for number, name in enumerate(LABELS):
        photo(f"{name}/a.png", ("red", "green", "yellow")[number])(photos)
    given(photos)
    arguments = ["evaluate", str(tiny_bundle), "--json", "--images", str(photos)]
    if isinstance(expected, str):
        assert expected in refused(capsys, tmp_path, *arguments)
        return
    with unchanged(tmp_path):
        assert main(arguments) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    reasons = [each["reason"] for each in found["student"]["skipped"]]
    assert found["n"] == expected[0]
    assert all(expected[1] in each for each in reasons), reasons
    assert bool(reasons) == bool(expected[1])
    assert captured.err.replace("\n", "").isprintable()
    assert expected[1] in captured.err  # People are told too.


# Names of classes, and their folders as systems and programs write them; how many photos are measured, or words of
# the one line.
SPELLINGS: dict[str, tuple[tuple[tuple[str, ...], tuple[str, ...]], int | str]] = {
    "a dot first": (((".NET", "Java"), (".NET", "Java")), 2),
    "signs that Windows forbids": ((("16:9", "what?", "a*b"), ("16_9", "what_", "a_b")), 3),
    "a slash": ((("AC/DC", "cat"), ("AC_DC", "cat")), 2),
    "a slash on a Mac": ((("AC/DC", "cat"), ("AC:DC", "cat")), 2),
    "signs that tell classes apart": ((("what?", "what*", "cat"), ("what_", "cat")), "Rename it to 'what"),
    "composed and decomposed": ((("caf\xe9", "\xc5ngstr\xf6m"), ("cafe\u0301", "A\u030angstro\u0308m")), 2),
    "words and numbers of YAML": ((("True", "None", "1"), ("true", "none", "1")), 3),
    "an emoji without its joiner": (
        (("\U0001f469\u200d\U0001f692", "dog"), ("\U0001f469\U0001f692", "dog")),
        "Rename it",
    ),
    "a zip of DOS": ((("caf\xe9", "dog"), ("caf\u201a", "dog")), "Rename it to 'caf\xe9'"),
    "UTF-8 that was read as Latin": ((("caf\xe9", "dog"), ("caf\xc3\xa9", "dog")), "Rename it to 'caf\xe9'"),
    "a part of an address": ((("caf\xe9", "dog"), ("caf%C3%A9", "dog")), "Rename it to 'caf\xe9'"),
    "a space as in an address": ((("sea lion", "dog"), ("sea%20lion", "dog")), "Rename it to 'sea lion'"),
}


@table(SPELLINGS)
def test_a_folder_of_a_class(
    given: tuple[tuple[str, ...], tuple[str, ...]], expected: int | str, tmp_path: Path
) -> None:
    classes, folders = given
    for folder in folders:
        photo(f"{folder}/a.png")(tmp_path)
    with unchanged(tmp_path):
        if isinstance(expected, int):
            found = ImageFolder.open(tmp_path, classes)
            assert [label for _, label in found.items] == list(range(expected))
            assert found.skipped == []
        else:
            with pytest.raises(DataError, match=re.escape(expected)):
                ImageFolder.open(tmp_path, classes)
