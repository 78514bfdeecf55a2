"""Labels of one data set, measured on others: whose images are seen, who shares a student, what is done once."""

import json
from pathlib import Path

import pytest
import torch

from clipstill.cli.main import main
from clipstill.commands.protocol import with_photos
from clipstill.core.files import read_json
from clipstill.datasets import joined, open_dataset
from clipstill.evaluation.protocols import Transfer, table
from clipstill.teachers import load_teacher
from clipstill.teachers.prompted import prompted, save_prompts
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.store import read_task
from run_fixtures import PROMPTKD, QUICK, noise_photos

THREE, TWO = ("anchor", "dog", "guitar"), ("dog", "guitar")


def data(folder: Path, names: tuple[str, ...] = THREE) -> Path:
    for part, each in (("train", 3), ("test", 2)):
        noise_photos(folder / part, names, each)
    return folder


def run(out: Path, *more: str) -> int:
    settings = (*QUICK, *PROMPTKD, "distillation.checkpoint_every=2", "prompt_teacher.method=auto")
    given = [part for setting in (*settings, "prompt_teacher.epochs=1") for part in ("--set", setting)]
    command = [
        "transfer",
        "--out",
        str(out),
        "--recipe",
        "default",
        "--seeds",
        "1",
        "--shots",
        "1",
        "--quiet",
        "--json",
    ]
    return main([*command, *given, *more])


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_each_target_has_a_student_that_saw_its_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, sketch = data(tmp_path / "photo"), data(tmp_path / "sketch", TWO)
    between = ("--source", str(photo), "--target", str(photo), "--target", str(sketch))
    assert run(tmp_path / "out", *between) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == [
        "zero-shot embedded-s",
        "CoOp embedded-s",
        "teacher embedded-s, 1-shot prompts of photo",
        "student tower:embedded-s",
        "student tower:embedded-s, best of its validations by the test images",
    ]
    assert [row["transductive"] for row in rows.values()] == [False, False, False, True, True]
    assert all(list(row["top1"]) == ["photo", "sketch"] for row in rows.values())
    # A pupil a target, both taught by the same prompts, which the source's labels alone have made.
    folders = sorted((tmp_path / "out").glob("tower-*"))
    assert sorted(read_json(each / "stages" / "student" / "history.json")["unlabelled"] for each in folders) == [6, 9]
    assert len(list((tmp_path / "out" / "teachers").glob("*.safetensors"))) == 1
    assert not list((tmp_path / "out").glob("tower-*/report.html"))  # no protocol needs it

    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "measured").iterdir()}
    assert run(tmp_path / "out", *between) == 0
    assert json.loads(capsys.readouterr().out) == rows
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out" / "measured").iterdir()} == before


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_one_student_of_the_source_serves_all_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo, sketch = data(tmp_path / "photo"), data(tmp_path / "sketch", TWO)
    more = ("--target", str(photo), "--target", str(sketch), "--unlabelled", "source", "--shots", "0", "--no-baselines")
    assert run(tmp_path / "out", "--source", str(photo), "--source", str(data(tmp_path / "art")), *more) == 0
    rows = json.loads(capsys.readouterr().out)
    assert next(iter(rows)) == "student tower:embedded-s"
    assert not any(row["transductive"] for row in rows.values())
    (folder,) = (tmp_path / "out").glob("tower-*")
    assert read_json(folder / "stages" / "student" / "history.json")["unlabelled"] == 18
    # Only the target's own two classes compete: chance is one in two, and four images have a share of one in four each.
    assert rows["student tower:embedded-s"]["top1"]["sketch"][0] % 25 == 0


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_given_prompts_need_no_source_and_classes_may_share_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = data(tmp_path / "target", ("n03773504_missile", "n04008634_missile", "dog"))
    teacher = prompted(load_teacher("embedded-s", torch.device("cpu")), words="a", rank=4)
    save_prompts(teacher, tmp_path / "prompts.safetensors")
    more = ("--target", str(target), "--set", f"prompt_teacher.weights={tmp_path / 'prompts.safetensors'}")
    assert run(tmp_path / "out", *more) == 0
    rows = json.loads(capsys.readouterr().out)
    assert list(rows) == [
        "zero-shot embedded-s",
        "teacher embedded-s, imported prompts",
        "student tower:embedded-s",
        "student tower:embedded-s, best of its validations by the test images",
    ]
    (folder,) = (tmp_path / "out").glob("tower-embedded-s-target-imported-seed-1-*")
    assert read_task(folder).names == ("dog", "missile", "missile (2)")
    assert not (tmp_path / "out" / "teachers").exists()


def test_without_a_source_something_must_be_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = ("--target", str(data(tmp_path / "target")))
    assert run(tmp_path / "out", *target) == 2
    assert "no source whose 1 images of each class the teacher could learn from" in capsys.readouterr().err
    assert run(tmp_path / "out", *target, "--shots", "0", "--unlabelled", "source") == 2
    assert "no source whose images the student could see" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_classes_that_a_student_cannot_know_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small, large = data(tmp_path / "small", TWO), data(tmp_path / "large")
    more = ("--source", str(small), "--target", str(large), "--unlabelled", "source")
    assert run(tmp_path / "out", *more) == 2
    assert "'anchor' is a class of large and not of small" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_targets_need_names_of_their_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    photo = str(data(tmp_path / "photo"))
    assert run(tmp_path / "out", "--source", photo, "--target", photo, "--target", photo) == 2
    assert "two targets are called 'photo'" in capsys.readouterr().err


def test_domains_are_joined_where_their_classes_are_the_same(tmp_path: Path) -> None:
    photo, art = open_dataset(data(tmp_path / "photo")), open_dataset(data(tmp_path / "art"))
    both = joined([photo, art])
    assert both.name == "photo+art"
    assert (len(both.train), len(both.test)) == (18, 12)
    assert all(path.is_relative_to(both.root) for path, _ in both.train)
    assert len(both.few(2, seed=0).train) == 6
    assert joined([photo]) is photo
    with pytest.raises(Exception, match="have different classes"):
        joined([photo, open_dataset(data(tmp_path / "few", TWO))])


def test_what_a_student_is_shown_follows_the_settings(tmp_path: Path) -> None:
    photo, config = open_dataset(data(tmp_path / "photo")), load_settings("promptkd")
    told, shown = with_photos(config, photo)
    assert told.unlabelled.images == photo.root
    assert sorted(shown.items) == sorted((path, -1) for path, _ in photo.train)
    few = load_settings("promptkd", overrides=["unlabelled.limit=4"])
    assert len(with_photos(few, photo)[1].items) == 4  # type: ignore[union-attr]
    told, shown = with_photos(config, None)
    assert (config.prompts.images_per_class, told.prompts.images_per_class, shown) == (0, 24, None)
    told.check_together()


def test_the_table_says_who_saw_what() -> None:
    row = Transfer({"a": (50.0, 60.0), "b": (70.0, 70.0)}, "target")
    assert row.means == (60.0, 65.0)
    assert table({"student": row}).splitlines() == [
        "| method | a | b | mean | saw target images |",
        "|---|---:|---:|---:|---|",
        "| student | 55.00 ± 7.07 | 70.00 ± 0.00 | 62.50 ± 3.54 | yes, unlabelled |",
    ]
    assert "those of the source" in table({"student": Transfer(row.top1, "source")})
