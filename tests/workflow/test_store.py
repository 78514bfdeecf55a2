import json
import subprocess
import sys
from pathlib import Path

import pytest

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.workflow.store import RunFolder, read_events, read_run_marker


def test_folder_with_something_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(ArtifactError, match=r"not a clipstill run \(it holds 'thesis\.tex'\)"):
        RunFolder(tmp_path, 1)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_leftovers_of_a_kill_at_the_very_start_are_no_strangers(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".tmp-abc.json").touch()
    with RunFolder(tmp_path, 1):
        pass


def test_file_in_the_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("x")
    with pytest.raises(ArtifactError, match="is a file"):
        RunFolder(tmp_path / "out", 1)


def test_newer_format_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"format": "clipstill-run", "version": 99}')
    with pytest.raises(ArtifactError, match="another version"):
        RunFolder(tmp_path, 1)


def test_marker_of_somebody_else_is_no_run(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"jog": "5 km"}')
    with pytest.raises(ArtifactError, match="not a clipstill run"):
        read_run_marker(tmp_path)
    with pytest.raises(ArtifactError, match="not a clipstill run"):
        RunFolder(tmp_path, 1)


def test_second_process_is_kept_out_until_the_first_ends(tmp_path: Path) -> None:
    hold = "import sys; from pathlib import Path; from clipstill.workflow.store import RunFolder\n"
    hold += f"run = RunFolder(Path({str(tmp_path)!r}), 1); print('held', flush=True); sys.stdin.read()"
    other = subprocess.Popen([sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "held\n"
    with pytest.raises(ResourceError, match="another clipstill process"):
        RunFolder(tmp_path, 1)
    other.kill()  # SIGKILL: nothing of its own cleans up
    other.communicate()
    with RunFolder(tmp_path, 1):
        pass


def test_a_run_keeps_the_threads_it_began_with(tmp_path: Path) -> None:
    with RunFolder(tmp_path, 3) as first:
        assert first.threads == 3
    with RunFolder(tmp_path, 8) as second:
        assert second.threads == 3


def test_event_cut_short_by_a_kill_spoils_no_other(tmp_path: Path) -> None:
    with RunFolder(tmp_path, 1) as run:
        run.event("start", names=["größe"])
    with (tmp_path / "events.jsonl").open("a") as stream:
        stream.write('{"time": 1, "eve')
    with RunFolder(tmp_path, 1) as run:
        run.event("end")
    assert [event["event"] for event in read_events(tmp_path)] == ["start", "end"]


def test_work_of_other_settings_is_kept_and_comes_back(tmp_path: Path) -> None:
    with RunFolder(tmp_path, 1) as run:
        assert not run.prepare_stage("student", "a" * 64)
        (run.stage("student") / "weights").write_text("of a")
        assert run.prepare_stage("student", "b" * 64)
        assert not (run.stage("student") / "weights").exists()
        (run.stage("student") / "weights").write_text("of b")
    with RunFolder(tmp_path, 1) as run:
        assert run.prepare_stage("student", "a" * 64)
        assert (run.stage("student") / "weights").read_text() == "of a"
        assert run.prepare_stage("student", "b" * 64)
        assert (run.stage("student") / "weights").read_text() == "of b"


def test_same_settings_leave_unfinished_work_in_place(tmp_path: Path) -> None:
    with RunFolder(tmp_path, 1) as run:
        run.prepare_stage("surrogate", "a" * 64)
        (run.stage("surrogate") / "half").write_text("x")
    with RunFolder(tmp_path, 1) as run:
        assert not run.prepare_stage("surrogate", "a" * 64)
        assert (run.stage("surrogate") / "half").exists()


def test_damaged_stage_is_set_aside_not_deleted(tmp_path: Path) -> None:
    with RunFolder(tmp_path, 1) as run:
        for content in ("first", "second"):
            run.prepare_stage("student", "a" * 64)
            (run.stage("student") / "weights").write_text(content)
            run.set_aside("student")
    kept = sorted((tmp_path / "stages" / "old").iterdir())
    assert [path.name for path in kept] == ["student-damaged", "student-damaged-2"]
    assert json.loads((tmp_path / "stages" / "KEYS.json").read_text()) == {"student": "a" * 64}
