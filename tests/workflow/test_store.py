import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.files import commit_manifest, write_json
from clipstill.stages import student
from clipstill.text.task import parse_task
from clipstill.workflow.cohorts import Cohort
from clipstill.workflow.records import read_events
from clipstill.workflow.stage import Stage, Step
from clipstill.workflow.store import LockedStore, Store, read_run_marker

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


@pytest.mark.parametrize("damage", ["", "[]", '{"key": 7}', "[" * 100_000, '{"serial": ' + "9" * 5000 + "}"])
def test_a_damaged_record_is_written_again_beside_work_of_its_key(tmp_path: Path, damage: str) -> None:
    images = step("a", IMAGES)
    with LockedStore(tmp_path, 1) as run:
        run.prepare(images)
        commit_manifest(run.folder(images), images.key, [])
        (run.folder(images) / "stage.json").write_text(damage)
        assert run.history().images == ()
        assert not run.prepare(images)
        assert [cohort.key for cohort in run.history().images] == [images.key]
        assert list((run.stages).glob("old/*")) == []


def test_unfinished_work_with_a_damaged_record_is_kept_aside(tmp_path: Path) -> None:
    images = step("a", IMAGES)
    with LockedStore(tmp_path, 1) as run:
        run.prepare(images)
        (run.folder(images) / "stage.json").write_text("{")
        assert run.prepare(images) == "its stage.json is damaged"
        assert (run.stages / "old" / "surrogate-unknown" / "stage.json").read_text() == "{"


def test_a_cohort_with_a_damaged_manifest_is_not_complete(tmp_path: Path) -> None:
    images = step("a", IMAGES)
    with LockedStore(tmp_path, 1) as run:
        run.prepare(images)
        (run.folder(images) / "MANIFEST.json").write_text("[]")
        assert [cohort.complete for cohort in run.history().images] == [False]


@pytest.mark.parametrize("delete", [False, True])
def test_a_damaged_marker_is_made_again(tmp_path: Path, delete: bool) -> None:
    with LockedStore(tmp_path, 3) as run:
        run.prepare(step("a"))
    (tmp_path / "run.json").write_text('{"format": "clip')
    with pytest.raises(ArtifactError, match=r"run\.json cannot be read as JSON .* Delete it and run the command that"):
        read_run_marker(tmp_path)
    if delete:
        (tmp_path / "run.json").unlink()
    with LockedStore(tmp_path, 2) as run:
        assert run.threads == 2
    kept = [] if delete else [tmp_path / "stages" / "old" / "run.json-damaged"]
    assert list((tmp_path / "stages").glob("old/*")) == kept


def test_events_that_are_none_are_left_out(tmp_path: Path) -> None:
    with LockedStore(tmp_path, 1) as run:
        run.event("start", keys={"student": "a"})
    bad = ['{"time": null, "event": "done"}', "{}", "[" * 100_000, "9" * 5000, '{"time": 1e999, "event": "end"}', "7"]
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write("\n".join(bad))
    with LockedStore(tmp_path, 1) as run:
        run.event("end")
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "end"]


def test_what_a_killed_process_left_half_written_is_swept(tmp_path: Path) -> None:
    images = step("a", IMAGES)
    with LockedStore(tmp_path, 1) as run:
        run.prepare(images)
    for folder in (tmp_path, tmp_path / "stages" / "surrogate"):
        (folder / ".tmp-x.tar").touch()
        (folder / ".tmp-y" / "photos").mkdir(parents=True)
    for name in ("bundle", ".bundle.clipstill-previous", ".other.clipstill-previous"):
        (tmp_path / name / "page").mkdir(parents=True)
    with LockedStore(tmp_path, 1):
        assert list(tmp_path.rglob(".tmp-*")) == []
        # A bundle that was replaced is gone; one whose place is empty waits for its reader.
        assert [path.name for path in tmp_path.glob(".*-previous")] == [".other.clipstill-previous"]


@pytest.mark.parametrize("name", ["preview.png", "stages/surrogate/shard.tar", "stages/student/work/state"])
def test_no_part_of_a_run_folder_that_was_moved_away_comes_up_again(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    with LockedStore(out, 1) as run:
        out.rename(tmp_path / "moved")
        for write in (lambda: write_json(out / name, {}), lambda: run.prepare(step("a"))):
            with pytest.raises(ResourceError, match="was moved or deleted while clipstill was working in it"):
                write()
    assert not out.exists()
    with LockedStore(tmp_path / "moved", 1):
        pass
