"""Published tables: definitions hold, cells are done once and shared, what is missing is named and skipped."""

import csv
import json
import statistics
from pathlib import Path

import pytest

from clipstill.assembly.students import check_student_name
from clipstill.cli.main import main
from clipstill.commands import reproduce as reproducing
from clipstill.commands.few_shot import STARTS
from clipstill.commands.reproduce import ReproduceRequest, Work, reproduce
from clipstill.commands.tables import AVERAGE, Table, load_table, table_names
from clipstill.core.errors import DataError
from clipstill.datasets.places import Places
from clipstill.evaluation.protocols import harmonic_mean
from clipstill.generators import resolve_generators
from clipstill.teachers import resolve_teachers
from clipstill.text import prompt_strategies
from clipstill.workflow.store import lock
from run_fixtures import PROMPTKD, QUICK, noise_photos

NAMES = ("anchor", "dog", "guitar", "horse")
_TUNED = ("prompt_teacher.method=auto", "prompt_teacher.epochs=1", "distillation.epochs=1", "distillation.views=1")
# A network of a few thousand weights, a few steps.
OVERRIDES = {
    "data-free": (*QUICK, "distillation.held_out_styles=0"),
    "few-shot": QUICK,
    "base-to-novel": (*QUICK, *PROMPTKD, *_TUNED),
    "transfer": (*QUICK, *PROMPTKD, *_TUNED),
}
# As printed; the other values follow from base and novel.
MISPRINTS = {("stanford_cars", 83.13), ("ucf101", 86.1), ("imagenet", 71.57)}


def folders(root: Path, *sets: str) -> Path:
    """Tiny data sets of the user's own under the names of published ones."""
    for name in sets:
        for part, each in (("train", 3), ("test", 2)):
            noise_photos(root / name / part, NAMES, each, f"{name} {part}")
    return root


def request(table: Table, root: Path, out: Path, *columns: str, cells: tuple[str, ...] = ()) -> ReproduceRequest:
    overrides = OVERRIDES[table.protocol]
    return ReproduceRequest([str(root)], out, small=True, columns=columns, cells=cells, overrides=overrides)


@pytest.fixture(scope="module")
def tables() -> dict[str, Table]:
    return {name: load_table(name) for name in table_names()}


@pytest.mark.parametrize("small", [False, True])
@pytest.mark.parametrize("name", table_names())
def test_every_cell_has_settings_that_hold(name: str, small: bool, tables: dict[str, Table], tmp_path: Path) -> None:
    table = tables[name]
    work = Work(table, ReproduceRequest([str(tmp_path)], tmp_path, small=small))
    places = {work.place(cell, 1) for cell in work.cells if not cell.variant.missing}
    assert len(places) == sum(not cell.variant.missing for cell in work.cells)
    for cell in work.cells:
        settings = work.settings(cell.variant, cell.column)
        resolve_teachers(settings.teacher.name)
        resolve_generators(settings.generator.name)
        prompt_strategies.resolve(settings.prompts.strategy)
        check_student_name(settings.student)
        with_photos = {} if settings.prompts.images_per_class else {"unlabelled.images": tmp_path}
        settings.changed(**with_photos).check_together()
        assert cell.variant.start in (STARTS if table.protocol == "few-shot" else ("",))
        if small:
            assert settings.teacher.name.startswith("embedded")
            assert (settings.student.tower_of or settings.student.name) in ("embedded-s", "lite0", "lite2")


@pytest.mark.parametrize("name", table_names())
def test_every_data_set_is_known_and_every_value_stands_in_a_column(name: str, tables: dict[str, Table]) -> None:
    table, places = tables[name], Places([])
    for each in [*(each for sets in table.columns.values() for each in sets), *filter(None, [table.source])]:
        with pytest.raises(DataError, match="no place is given"):
            places.open(each)
    rows = [row for variant in table.variants for row in variant.rows]
    assert len({row.name for row in rows}) == len(rows)
    for row in rows:
        assert set(row.values) <= {*table.labels, AVERAGE}


