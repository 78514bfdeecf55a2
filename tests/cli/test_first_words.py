"""What people type first: it works, or one line says what to type instead."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from clipstill.cli.main import main
from clipstill.cli.options import classes_of
from clipstill.core.errors import ConfigError
from export_fixtures import LABELS, bundle_and_photos
from input_tables import failed


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle in a run folder, and photos."""
    folder = bundle_and_photos(tmp_path_factory.mktemp("first"))
    (folder / "runs" / "zoo").mkdir(parents=True)
    (folder / "bundle").rename(folder / "runs" / "zoo" / "bundle")
    return folder


@pytest.fixture(autouse=True)
def _here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place)


@pytest.mark.parametrize(
    ("words", "classes"),
    [
        (["dog", "cat"], "dog,cat"),
        (["dog,", "cat"], "dog,cat"),
        (["dog,cat"], "dog,cat"),
        (["classes.txt"], "classes.txt"),
        (["dog", "sea horse"], "dog,sea horse"),
        (["crane: a bird, wading", "dog"], ["crane: a bird, wading", "dog"]),
    ],
)
def test_class_names_may_stand_behind_the_verb(words: list[str], classes: str | list[str]) -> None:
    assert classes_of(words, "") == classes


def test_class_names_in_two_places_are_refused() -> None:
    with pytest.raises(ConfigError, match="'cat' stands beside --classes"):
        classes_of(["cat"], "dog")


@pytest.mark.parametrize("verb", ["run", "plan", "zero-shot"])
def test_the_verbs_that_take_classes_read_them(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    more = ["--out", "zoo"] if verb == "zero-shot" else []
    assert "class 'dog' appears twice" in failed(capsys, verb, "dog", "dog", *more)


def test_evaluate_takes_the_photos_behind_the_run_and_lists_the_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "runs/zoo", "photos"]) == 0
    shown = capsys.readouterr().out
    assert "2 wrong" in shown  # All three pictures are alike.
    assert main(["evaluate", "runs/zoo", "photos", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    wrong = {name for name in LABELS if f"photos/{name}/a.png" in shown}
    assert {each["label"] for each in found["mistakes"]} == wrong
    assert len(wrong) == 2
    assert len({each["said"] for each in found["mistakes"]}) == 1
    assert "evaluate RUN photos" in failed(capsys, "evaluate", "runs/zoo")


def test_predict_without_a_run_names_the_newest_one(capsys: pytest.CaptureFixture[str]) -> None:
    photo = f"photos/{LABELS[0]}/a.png"
    assert f"clipstill predict runs/zoo {photo}" in failed(capsys, "predict", photo)
    assert f"clipstill predict elsewhere {photo}" in failed(capsys, "predict", photo, *_folder("elsewhere"))
    assert "clipstill predict runs/zoo photo.jpg" in failed(capsys, "predict", "runs/zoo")
    assert "not a clipstill bundle" in failed(capsys, "predict", "photos")


def test_predict_without_any_run_says_how_to_make_one(
    capsys: pytest.CaptureFixture[str], place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert 'clipstill run "dog,cat"' in failed(capsys, "predict", place / "photos" / LABELS[0] / "a.png")


def test_predict_writes_a_table_the_most_doubtful_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    for number, colour in enumerate(("red", "green", "white", "black")):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{number}.png")
    (tmp_path / "damaged.png").write_text("x")
    assert main(["predict", "runs/zoo", str(tmp_path), "--csv", str(tmp_path / "a.csv"), "--json"]) == 2
    answers = {each["photo"]: each for each in json.loads(capsys.readouterr().out) if "error" not in each}
    rows = list(csv.DictReader((tmp_path / "a.csv").open()))
    assert list(rows[0]) == ["path", "answer", "best_guess", "probability", "refused"]
    assert {row["path"] for row in rows} == set(answers)
    assert [float(row["probability"]) for row in rows] == sorted(float(row["probability"]) for row in rows)
    for row in rows:
        best = answers[row["path"]]["predictions"][0]
        assert (row["answer"], row["best_guess"], row["refused"]) == (best["label"], best["label"], "no")
        assert float(row["probability"]) == pytest.approx(best["score"], abs=1e-4)


def test_a_refused_photo_has_no_class_for_an_answer_in_lines_table_and_json(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from clipstill import runtime

    def strict(*given: Any, **options: Any) -> runtime.Bundle:
        return replace(load(*given, **options), refusal_threshold=1.0)  # Above any score but certainty.

    load, photo = runtime.load_bundle, f"photos/{LABELS[0]}/a.png"
    best = load("runs/zoo").predict(photo)[0]
    monkeypatch.setattr(runtime, "load_bundle", strict)
    assert main(["predict", "runs/zoo", photo, "--csv", str(tmp_path / "a.csv")]) == 0
    assert capsys.readouterr().out.startswith(f"{photo}: none of these (most like {best.label} ")
    assert (tmp_path / "a.csv").read_text().splitlines()[1] == (
        f"{photo},none of these,{best.label},{best.score:.4f},yes"
    )
    assert main(["predict", "runs/zoo", photo, "--json"]) == 0
    [found] = json.loads(capsys.readouterr().out)
    assert (found["label"], found["score"], found["refused"]) == (None, best.score, True)
    assert found["predictions"][0]["label"] == best.label


@pytest.mark.parametrize("more", [[], ["--json"]], ids=["lines", "json"])
def test_the_table_is_written_though_nobody_reads_the_answers(tmp_path: Path, more: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    table = tmp_path / "a.csv"
    # Unbuffered, so that the first line finds the pipe closed, as the later ones of a thousand photos do.
    program = [sys.executable, "-u", "-m", "clipstill", "predict", "runs/zoo", "photos", "--csv", str(table), *more]
    done = subprocess.run(program, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=300, check=False)
    os.close(writer)
    assert done.stderr == ""
    assert len(list(csv.DictReader(table.open()))) == len(LABELS)


def test_list_shows_size_licence_and_when_to_take_a_part(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", "teachers"]) == 0
    head, first, *_ = capsys.readouterr().out.splitlines()
    assert head.split() == ["teachers", "size", "licence", "take", "it", "when"]
    assert first.split()[:4] == ["embedded-m", "59.9", "MB", "Apache-2.0"]
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["teachers", "students", "generators", "prompts", "formats", "recipes"]
    assert all(part["take it when"] for of in found.values() for part in of)
    assert "tower:TEACHER" in [part["name"] for part in found["students"]]


def _folder(name: str) -> list[str]:
    Path(name).mkdir(exist_ok=True)
    return [name]
