"""Published data sets of domains, and test sets of ImageNet's classes, in tiny trees of the same layout."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from clipstill.cli.main import main
from clipstill.core.errors import DataError, UnknownNameError
from clipstill.datasets import Dataset, joined, open_dataset
from clipstill.datasets.published import PUBLISHED, SETS


def files(root: Path, *places: str) -> None:
    for place in places:
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        (root / place).touch()


def text(root: Path, place: str, *lines: str) -> None:
    (root / place).parent.mkdir(parents=True, exist_ok=True)
    (root / place).write_text("".join(f"{line}\n" for line in lines))


def named(dataset: Dataset, split: str = "test") -> list[tuple[str, str]]:
    """Place and class name of each image."""
    return [(str(path.relative_to(dataset.root)), dataset.classes[label]) for path, label in getattr(dataset, split)]


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("pacs-art_painting", "PACS/art_painting"),
        ("pacs-sketch", "pacs/images/sketch"),
        ("pacs-photo", "kfold/photo"),
        ("vlcs-voc2007", "VLCS/VOC2007"),
        ("office_home-real_world", "OfficeHomeDataset_10072016/Real World"),
        ("office_home-real_world", "office_home/RealWorld"),
        ("office_home-art", "Office-Home/art"),
    ],
)
def test_class_folders_of_a_domain_are_training_and_test_images(name: str, folder: str, tmp_path: Path) -> None:
    files(tmp_path, *(f"{folder}/{place}" for place in ("Desk_Lamp/2.jpg", "dog/1.png", "dog/readme.txt", "empty/.x")))
    found = open_dataset(f"{name}:{tmp_path}")
    assert (found.name, found.root, found.layout) == (name, tmp_path / folder, None)
    assert named(found) == named(found, "train") == [("Desk_Lamp/2.jpg", "Desk Lamp"), ("dog/1.png", "dog")]


def test_domains_of_a_set_are_one_source(tmp_path: Path) -> None:
    files(tmp_path, *(f"PACS/{domain}/{name}/1.jpg" for domain in ("photo", "cartoon") for name in ("dog", "horse")))
    both = joined([open_dataset(f"pacs-{domain}:{tmp_path}") for domain in ("photo", "cartoon")])
    assert named(both, "train")[1:3] == [("photo/horse/1.jpg", "horse"), ("cartoon/dog/1.jpg", "dog")]


def test_visda_is_read_by_its_lists_in_which_a_class_is_called_train(tmp_path: Path) -> None:
    files(tmp_path, "visda-2017/train/car/a.png", "visda-2017/train/train/b.png", "visda-2017/train/train/unlisted.png")
    text(tmp_path, "visda-2017/train/image_list.txt", "car/a.png 3", "train/b.png 10")
    found = open_dataset(f"visda2017-train:{tmp_path}")
    assert named(found) == named(found, "train") == [("car/a.png", "car"), ("train/b.png", "train")]


@pytest.mark.parametrize("place", ["domainnet/", "DomainNet/splits/", "domain_net/txt/"])
def test_domainnet_has_lists_for_training_and_test(place: str, tmp_path: Path) -> None:
    base = place.split("/")[0]
    files(tmp_path, *(f"{base}/real/{each}" for each in ("t-shirt/1.jpg", "t-shirt/2.jpg", "The_Eiffel_Tower/3.jpg")))
    # With and without folders of another machine.
    text(tmp_path, f"{place}real_train.txt", "real/t-shirt/1.jpg 327", "/home/me/real/The_Eiffel_Tower/3.jpg 6")
    text(tmp_path, f"{place}real_test.txt", "real/t-shirt/2.jpg 327", "real/zebra/4.jpg 343")
    found = open_dataset(f"domainnet-real:{tmp_path}")
    assert found.classes == ("The Eiffel Tower", "t-shirt")
    assert named(found, "train") == [("t-shirt/1.jpg", "t-shirt"), ("The_Eiffel_Tower/3.jpg", "The Eiffel Tower")]
    assert named(found) == [("t-shirt/2.jpg", "t-shirt")]


@pytest.mark.parametrize("place", ["image_CLEF/list/", "imageCLEF/"])
def test_imageclef_has_labels_and_no_class_folders(place: str, tmp_path: Path) -> None:
    base = place.split("/")[0]
    files(tmp_path, f"{base}/p/2010_1.jpg", f"{base}/p/2010_2.jpg")
    # A photo of a person on a motorbike is in two classes.
    text(tmp_path, f"{place}pList.txt", "/data/p/2010_1.jpg 11", "p/2010_2.jpg 0", "p/2010_1.jpg 10")
    found = open_dataset(f"imageclef_da-p:{tmp_path}")
    assert found.classes == ("aeroplane", "motorbike", "people")
    assert [name for _, name in named(found)] == ["people", "aeroplane", "motorbike"]


CLASSNAMES = ("n01 great white shark", "n02 missile", "n10 hen", "n11 missile")


@pytest.mark.parametrize("names", ["imagenet/classnames.txt", "FOLDER/classnames.txt"])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("imagenet_a", "imagenet-adversarial/imagenet-a"),
        ("imagenet_a", "imagenet-a"),
        ("imagenet_r", "imagenet-rendition/imagenet-r"),
        ("imagenet_sketch", "imagenet-sketch/images"),
        ("imagenet_sketch", "ImageNet-Sketch/sketch"),
    ],
)
def test_test_sets_of_imagenet_have_its_names(name: str, folder: str, names: str, tmp_path: Path) -> None:
    files(tmp_path, f"{folder}/n11/a.jpg", f"{folder}/n01/b.JPEG", f"{folder}/README.txt")
    text(tmp_path, names.replace("FOLDER", folder.rpartition("/")[0] or folder), *CLASSNAMES)
    found = open_dataset(f"{name}:{tmp_path}")
    # The second missile of ImageNet, though the set has no other.
    assert named(found) == [("n01/b.JPEG", "great white shark"), ("n11/a.jpg", "missile (2)")]
    assert found.layout == "imagenet"


def test_folders_of_imagenet_v2_are_labels_in_their_order(tmp_path: Path) -> None:
    folder = "imagenetv2/imagenetv2-matched-frequency-format-val"
    files(tmp_path, *(f"{folder}/{label}/a.jpeg" for label in (0, 2, 10)))
    text(tmp_path, "imagenetv2/classnames.txt", *(f"n{label:02} name {label}" for label in range(11)))
    found = open_dataset(f"imagenetv2:{tmp_path}")
    assert named(found) == [("0/a.jpeg", "name 0"), ("2/a.jpeg", "name 2"), ("10/a.jpeg", "name 10")]


def test_published_numbers_add_up() -> None:
    sums = {name: sum(published.images.values()) for name, published in SETS.items()}
    assert (sums["pacs"], sums["vlcs"], sums["office_home"]) == (9_991, 10_729, 15_588)
    assert (sums["domainnet"], sums["visda2017"] + 72_372) == (586_575, 280_157)
    domains = {name: len(published.images) for name, published in SETS.items()}
    assert domains == dict.fromkeys(SETS, 1) | {
        "pacs": 4,
        "vlcs": 4,
        "office_home": 4,
        "visda2017": 2,
        "domainnet": 6,
        "imageclef_da": 3,
    }
    assert len(SETS["imageclef_da"].names) == SETS["imageclef_da"].classes


def test_what_is_unpacked_in_part_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    files(tmp_path, "PACS/photo/dog/1.jpg", "PACS/photo/horse/2.jpg")
    open_dataset(f"pacs-photo:{tmp_path}")
    [told] = caplog.messages
    assert told.startswith(f"data set pacs-photo: {tmp_path}/PACS/photo has 2 of 1,670 images and 2 of 7 classes")
    whole = replace(SETS["pacs"], classes=2, images={"photo": 2})
    monkeypatch.setitem(PUBLISHED, "pacs-photo", (whole, "photo"))
    caplog.clear()
    open_dataset(f"pacs-photo:{tmp_path}")
    assert not caplog.messages


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("pacs-photo:{}/gone", "there is no folder {}/gone/PACS/photo. Get it from domaingeneralization.github.io"),
        ("pacs-photo:{}", "there is no folder {}/PACS/photo"),
        ("pacs-cartoon:{}", "{}/PACS/cartoon has none of its images. Get them from domaingeneralization.github.io"),
        (
            "visda2017-validation:{}",
            "visda17/validation/image_list.txt cannot be read (No such file or directory). Get",
        ),
        ("domainnet-clipart:{}", "clipart_train.txt, line 2: 'clipart/axe/1.jpg' is no path and label"),
        ("domainnet-real:{}", "real_train.txt, line 1: 'real/axe/1.jpg 345' is no path and label"),
        ("domainnet-sketch:{}", "names ../1.jpg, which lies outside"),
        (
            "imagenet_a:{}",
            "{}/imagenet/classnames.txt cannot be read (No such file or directory). Get it from where CoOp",
        ),
        ("imagenet_r:{}", "no name for the folder {}/imagenet-r/n03"),
        ("pacs:{}", "'pacs'. Did you mean 'pacs-photo'? There are: pacs-photo, pacs-art_painting, pacs-cartoon, pacs-"),
        ("pacs-foto:{}", "Did you mean 'pacs-photo'"),
    ],
)
def test_what_is_missing_is_named_with_its_place(where: str, message: str, tmp_path: Path) -> None:
    files(tmp_path, "visda17/validation/car/1.jpg", "imagenet-a/n01/1.jpg", "imagenet-r/n03/1.jpg", "DomainNet/real/x")
    files(tmp_path, "DomainNet/clipart/x", "DomainNet/sketch/x", "PACS/cartoon/dog/.x")
    text(tmp_path, "imagenet-r/classnames.txt", "n01 hen", "n02 cock")
    text(tmp_path, "DomainNet/clipart_train.txt", "clipart/axe/1.jpg 0", "clipart/axe/1.jpg")
    text(tmp_path, "DomainNet/real_train.txt", "real/axe/1.jpg 345")
    text(tmp_path, "DomainNet/sketch_train.txt", "../1.jpg 0")
    with pytest.raises((DataError, UnknownNameError)) as caught:
        open_dataset(where.format(tmp_path))
    assert message.format(tmp_path) in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("verb", [("base-to-novel", "--data"), ("transfer", "--source", "SAME", "--target")])
def test_labelled_images_are_not_measured_on(
    verb: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files(tmp_path, "PACS/photo/dog/1.jpg", "PACS/photo/horse/2.jpg")
    data = f"pacs-photo:{tmp_path}"
    given = [data if part == "SAME" else part for part in verb]
    assert main([*given, data, "--out", str(tmp_path / "out"), "--recipe", "promptkd-embedded", "--quiet"]) == 2
    assert "labelled images of pacs-photo are test images of pacs-photo" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
