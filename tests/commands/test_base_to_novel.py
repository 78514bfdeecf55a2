"""The base-to-novel protocol on a handful of pictures: rows, what is restricted, and what is done once."""

import json
from pathlib import Path

import pytest
import torch

from clipstill.cli.main import main
from clipstill.core.files import read_json
from clipstill.core.image_folder import ImageFolder
from run_fixtures import PROMPTKD, QUICK, noise_photos

NAMES = ("anchor", "dog", "guitar")


def data(folder: Path) -> Path:
    for part, each in (("train", 3), ("test", 2)):
        noise_photos(folder / part, NAMES, each)
    return folder


def run(folder: Path, out: Path, *more: str) -> int:
    settings = (
        *QUICK,
        *PROMPTKD,
        "distillation.checkpoint_every=2",
        "prompt_teacher.method=auto",
        "prompt_teacher.epochs=2",
    )
    given = [part for setting in settings for part in ("--set", setting)]
    command = ["base-to-novel", "--data", str(folder), "--out", str(out), "--recipe", "default", "--seeds", "1"]
    return main([*command, "--shots", "2", "--quiet", "--json", *given, *more])


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_all_rows_are_measured_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = data(tmp_path / "data"), tmp_path / "out"
    assert run(folder, out) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == [
        "zero-shot embedded-s",
        "CoOp embedded-s",
        "teacher embedded-s, 2-shot prompts",
        "student tower:embedded-s",
        "student tower:embedded-s, best of its validations by the base test images",
    ]
    assert [row["transductive"] for row in rows.values()] == [False, False, False, True, True]
    last, best = list(rows.values())[3:]
    watched = read_json(next((out / "measured").glob("*-validations.json")))
    assert [entry["step"] for entry in watched] == [2, 3]
    assert watched[-1]["base"] == last["base"][0]  # two ways to the same number
    assert best["base"][0] == max(entry["base"] for entry in watched)
    for row in rows.values():
        assert {value % 25 for value in row["base"]} == {0}  # two classes of two images
        assert row["novel"] == [100]  # one class, and nothing competes with it
    # The labelled images are of base classes alone, the unlabelled ones of all.
    (told,) = (out / "teachers").glob("*.json")
    assert read_json(told)["classes"] == ["anchor", "dog"]
    assert read_json(next(out.glob("tower-*")) / "stages" / "student" / "history.json")["unlabelled"] == 9

    before = {path: path.stat().st_mtime_ns for path in (out / "measured").iterdir()}
    assert run(folder, out) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert {path: path.stat().st_mtime_ns for path in (out / "measured").iterdir()} == before


def test_bad_seeds_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(data(tmp_path / "data"), tmp_path / "out", "--seeds", "one") == 2
    assert "Give whole numbers joined by commas" in capsys.readouterr().err


def test_a_folder_of_files_counts_from_its_root(tmp_path: Path) -> None:
    from clipstill.datasets import open_dataset, without_labels

    whole = open_dataset(data(tmp_path / "data"))
    folder = without_labels(whole.folder("train"))
    assert isinstance(folder, ImageFolder)
    assert {label for _, label in folder.items} == {-1}
    assert all(path.is_relative_to(folder.path) for path, _ in folder.items)
    assert torch.tensor([label for _, label in whole.folder("test").items]).tolist() == [0, 0, 1, 1, 2, 2]