def test_published_harmonic_means_and_averages_follow_from_their_values(tables: dict[str, Table]) -> None:
    """Against slips of the pen: what is computed from the values of a row must be what is printed beside them."""
    checked = 0
    for table in tables.values():
        for row in (row for variant in table.variants for row in variant.rows):
            for label in row.values:
                published = [row.published(label, place) for place in range(3)]
                base, novel, both = published
                if None not in published and (label, both) not in MISPRINTS:
                    assert harmonic_mean(base or 0, novel or 0) == pytest.approx(both, abs=0.011)
                    checked += 1
            for place in range(len(table.metrics)):
                columns = [row.published(label, place) for label in table.columns]
                average = row.published(AVERAGE, place)
                if average is not None and None not in columns and table.metrics[place] != "HM":
                    assert statistics.fmean(value or 0 for value in columns) == pytest.approx(average, abs=0.011)
                    checked += 1
    assert checked > 60


def test_random_splits_of_classes_are_apart_and_the_same_each_time(tmp_path: Path) -> None:
    names = [f"class {number:02}" for number in range(25)]
    for part in ("train", "test"):
        noise_photos(tmp_path / "imagenet" / part, names, 1, part)
    splits = [Places([str(tmp_path)]).open(f"imagenet-{number}") for number in range(1, 11)]
    assert sorted(name for split in splits for name in split.classes) == names
    assert [len(split.classes) for split in splits] == [3] * 5 + [2] * 5
    assert all(split.layout == "imagenet" for split in splits)
    first, whole = splits[0], Places([str(tmp_path)]).open("imagenet")
    assert first.classes == Places([f"imagenet={tmp_path / 'imagenet'}"]).open("imagenet-1").classes
    told = {path: whole.classes[label] for path, label in whole.test}
    assert all(told[path] == first.classes[label] for path, label in first.test)


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
@pytest.mark.parametrize(
    ("name", "column", "cells"),
    [
        ("cvlm-table1", "caltech101", ("baseline", "kd", "meta-ce-kd")),
        ("cvlm-ablations", "caltech101", ("pixels",)),
        ("cvlm-table6", "oxford_flowers", ("text", "image")),
        ("vlfm-domains", "pacs", ("plain", "random")),
        ("vlfm-few-shot", "imageclef-da", ("distilled", "scratch")),
        ("promptkd-base-to-novel", "caltech101", ("promptkd",)),
        ("promptkd-cross-dataset", "dtd", ("promptkd",)),
        ("promptkd-domains", "imagenet_r", ("promptkd",)),
        ("promptkd-ablations", "imagenet", ("projector-alone", "teacher-plain", "temperature-2")),
    ],
)
def test_every_table_runs_at_its_smallest(
    name: str, column: str, cells: tuple[str, ...], tables: dict[str, Table], tmp_path: Path
) -> None:
    table = tables[name]
    root = folders(tmp_path / "data", *table.columns[column], *filter(None, [table.source]))
    result = reproduce(table, request(table, root, tmp_path / "out", column, cells=cells))
    assert (result.counts, result.skipped) == ({"done": len(cells), "cells": len(cells)}, {})
    wanted = {row.name for variant in table.variants if variant.name in cells for row in variant.rows}
    measured = {line.row: line for line in result.lines if line.ours}
    alone = {row.name for variant in table.variants for row in variant.rows if row.of == "published alone"}
    assert set(measured) == wanted - alone
    for line in measured.values():
        assert all(0 <= value <= 100 for value in line.ours.values())
    if name == "cvlm-table1":  # One set of images for the students of equal prompts.
        assert len(list((tmp_path / "out" / "runs").glob("students-*"))) == 2
    if name == "vlfm-domains":
        domains = [line.ours["top-1"] for line in result.lines if line.row == "Random-Prompt"]
        assert domains[4] == pytest.approx(statistics.fmean(domains[:4]))


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_a_table_is_resumed_shown_and_says_what_is_not_comparable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = folders(tmp_path / "data", "caltech101"), tmp_path / "out"
    command = ["reproduce", "cvlm-table1", "--data", str(root), "--out", str(out), "--limit", "small", "--quiet"]
    command += [
        *(f"--set={each}" for each in OVERRIDES["data-free"]),
        "--cells",
        "kd,full/*",
        "--sets",
        "caltech101,imagenet-1",
    ]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["done"], told["cells"], told["comparable"]) == (2, 4, False)
    assert set(told["skipped"]) == {"kd/imagenet-1", "full/imagenet-1"}
    assert "there is no folder" in told["skipped"]["kd/imagenet-1"]
    zero_shot = next(
        each for each in told["values"] if each["row"].startswith("CLIP") and each["data set"] == "caltech101"
    )
    assert zero_shot["published"] == "88.66"
    assert float(zero_shot["difference"]) == pytest.approx(float(zero_shot["ours"]) - 88.66, abs=0.01)
    page = (out / "cvlm-table1.html").read_text()
    assert "NOT COMPARABLE with the published values" in page
    assert "Not run here: full/imagenet-1, kd/imagenet-1: data set imagenet" in page
    rows = list(csv.DictReader((out / "cvlm-table1.csv").open()))
    assert [row["ours"] for row in rows if row["row"].startswith("CLIP") and row["data set"] == "caltech101"] == [
        zero_shot["ours"]
    ]
    assert {row["comparable"] for row in rows} == {"no"}

    files = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")}
    assert len(files) == 2
    # A setting that changes no result makes no other cell.
    assert main([*command, "--set", "reading.workers=0"]) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")} == files
    assert "2 of 4 cells are done; 2 cannot be run here" in capsys.readouterr().out
    # A rank of torchrun works by itself, and does not wait for the other, which is not there.
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "WORLD_SIZE": "2", "RANK": "1", "LOCAL_WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    assert main(command) == 0
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")} == files


