"""Data sets: the layouts of CoOp, folders and tables, halves and few shots."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from clipstill.core.errors import DataError, UnknownNameError
from clipstill.datasets import Dataset, open_dataset
from clipstill.datasets.coop import LAYOUTS
from clipstill.text.task import parse_task
from clipstill.text.templates import DATASET_TEMPLATES, class_texts


def split_file(root: Path, layout: str, names: list[str], labels: list[int] | None = None) -> None:
    folder = root / LAYOUTS[layout].folder
    folder.mkdir(parents=True)
    rows = [[f"{name}/1.jpg", label, name] for label, name in zip(labels or range(len(names)), names, strict=True)]
    (folder / LAYOUTS[layout].split).write_text(json.dumps({"train": rows, "val": rows[:1], "test": rows}))


def test_every_layout_has_its_sentence() -> None:
    assert set(LAYOUTS) == set(DATASET_TEMPLATES)


@pytest.mark.parametrize("layout", sorted(name for name, each in LAYOUTS.items() if each.split))
def test_split_files_are_read_where_their_images_lie(layout: str, tmp_path: Path) -> None:
    split_file(tmp_path, layout, ["first_class", "second"])
    found = open_dataset(f"{layout}:{tmp_path}")
    assert found.classes == ("first class", "second")
    images = tmp_path / LAYOUTS[layout].folder / LAYOUTS[layout].images
    assert found.test == ((images / "first_class/1.jpg", 0), (images / "second/1.jpg", 1))
    assert found.train == found.test


def test_names_are_mended_and_what_is_dropped_leaves_no_gap(tmp_path: Path) -> None:
    split_file(tmp_path, "caltech101", ["BACKGROUND_Google", "Faces", "Faces_easy", "Leopards", "wild_cat"])
    assert open_dataset(f"caltech101:{tmp_path}").classes == ("face", "leopard", "wild cat")
    split_file(tmp_path, "eurosat", ["AnnualCrop", "SeaLake"])
    assert open_dataset(f"eurosat:{tmp_path}").classes == ("Annual Crop Land", "Sea or Lake")


def test_imagenet_takes_its_names_from_a_list_and_its_validation_set_to_measure(tmp_path: Path) -> None:
    folder = tmp_path / "imagenet"
    for part in ("train", "val"):
        for entry in ("n02", "n01"):
            (folder / "images" / part / entry).mkdir(parents=True)
            (folder / "images" / part / entry / "a.JPEG").touch()
    (folder / "classnames.txt").write_text("n01 great white shark\nn02 hen\n")
    found = open_dataset(f"imagenet:{tmp_path}")
    assert found.classes == ("great white shark", "hen")
    assert found.test == (
        (folder / "images/val/n01/a.JPEG", 0),
        (folder / "images/val/n02/a.JPEG", 1),
    )
    (folder / "classnames.txt").write_text("n01 great white shark\n")
    with pytest.raises(DataError, match="no name for the folder n02"):
        open_dataset(f"imagenet:{tmp_path}")


def test_two_classes_of_imagenet_may_have_one_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, names = tmp_path / "imagenet", {"n1": "missile", "n2": "dog", "n3": "missile"}
    for place in (folder / "images" / part / each for part in ("train", "val") for each in names):
        place.mkdir(parents=True)
        (place / "a.JPEG").touch()
    (folder / "classnames.txt").write_text("".join(f"{each} {name}\n" for each, name in names.items()))
    found = open_dataset(f"imagenet:{tmp_path}")
    assert found.classes == ("missile", "dog", "missile (2)")
    assert [label for _, label in found.test] == [0, 1, 2]
    assert "missile (2) have names of other classes" in caplog.text
    # A protocol's run takes them, and its teacher reads one word.
    task = parse_task(list(found.classes))
    assert task.names == found.classes
    assert class_texts(task, ["{class}"]) == [["missile"], ["dog"], ["missile"]]


def test_two_folders_may_have_one_name_behind_their_wordnet_ids(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("n03773504_missile", "n04008634_missile", "dog"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").touch()
    assert open_dataset(tmp_path).classes == ("dog", "missile", "missile (2)")


def test_aircraft_comes_with_lists_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "fgvc_aircraft"
    folder.mkdir()
    (folder / "variants.txt").write_text("707-320\nFokker 100\n")
    for part in ("train", "test"):
        (folder / f"images_variant_{part}.txt").write_text("0001 Fokker 100\n0002 707-320\n")
    found = open_dataset(f"fgvc_aircraft:{tmp_path}")
    assert found.classes == ("707-320", "Fokker 100")
    assert found.train[0] == (folder / "images/0001.jpg", 1)
    (folder / "images_variant_test.txt").write_text("0001 Concorde\n")
    with pytest.raises(DataError, match="'Concorde', which is not in variants.txt"):
        open_dataset(f"fgvc_aircraft:{tmp_path}")


def test_folders_and_tables_say_the_same(tmp_path: Path) -> None:
    rows = ["path,class,split"]
    for part in ("train", "test"):
        for name in ("dog", "sea_horse"):
            (tmp_path / part / name).mkdir(parents=True)
            (tmp_path / part / name / "1.png").touch()
            rows.append(f"{part}/{name}/1.png,{name.replace('_', ' ')},{part}")
    rows.append("val/cat/1.png,cat,val")
    (tmp_path / "list.csv").write_text("\n".join(rows))
    folders, table = open_dataset(tmp_path), open_dataset(tmp_path / "list.csv")
    assert folders.classes == table.classes == ("dog", "sea horse")
    assert (folders.train, folders.test) == (table.train, table.test)


def test_the_first_half_of_101_classes_is_51_and_novel_labels_start_at_0() -> None:
    files = tuple((Path(f"{label}.png"), label) for label in range(101))
    whole = Dataset("all", Path(), tuple(f"class {label}" for label in range(101)), files, files)
    base, novel = whole.half("base"), whole.half("novel")
    assert (len(base.classes), len(novel.classes)) == (51, 50)
    assert [label for _, label in novel.test] == list(range(50))
    assert novel.test[0] == (Path("51.png"), 0)
    assert novel.classes[0] == "class 51"


def test_few_shots_are_drawn_for_each_class_by_itself() -> None:
    files = tuple((Path(f"{label}-{i}.png"), label) for label in range(4) for i in range(9 if label else 2))
    whole = Dataset("all", Path(), ("a", "b", "c", "d"), files, files)
    few = whole.few(5, seed=1)
    assert [sum(label == each for _, label in few.train) for each in range(4)] == [2, 5, 5, 5]
    assert few.test == files
    assert [path for path, label in few.train if label == 2] == [
        path for path, label in whole.half("novel").few(5, seed=1).train if label == 0
    ]
    assert few.train != whole.few(5, seed=2).train


@pytest.mark.parametrize(
    ("where", "message"),
    [
        ("caltech:{}", "no data set layout 'caltech'. Did you mean 'caltech101'"),
        ("dtd:{}", "there is no folder"),
        ("{}/nothing", "there is no data set"),
        ("{}/empty", "has no folder 'train'"),
        ("{}/short.csv", "no column 'split'. It needs the columns path, class, split, and has: path, class."),
        ("{}/other.csv", "no column 'path'. It needs the columns path, class, split, and has: file;label."),
        ("{}/bare.csv", "no column 'path'. It needs the columns path, class, split, and has: none."),
        ("{}/odd.csv", "line 3: each row needs a path, a class and a split"),
        ("{}/away.csv", "lies outside of its folder"),
        ("{}/half.csv", "no row whose split is 'test'"),
        ("food101:{}", "is no split file"),
        ("sun397:{}", "lies outside of its folder"),
        ("ucf101:{}", "label 0 is called 'a' and 'b'"),
        ("stanford_cars:{}", "cannot be read"),
        ("oxford_pets:{}", "two or more"),
    ],
)
def test_what_cannot_be_read_is_told_in_a_line(where: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "short.csv").write_text("path,class\na.png,dog\n")
    (tmp_path / "other.csv").write_text("file;label\na.png;dog\n")
    (tmp_path / "bare.csv").touch()
    (tmp_path / "odd.csv").write_text("path,class,split\na.png,dog,train\nb.png,dog,somewhere\n")
    (tmp_path / "away.csv").write_text("path,class,split\n/etc/a.png,dog,train\n")
    (tmp_path / "half.csv").write_text("path,class,split\na.png,dog,train\n")
    (tmp_path / "food-101").mkdir()
    (tmp_path / "food-101" / "split_zhou_Food101.json").write_text('{"train": []}')
    split_file(tmp_path, "sun397", ["../../etc"])
    split_file(tmp_path, "ucf101", ["a", "b"], [0, 0])
    (tmp_path / "stanford_cars").mkdir()
    split_file(tmp_path, "oxford_pets", ["cat"])
    with pytest.raises((DataError, UnknownNameError), match=message) as caught:
        open_dataset(where.format(tmp_path))
    assert "\n" not in str(caught.value)
