"""The synthetic images of a run, written for other tools."""

from __future__ import annotations

import csv
import io
import json
import shutil
import tarfile
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard
from PIL import Image

from clipstill.cli.main import main
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import folder_names, labels_of_folders
from clipstill.core.synthetic_mark import SYNTHETIC
from clipstill.surrogate import layouts
from clipstill.surrogate.dataset import SurrogateSet
from input_tables import failed
from run_fixtures import CLASSES


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "images"


def stored(run: Path) -> list[tuple[str, str, bytes]]:
    """Class, prompt and file of each image, as the run has them."""
    found = SurrogateSet.open(run / "stages" / "surrogate")
    rows = zip(found.records, found.decoded(".png", bytes), strict=True)
    return sorted((CLASSES[record.class_id], record.prompt, data) for record, data in rows)


def is_marked(data: bytes) -> bool:
    picture = Image.open(io.BytesIO(data))
    picture.load()
    return SYNTHETIC in picture.info["XML:com.adobe.xmp"]


@pytest.mark.parametrize("layout", ["folder", "datasets"])
def test_class_folders_hold_every_image_with_its_caption_and_mark(quick_run: Path, out: Path, layout: str) -> None:
    assert main(["images", str(quick_run), "--out", str(out), "--format", layout]) == 0
    with (out / "metadata.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    found = [(row["label"], row["caption"], (out / row["file_name"]).read_bytes()) for row in rows]
    assert sorted(found) == stored(quick_run)
    assert all(is_marked(data) for _, _, data in found)
    # The embedded teacher's parts; the quick run's generator has no weights.
    assert all("Apache-2.0" in row["licence"] for row in rows)
    read = ImageFolder.open(out, CLASSES)
    assert len(read.items) == len(rows)
    assert read.classes_without_images == []


def test_the_card_of_the_data_set_is_what_hubs_read(quick_run: Path, out: Path) -> None:
    assert main(["images", str(quick_run), "--out", str(out), "--format", "datasets"]) == 0
    card = DatasetCard.load(out / "README.md")
    matter = card.data.to_dict()
    assert matter["task_categories"] == ["image-classification"]
    assert "synthetic" in matter["tags"]
    assert matter["license"] != "other" or (matter["license_link"] == "LICENSE.md" and matter["license_name"].islower())
    assert "of 2 classes with the teacher embedded-s" in card.text
    assert "Most restrictive licence found" in (out / "LICENSE.md").read_text()


def test_shards_hold_each_image_beside_its_class_caption_and_facts(
    quick_run: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "_SHARD", 3)
    assert main(["images", str(quick_run), "--out", str(out), "--format", "webdataset"]) == 0
    classes = (out / "classes.txt").read_text().splitlines()
    assert classes == list(CLASSES)
    shards, found = sorted(out.glob("*.tar")), []
    assert [path.name for path in shards] == ["images-00000.tar", "images-00001.tar", "images-00002.tar"]
    for shard in shards:
        with tarfile.open(shard) as tar:
            names = tar.getnames()
            files = {name: tar.extractfile(name).read() for name in names}  # type: ignore[union-attr]
        # All files of a sample stand together, under one key.
        keys = list(dict.fromkeys(name.partition(".")[0] for name in names))
        assert names == [f"{key}.{suffix}" for key in keys for suffix in ("png", "cls", "txt", "json")]
        for key in keys:
            facts = json.loads(files[f"{key}.json"])
            assert classes[int(files[f"{key}.cls"])] == facts["label"]
            assert files[f"{key}.txt"].decode() == facts["caption"]
            found.append((facts["label"], facts["caption"], files[f"{key}.png"]))
    assert sorted(found) == stored(quick_run)


def test_the_same_images_give_the_same_files(quick_run: Path, tmp_path: Path) -> None:
    for name in ("one", "two"):
        assert main(["images", str(quick_run), "--out", str(tmp_path / name), "--format", "webdataset"]) == 0
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_folder_that_holds_something_is_left_as_it_is(
    quick_run: Path, out: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out.mkdir()
    (out / "thesis.tex").write_text("mine")
    assert "holds something" in failed(capsys, "images", quick_run, "--out", out)
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_folder_that_is_no_run_and_a_damaged_run_are_told(
    quick_run: Path, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a clipstill run" in failed(capsys, "images", tmp_path, "--out", out)
    copy = Path(shutil.copytree(quick_run, tmp_path / "run"))
    shard = next((copy / "stages" / "surrogate").glob("*.tar"))
    shard.write_bytes(shard.read_bytes()[:-2000])
    assert shard.name in failed(capsys, "images", copy, "--out", out)
    assert not out.exists()


def test_folders_are_named_so_that_each_leads_back_to_its_class() -> None:
    classes = ("dog", "AC/DC", "..", ".NET", "what?", "a/b", "a:b")
    names = folder_names(classes)
    assert len(set(names)) == len(classes)
    assert not any({"/", "\\", ":", "?"} & set(name) or name in (".", "..") for name in names)
    matched = labels_of_folders(names[:5], classes[:5])
    assert [matched.get(name) for name in (names[0], names[1], names[3], names[4])] == [0, 1, 3, 4]
