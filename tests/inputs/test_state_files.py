"""Damaged files of a run folder: one line that names the file, or work that does not mind; nothing lost, no waiting."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from clipstill.cli.main import main
from input_tables import failed, refused, table
from run_fixtures import QUICK, run_arguments

DEEP, LONG = "[" * 100_000, "9" * 5000
NO_RUN, NOT_BEGUN = "is not a clipstill run", "was not begun: it has no settings yet"
NO_JSON, NO_YAML = "cannot be read as JSON", "is not valid YAML"
UNHARMED = "1 would be left"  # What a whole run of two classes answers.
PIPE, FOLDER, GONE = object(), object(), object()

# A file of a run and what it holds; words of the one line of ``remove-class``.
FILES: dict[str, tuple[tuple[str, object], str]] = {
    "a marker that is empty": (("run.json", ""), f"run.json {NO_JSON}"),
    "a marker cut short": (("run.json", '{"format": "clip'), f"run.json {NO_JSON}"),
    "a marker that is a list": (("run.json", "[]"), NO_RUN),
    "a marker of nothing": (("run.json", "null"), NO_RUN),
    "a marker of somebody else": (("run.json", '{"jog": "5 km"}'), NO_RUN),
    "a marker of the future": (("run.json", '{"format": "clipstill-run", "version": 99}'), "another version"),
    "a marker of many threads": (
        ("run.json", '{"format": "clipstill-run", "version": 2, "threads": 9999}'),
        "run.json is damaged (threads",
    ),
    "a marker that is deep": (("run.json", DEEP), "nested too deeply"),
    "a marker of digits": (("run.json", LONG), f"run.json {NO_JSON}"),
    "a marker that is not UTF-8": (("run.json", b"\xff\xfe"), "not UTF-8"),
    "a marker that is a pipe": (("run.json", PIPE), NO_RUN),
    "a marker that is a folder": (("run.json", FOLDER), NO_RUN),
    "no marker": (("run.json", GONE), NO_RUN),
    "classes cut short": (("task.json", '{"names": ["do'), f"task.json {NO_JSON}"),
    "classes that are empty": (("task.json", ""), NOT_BEGUN),
    "classes that are a list": (("task.json", "[]"), "task.json is damaged"),
    "classes of numbers": (("task.json", '{"names": 7, "descriptions": {}}'), "task.json is damaged (names"),
    "classes without descriptions": (("task.json", '{"names": ["a", "b"], "descriptions": []}'), "new folder"),
    "classes that are deep": (("task.json", DEEP), "nested too deeply"),
    "classes that are a pipe": (("task.json", PIPE), NOT_BEGUN),
    "no classes": (("task.json", GONE), NOT_BEGUN),
    "settings that are empty": (("config.yaml", ""), NOT_BEGUN),
    "settings cut short": (("config.yaml", "seed: ["), f"config.yaml, line 1, {NO_YAML}"),
    "settings that are a list": (("config.yaml", "- a\n"), "must hold settings"),
    "settings of digits": (("config.yaml", LONG), "must hold settings"),
    "settings that grow": (("config.yaml", "a: &a [x]\nb: *a\n"), "aliases are not read"),
    "settings of another version": (("config.yaml", "sead: 1\n"), "unknown key 'sead'"),
    "settings that are not UTF-8": (("config.yaml", b"\xff\xfe"), "not UTF-8"),
    "settings that are a pipe": (("config.yaml", PIPE), NOT_BEGUN),
    "no settings": (("config.yaml", GONE), NOT_BEGUN),
    "events of nothing": (("events.jsonl", "null\n"), UNHARMED),
    "events without times": (("events.jsonl", '{"time": null, "event": "start", "keys": 7}\n'), UNHARMED),
    "events that are deep": (("events.jsonl", f"{DEEP}\n{LONG}\n"), UNHARMED),
    "events that are a pipe": (("events.jsonl", PIPE), UNHARMED),
    "no events": (("events.jsonl", GONE), UNHARMED),
    "a plan that is deep": (("plan.json", DEEP), UNHARMED),
    "a stage's record that is deep": (("stages/surrogate/stage.json", DEEP), UNHARMED),
    "a stage's record that is a pipe": (("stages/surrogate/stage.json", PIPE), UNHARMED),
    "a stage's manifest that is a list": (("stages/student/MANIFEST.json", "[]"), UNHARMED),
    "a file of the system": ((".DS_Store", "x"), UNHARMED),
    "a copy of a marker by a cloud": (("run (conflicted copy).json", "{"), UNHARMED),
    "a copy of settings by an editor": (("config.yaml~", "seed: ["), UNHARMED),
    "a lock of another machine": ((".lock", "999999 elsewhere"), UNHARMED),
    "a marker of zeros": (("run.json", bytes(100)), f"run.json {NO_JSON}"),
    "classes in UTF-16": (("task.json", '{"names": []}'.encode("utf-16")), "not UTF-8"),
    "events of UTF-16": (("events.jsonl", '{"event": "start"}\n'.encode("utf-16")), UNHARMED),
    "events of numbers that are none": (("events.jsonl", '{"time": NaN, "event": "start", "keys": {}}\n'), UNHARMED),
}


def damage(path: Path, content: object) -> None:
    path.unlink(missing_ok=True)
    if content is PIPE:
        os.mkfifo(path)
    elif content is FOLDER:
        path.mkdir()
    elif content is not GONE:
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())


@table(FILES)
def test_a_file_of_a_run(
    given: tuple[str, object], expected: str, quick_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(quick_copy / given[0], given[1])
    assert expected in refused(capsys, quick_copy, "remove-class", quick_copy, "guitar")


@pytest.mark.parametrize("name", ["events.jsonl", ".lock"])
def test_a_run_waits_for_no_pipe(name: str, quick_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    damage(quick_copy / name, PIPE)
    line = failed(capsys, *run_arguments(quick_copy, QUICK, "--quiet"))
    assert f"cannot write {quick_copy / name}: it is a pipe or a device" in line


def test_a_deleted_list_of_events_is_begun_anew(quick_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(quick_copy / "stages" / "old", ignore_errors=True)
    damage(quick_copy / "events.jsonl", GONE)
    assert main(run_arguments(quick_copy, QUICK, "--quiet")) == 0
    assert "guitar" in capsys.readouterr().out
    assert (quick_copy / "events.jsonl").is_file()


def with_lines_of_windows(data: bytes) -> bytes:
    return data.replace(b"\n", b"\r\n")


def with_mark_of_byte_order(data: bytes) -> bytes:
    return b"\xef\xbb\xbf" + data


@pytest.mark.parametrize("change", [with_lines_of_windows, with_mark_of_byte_order])
def test_a_run_that_another_system_rewrote_is_still_done(
    change: Callable[[bytes], bytes], quick_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("run.json", "task.json", "config.yaml", "events.jsonl"):
        (quick_copy / name).write_bytes(change((quick_copy / name).read_bytes()))
    before = (quick_copy / "bundle" / "model.onnx").stat().st_mtime_ns
    assert main(run_arguments(quick_copy, QUICK, "--quiet")) == 0
    assert "guitar" in capsys.readouterr().out
    assert (quick_copy / "bundle" / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.parametrize("name", ["two words", "a space behind ", "x\u202ey", "two\nlines", "\U0001f4f7"])
def test_a_run_that_was_renamed_is_still_done(name: str, quick_copy: Path) -> None:
    renamed = quick_copy.rename(quick_copy.with_name(name))
    for path in renamed.rglob("*"):
        os.utime(path, (4e9, 4e9))  # By a clock that is years ahead.
    before = (renamed / "bundle" / "model.onnx").stat().st_mtime_ns
    assert main(run_arguments(renamed, QUICK, "--quiet")) == 0
    assert (renamed / "bundle" / "model.onnx").stat().st_mtime_ns == before


@pytest.mark.parametrize("text", ["cow.txt", "cow,pig", "cow; pig", "classes.CSV"])
def test_one_class_is_no_list(text: str, quick_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Give each class by itself" in refused(capsys, quick_copy, "add-class", quick_copy, text)