@pytest.mark.slow
@pytest.mark.usefixtures("own_torch_settings")
def test_a_cell_of_another_process_is_waited_for(
    tables: dict[str, Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tables["cvlm-table1"]
    asked = request(table, folders(tmp_path / "data", "caltech101"), tmp_path / "out", "caltech101", cells=("kd", "ce"))
    work = Work(table, asked)
    other = next(cell for cell in work.cells if cell.variant.name == "ce")
    place = work.place(other, 0)
    place.parent.mkdir(parents=True)
    held = lock(place.with_name(f".{place.stem}.lock"))
    waits: list[float] = []

    def release(seconds: float) -> None:
        waits.append(seconds)
        held.close()

    monkeypatch.setattr(reproducing.time, "sleep", release)
    assert reproduce(table, asked).counts["done"] == 2
    assert len(waits) == 1


def test_what_is_not_there_is_told(
    tables: dict[str, Table], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*arguments: str) -> str:
        assert main(["reproduce", *arguments, "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
        return capsys.readouterr().err

    assert "Did you mean 'cvlm-table1'?" in told("cvlm-tabel1")
    assert "'cars' is none of the table promptkd-base-to-novel. There are: imagenet, caltech101" in told(
        "promptkd-base-to-novel", "--sets", "cars"
    )
    assert "'l2' is none of" in told("cvlm-table1", "--cells", "l2")
    assert "names no published data set" in told("cvlm-table1", "--data", "cars=/x")
    assert "unknown key" in told("cvlm-table1", "--set", "synthesis.stepps=1")
    assert not (tmp_path / "out").exists()


def test_the_list_says_what_each_table_needs_and_lacks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = folders(tmp_path, "caltech101")
    assert main(["reproduce", "list", "--data", str(root), "--limit", "small", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert set(found) == set(table_names())
    table = found["cvlm-table1"]
    assert (table["ready"], table["cells"]) == (8, 88)
    assert "caltech101" not in table["missing"]
    assert "there is no folder" in table["missing"]["imagenet-1"]
    assert "no loss on features" in found["promptkd-ablations"]["missing"]["loss-l1/imagenet"]
    assert main(["reproduce", "list", "--data", str(root), "--limit", "small"]) == 0
    assert "photos here     caltech101" in capsys.readouterr().out
