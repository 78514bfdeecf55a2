import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.files import commit_manifest, read_json, write_json
from clipstill.stages import student
from clipstill.text.task import parse_task
from clipstill.workflow.cohorts import Cohort
from clipstill.workflow.stage import Stage, Step
from clipstill.workflow.store import LockedStore, Store, read_events, read_run_marker

TASK = parse_task("dog,crane: a bird")
IMAGES = replace(student.STAGE, name="surrogate", per_cohort=True)


def step(key: str, stage: Stage = student.STAGE, number: int = 1) -> Step:
    return Step(stage, key * 64, Cohort(TASK, TASK.names, number=number))


def test_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"not a clipstill run \(it holds 'thesis\.tex'\)"):
        LockedStore(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_leftovers_of_a_kill_at_the_very_start_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-abc.json").touch()
    with LockedStore(tmp_path, 1):
        pass


@pytest.mark.parametrize("name", [".DS_Store", "._a", "Thumbs.db", "desktop.ini"])
def test_files_of_the_system_are_no_strangers(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("of the system")
    with LockedStore(tmp_path, threads=1):
        assert (tmp_path / name).read_text() == "of the system"


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ArtifactError, match="is a file"):
        LockedStore(tmp_path / "out", 1)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": "clipstill-run", "version": 99}')
    with pytest.raises(ArtifactError, match="another version"):
        LockedStore(tmp_path, 1)


def test_marker_of_somebody_else_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"jog": "5 km"}')
    with pytest.raises(ArtifactError, match="not a clipstill run"):
        read_run_marker(tmp_path)
    with pytest.raises(ArtifactError, match="not a clipstill run"):
        LockedStore(tmp_path, 1)


def test_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from clipstill.workflow.store import LockedStore\n"
    hold += f"run = LockedStore(Path({str(tmp_path)!r}), 1); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ResourceError, match="another clipstill process"):
        LockedStore(tmp_path, 1)
    other.kill()  # SIGKILL: nothing of its own cleans up
    other.communicate()
    with LockedStore(tmp_path, 1):
        pass


def test_a_run_keeps_the_threads_it_began_with(tmp_path: Path) -> None:
    with LockedStore(tmp_path, 3) as first:
        assert first.threads == 3
    with LockedStore(tmp_path, 8) as second:
        assert second.threads == 3


def test_event_cut_short_by_a_kill_spoils_no_other(tmp_path: Path) -> None:
    with LockedStore(tmp_path, 1) as run:
        run.event("start", names=["größe"])
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write('{"time": 1, "eve')
    with LockedStore(tmp_path, 1) as run:
        run.event("end")
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "end"]


def test_work_of_other_settings_is_kept_and_comes_back(tmp_path: Path) -> None:
    a, b = step("a"), step("b")
    with LockedStore(tmp_path, 1) as run:
        assert not run.prepare(a)
        (run.folder(a) / "weights").write_text("of a")
        assert run.prepare(b)
        assert not (run.folder(b) / "weights").exists()
        (run.folder(b) / "weights").write_text("of b")
    with LockedStore(tmp_path, 1) as run:
        assert run.prepare(a)
        assert (run.folder(a) / "weights").read_text() == "of a"
        assert run.prepare(b)
        assert (run.folder(b) / "weights").read_text() == "of b"


def test_same_settings_leave_unfinished_work_in_place(tmp_path: Path) -> None:
    images = step("a", IMAGES)
    with LockedStore(tmp_path, 1) as run:
        run.prepare(images)
        (run.folder(images) / "half").write_text("x")
    with LockedStore(tmp_path, 1) as run:
        assert not run.prepare(images)
        assert (run.folder(images) / "half").exists()


def test_damaged_stage_is_set_aside_not_deleted(tmp_path: Path) -> None:
    a = step("a")
    with LockedStore(tmp_path, 1) as run:
        for content in ("first", "second"):
            run.prepare(a)
            (run.folder(a) / "weights").write_text(content)
            run.set_aside("student", a.key)
    kept = sorted((tmp_path / "stages" / "old").iterdir())
    assert [path.name for path in kept] == ["student-damaged", "student-damaged-2"]
    assert [(path / "weights").read_text() for path in kept] == ["first", "second"]


def test_the_folders_say_which_cohorts_and_students_there_are(tmp_path: Path) -> None:
    first, second, trained = step("a", IMAGES), step("b", IMAGES, number=2), step("c")
    with LockedStore(tmp_path, 1) as run:
        for each in (first, second):
            run.prepare(each)
        commit_manifest(run.folder(first), first.key, [])
        run.prepare(trained, images=first.key, trained=True)
        commit_manifest(run.folder(trained), trained.key, [])
    history = Store(tmp_path).history()
    assert [(each.key, each.number, each.complete) for each in history.images] == [
        (first.key, 1, True),
        (second.key, 2, False),
    ]
    assert history.images[0].task == TASK
    assert [(each.cohort.key, each.cohort.task, each.images) for each in history.students] == [
        (trained.key, TASK, first.key)
    ]


def test_a_cohort_that_was_moved_aside_is_remembered_and_a_damaged_one_is_not(tmp_path: Path) -> None:
    first, second, third = (step(key, IMAGES) for key in "abc")
    with LockedStore(tmp_path, 1) as run:
        run.prepare(first)
        (run.folder(first) / "half").write_text("x")
        run.prepare(second)
        run.set_aside("surrogate", second.key)
        run.prepare(third)
    assert [each.key for each in Store(tmp_path).history().images] == [first.key, third.key]


def test_a_record_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    images = step("a", IMAGES)
    with LockedStore(tmp_path, 1) as run:
        run.prepare(images)
        file = run.folder(images) / "stage.json"
        record = read_json(file)
        write_json(file, {name: value for name, value in record.items() if name != "task"})
        with pytest.raises(ArtifactError, match=r"stage\.json"):
            run.history()
    assert json.loads(file.read_text())["key"] == images.key
