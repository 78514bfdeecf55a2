"""What the page knows of runs, how it starts and stops them, and what it makes of the form. No browser, no gradio."""

import dataclasses
import json
import os
import re
import shutil
import signal
import time
import zipfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from clipstill.core.errors import ArtifactError, ConfigError, DataError, ResourceError, TaskError
from clipstill.core.files import commit_manifest, write_json
from clipstill.core.foresight import Estimate, Foresight
from clipstill.core.progress import ProgressEvent
from clipstill.text.task import Task, parse_task
from clipstill.ui import panels
from clipstill.ui.form import Form, look_at_words, run_arguments
from clipstill.ui.jobs import Jobs, Watched, ask_plan
from clipstill.ui.runs import checked_name, open_run, runs_in
from clipstill.workflow.store import LockedStore
from kill_points import Point, install
from run_fixtures import noise_photos

PLAN = {
    "classes": ["dog", "crane"],
    "findings": [
        {
            "level": "warning",
            "kind": "ambiguous",
            "classes": ["crane"],
            "message": "'crane' is a bird and a machine.",
            "advice": "Say which: 'crane: a large wading bird'.",
            "taken_for": "a machine",
        }
    ],
    "foresight": Foresight("names alone", Estimate(0.63, 0.4, 0.8)).to_json(),
    "expected_per_class": {"dog": 0.86, "crane": 0.4},
    "cost": {"seconds": 312.0, "stages": {}, "images": 112, "image_steps": 6720, "memory_bytes": 1},
    "limits": [],
    "settings": {},
    "budget_seconds": None,
}


FORETOLD = Foresight("names alone", Estimate(0.7, 0.5, 0.85))
CALIBRATION = {"foresight": FORETOLD.to_json(), "temperature": 1.2, "refusal": None}
METRICS = {
    "evaluation": {"n": 8, "student_top1": 0.5, "right_and_answered": 0.5, "teacher_top1": 0.6},
    "export": {"onnx_bytes": 1000, "parameters": 10, "latency_ms": 1.5},
    "provenance": [],
}


@pytest.fixture
def jobs(tmp_path: Path) -> Jobs:
    return Jobs(tmp_path)


def made_run(workspace: Path, name: str = "zoo") -> LockedStore:
    """A run that was begun: two stages, the second running."""
    run = LockedStore(workspace / name, threads=1)
    write_json(run.path / "task.json", Task(("dog", "<b>cat</b>"), ("", "")).to_json())
    run.event("start", keys={"class_vectors": "1", "surrogate": "2", "report": "3"})
    run.event("stage", stage="class_vectors", key="1")
    run.event("done", stage="class_vectors", key="1", seconds=2.5)
    run.event("stage", stage="surrogate", key="2")
    return run


def program(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """Let a script stand for the program that ``python -m clipstill`` runs."""
    package = folder / "instead" / "clipstill"
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(f"{text}\n", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(package.parent))


def until(condition: object) -> None:
    for _ in range(200):
        if condition():  # type: ignore[operator]
            return
        time.sleep(0.05)
    raise AssertionError("it did not happen within ten seconds")


def test_a_run_is_running_exactly_while_a_process_holds_it(tmp_path: Path) -> None:
    with made_run(tmp_path):
        assert open_run(tmp_path, "zoo").is_running
    left = open_run(tmp_path, "zoo")
    assert not left.is_running
    assert not left.finished
    assert [(each.name, each.state) for each in left.stages] == [
        ("class_vectors", "done"),
        ("surrogate", "running"),
        ("report", "waiting"),
    ]


def test_asking_for_the_state_does_not_keep_a_run_from_starting(tmp_path: Path) -> None:
    made_run(tmp_path).__exit__()
    open_run(tmp_path, "zoo")
    with LockedStore(tmp_path / "zoo", threads=1):
        pass


def test_only_run_folders_are_listed_the_latest_first(tmp_path: Path) -> None:
    for name in ("first", "second"):
        made_run(tmp_path, name).__exit__()
        time.sleep(0.02)
    (tmp_path / "photos").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{", encoding="utf-8")
    (tmp_path / ".ui").mkdir()
    assert runs_in(tmp_path) == ["second", "first"]
    assert runs_in(tmp_path / "absent") == []


DEEP, LONG = "[" * 100_000, "9" * 5000
STYLES, BUNDLE = "stages/prompts/styles.json", "bundle/MANIFEST.json"


def finished_run(workspace: Path, name: str) -> Path:
    """A run with what the page reads of a finished one."""
    with made_run(workspace, name) as run:
        run.event("end")
    bundle = run.path / "bundle"
    write_json(run.path / "stages" / "calibration" / "calibration.json", CALIBRATION)
    write_json(run.path / STYLES, ["photo"])
    write_json(bundle / "metrics.json", METRICS)
    write_json(bundle / "labels.json", {"labels": ["dog", "<b>cat</b>"], "refusal_threshold": None})
    commit_manifest(bundle, "k", ["metrics.json", "labels.json"], {"teacher": "t", "student": "s"})
    return run.path


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("run.json", DEEP, r"run\.json cannot be read"),
        ("run.json", '{"format": "clipstill-run", "version": 2, "threads": null}', r"run\.json is damaged \(threads"),
        ("events.jsonl", '{"time": null, "event": "start", "keys": 7}', ""),
        ("events.jsonl", f"{DEEP}\n{LONG}\n7", ""),
        ("task.json", LONG, ""),
        ("task.json", '{"names": 7, "descriptions": {}}', ""),
        (STYLES, "7", ""),
        ("stages/surrogate/stage.json", DEEP, ""),
        ("stages/calibration/calibration.json", '{"foresight": "high"}', r"calibration\.json is damaged"),
        ("bundle/metrics.json", LONG, r"metrics\.json cannot be read"),
        ("bundle/metrics.json", '{"export": null}', r"metrics\.json is damaged"),
        ("bundle/labels.json", '{"labels": 7}', r"labels\.json is damaged"),
        (BUNDLE, "[]", r"MANIFEST\.json is not a clipstill manifest"),
        (BUNDLE, '{"key": "k", "files": {}, "info": {"teacher": 7}}', r"MANIFEST\.json is damaged"),
    ],
)
def test_a_damaged_run_is_one_line_and_the_others_are_shown(
    jobs: Jobs, tmp_path: Path, name: str, content: str, says: str
) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from clipstill.ui.page import Page

    for each in ("bad", "good", "fine"):
        finished_run(tmp_path, each)
    (tmp_path / "bad" / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "bad" / name).write_text(content)
    page = Page(jobs, tmp_path)
    assert set(runs_in(tmp_path)) == {"bad", "good", "fine"}
    page.renew("bad", {})
    page.image_choices("bad", None, None)
    page.images("bad", None, None, False)
    page.finished(None)
    shown = {"get": page.get("bad"), "compare": page.compare([f"{each} / Student" for each in ("bad", "good", "fine")])}
    assert "<td>good / Student</td>" in shown["compare"]
    if name == "run.json":  # Without it, its folder is no run that could be compared.
        shown["compare"] = page.renew("bad", {})[-1]["progress"]
    for panel in shown.values():
        lines = [line for line in panel.splitlines() if "cs-note wrong" in line]
        assert len(lines) == (says != "")
        assert all(re.search(says, line) for line in lines)


def test_a_run_whose_lock_is_a_pipe_and_whose_bundle_leads_in_a_circle_is_shown(tmp_path: Path) -> None:
    with made_run(tmp_path) as run:
        pass
    (run.path / ".lock").unlink()
    os.mkfifo(run.path / ".lock")
    (run.path / "bundle").symlink_to("bundle")
    shown = open_run(tmp_path, "zoo")
    assert not shown.is_running
    assert shown.bundles == ()


def test_a_long_list_of_events_is_read_from_its_end(tmp_path: Path) -> None:
    with made_run(tmp_path) as run:
        pass
    with (run.path / "events.jsonl").open("a") as stream:
        stream.write("x" * (5 << 20) + "\n")
    with LockedStore(run.path, threads=1) as again:
        again.event("start", keys={"report": "3"})
    assert [(each.name, each.state) for each in open_run(tmp_path, "zoo").stages] == [("report", "waiting")]


@pytest.mark.parametrize("name", ["", "..", "../zoo", "a/b", "a\\b", ".ui", "-x", "x" * 256, "a\0b", "a\n"])
def test_names_that_could_lead_elsewhere_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError):
        checked_name(name)
    with pytest.raises(DataError):
        open_run(tmp_path, name)


@pytest.mark.parametrize("name", ["a b", "_old", "zoo (1)"])
def test_a_new_run_gets_a_name_without_other_signs(name: str) -> None:
    with pytest.raises(DataError, match="cannot name a run"):
        checked_name(name)


def test_lines_of_progress_are_understood() -> None:
    event = ProgressEvent("synthesis", done=28, total=112, unit="img", per_second=1.2, facts={"loss": 0.31})
    amount = panels.latest_amount([event.line(), "a note"])
    assert amount is not None
    assert (amount["done"], amount["total"]) == ("28", "112")
    assert amount["rest"].startswith("1.2 img/s")
    assert "left" in amount["rest"]
    assert panels.latest_amount(["synthesis: 28 img in 3 s"]) is None
    assert panels.latest_amount([event.line(), "", "surrogate: done in 3 s"]) is None


def test_a_started_run_keeps_a_second_one_out_until_it_is_stopped(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, "import time\nprint('synthesis: 1/8 img', flush=True)\ntime.sleep(60)")
    jobs.start("zoo", ["run"])
    until(lambda: "synthesis: 1/8 img" in jobs.lines("zoo"))
    assert jobs.running() == "zoo"
    with pytest.raises(ResourceError, match="'zoo' is running"):
        jobs.start("other", ["run"])
    assert jobs.stop() == "zoo"
    assert jobs.running() is None
    assert jobs.trouble("zoo") is None
    assert jobs.stop() is None
    jobs.start("zoo", jobs.command("zoo"))
    assert jobs.lines("zoo")[0].startswith("--- started")
    assert jobs.stop() == "zoo"


def killed_page(workspace: Path, change: str) -> None:
    """Let another page start a job, and kill the page before this change of files, or else behind the start."""
    process = os.fork()
    if process == 0:
        try:
            install(Point(str(workspace), 1, change=change))
            Jobs(workspace).start("zoo", ["run"])
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL


def test_a_job_that_outlives_its_page_is_running_for_the_next_page_until_it_is_killed_too(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Silent and without a folder, as a run is in its first seconds.
    text = f"open('{tmp_path}/pid', 'w').write(f'{{os.getpid()}}\\n')"
    program(tmp_path, monkeypatch, f"import os, time\n{text}\ntime.sleep(60)")
    killed_page(tmp_path, "none")
    assert (jobs.names(), jobs.running()) == (["zoo"], "zoo")
    with pytest.raises(ResourceError, match="'zoo' is running"):
        jobs.start("other", ["run"])
    assert "Running" in panels.panel("progress", jobs.watch("zoo", jobs.running()))
    until(lambda: (tmp_path / "pid").is_file() and (tmp_path / "pid").read_text().endswith("\n"))
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
    until(lambda: jobs.running() is None)
    assert jobs.names() == ["zoo"]
    assert "ended before it was done" in (jobs.watch("zoo", None).trouble or "")
    jobs.start("zoo", jobs.command("zoo"))
    assert jobs.stop() == "zoo"


def test_a_page_that_is_killed_while_it_starts_a_job_leaves_one_that_can_go_on_or_none(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, "import time\ntime.sleep(60)")
    killed_page(tmp_path, "rename *command.json")
    assert (jobs.names(), jobs.running()) == ([], None)
    killed_page(tmp_path, "open *log.txt")
    assert (jobs.names(), jobs.running()) == (["zoo"], None)
    assert "Go on" in panels.panel("progress", jobs.watch("zoo", None))
    jobs.start("zoo", jobs.command("zoo"))
    assert jobs.stop() == "zoo"
    assert list((tmp_path / ".ui").rglob(".tmp-*")) == []


def test_a_run_whose_folder_was_deleted_is_not_listed_again(tmp_path: Path, jobs: Jobs) -> None:
    write_json(tmp_path / ".ui" / "runs" / "zoo" / "command.json", ["run"])
    log = tmp_path / ".ui" / "runs" / "zoo" / "log.txt"
    for line in ("class_vectors: running", "error: the disk is full"):
        log.write_text(f"--- started\n{line}\n")
        assert jobs.names() == []


def test_a_bundle_between_the_two_renames_of_its_replacement_is_there(tmp_path: Path) -> None:
    folder = finished_run(tmp_path, "zoo") / "bundle"
    folder.with_name(".bundle.clipstill-partial").mkdir()
    folder.rename(folder.with_name(".bundle.clipstill-previous"))
    assert open_run(tmp_path, "zoo").bundles == ("bundle",)


def test_a_run_of_the_command_line_keeps_the_page_from_starting_one(jobs: Jobs, tmp_path: Path) -> None:
    with made_run(tmp_path):
        with pytest.raises(ResourceError, match="'zoo' is running"):
            jobs.start("other", ["run"])
        assert "started elsewhere" in panels.panel("progress", jobs.watch("zoo", jobs.running()))


def test_the_error_of_a_run_is_told_in_its_own_words(jobs: Jobs) -> None:
    jobs.start("zoo", ["run", "--classes", "dog"])
    until(lambda: jobs.own_running() is None)
    assert "'dog' is the only class" in (jobs.trouble("zoo") or "")
    shown = panels.panel("progress", jobs.watch("zoo", jobs.running()))
    assert "'dog' is the only class".replace("'", "&#39;") in shown


@pytest.mark.parametrize(("text", "told"), [("raise ValueError('odd')", "ValueError: odd"), ("", "short of memory")])
def test_an_end_without_words_is_told_too(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, told: str
) -> None:
    program(tmp_path, monkeypatch, f"print('surrogate: running', flush=True)\n{text}")
    jobs.start("zoo", ["run"])
    until(lambda: jobs.own_running() is None)
    assert told in (jobs.trouble("zoo") or "")


def test_a_run_of_the_command_line_can_go_on(jobs: Jobs, tmp_path: Path) -> None:
    made_run(tmp_path).__exit__()
    with pytest.raises(ArtifactError, match="does not hold the settings"):
        jobs.command("zoo")
    task = Task(("007", "16:9 photo", "no", "a, b"), ("", "wide: very", "", ""))
    write_json(tmp_path / "zoo" / "task.json", task.to_json())
    (tmp_path / "zoo" / "config.yaml").write_text("seed: 1\n", encoding="utf-8")
    command = jobs.command("zoo")
    assert parse_task(Path(command[command.index("--classes") + 1])) == task
    assert command[command.index("--config") + 1] == str(tmp_path / "zoo" / "config.yaml")
    assert command[command.index("--out") + 1] == str(tmp_path / "zoo")


def test_folders_of_photos_that_are_not_used_are_shown_with_the_reason(jobs: Jobs, tmp_path: Path) -> None:
    for name in ("dog", "cat", "zebra", "dogs\x1b"):
        (tmp_path / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "photos" / name / "a.png")
    shutil.make_archive(str(tmp_path / "photos"), "zip", tmp_path / "photos")
    with zipfile.ZipFile(tmp_path / "photos.zip", "a") as packed:
        packed.writestr("cat/b.cr3", b"raw")
    not_used = "; not used: dogs\\x1b (no class is called 'dogs\\x1b'), zebra (no class is called 'zebra')"
    left_out = "; left out: cat/b.cr3 (a kind of picture that is not read; convert it to JPEG)"
    form = Form("dog\ncat", examples_upload=(tmp_path / "photos.zip",), measured=str(tmp_path / "photos"))
    assert run_arguments(form, jobs)[2] == [
        f"examples: 2 photos{left_out}{not_used}",
        f"photos to measure on: 2 photos{not_used}",
    ]


def test_a_folder_that_is_nearly_a_class_is_refused_on_the_page_unless_its_settings_allow_it(
    jobs: Jobs, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "photos.zip", "w") as packed:
        packed.writestr("dog/a.png", b"picture")
        packed.writestr("cats/a.png", b"picture")
    form = Form("dog\ncat", examples_upload=(tmp_path / "photos.zip",))
    with pytest.raises(DataError, match=r"the class 'cat' has no images .* the setting allow_unmatched=true"):
        run_arguments(form, jobs)
    _, arguments, [note] = run_arguments(replace(form, settings="allow_unmatched=true"), jobs)
    assert note == "examples: 1 photos; not used: cats (no class is called 'cats')"
    assert "allow_unmatched=true" in arguments


def test_the_form_becomes_the_arguments_of_the_command_line(jobs: Jobs, tmp_path: Path) -> None:
    photos = tmp_path / "some photos"
    photos.mkdir()
    Image.new("RGB", (8, 8)).save(photos / "a.png")
    form = Form(
        "dog\n crane: a large wading bird \n\n# not this\n",
        name="zoo",
        unlabelled=str(photos),
        student="resnet18",
        effort="Quick try",
        budget="5 min",
        settings="seed=7\n# a note\n\nsynthesis.steps=11",
    )
    name, arguments, notes = run_arguments(form, jobs)
    assert (name, notes) == ("zoo", ["photos without labels: 1 photos"])
    given = dict(zip(arguments[1::2], arguments[2::2], strict=True))
    assert parse_task(Path(given["--classes"])) == Task(("dog", "crane"), ("", "a large wading bird"))
    assert given["--unlabelled"] == str(photos)
    assert (given["--student"], given["--budget"], given["--out"]) == ("resnet18", "5 min", str(tmp_path / "zoo"))
    settings = [value for option, value in zip(arguments[1::2], arguments[2::2], strict=True) if option == "--set"]
    assert settings[-2:] == ["seed=7", "synthesis.steps=11"]
    assert "distillation.steps=300" in settings


def test_a_second_form_does_not_change_what_a_first_was_started_with(jobs: Jobs) -> None:
    _, first, _ = run_arguments(Form("dog\ncat", name="zoo"), jobs)
    _, second, _ = run_arguments(Form("dog\nbird", name="zoo"), jobs)
    assert parse_task(Path(first[2])).names == ("dog", "cat")
    assert parse_task(Path(second[2])).names == ("dog", "bird")


@pytest.mark.parametrize(
    ("text", "names"),
    [("dog, cat ,bird", ("dog", "cat", "bird")), ("dog, the animal: it barks\ncat", ("dog, the animal", "cat"))],
)
def test_names_with_commas_in_one_line_are_several(jobs: Jobs, text: str, names: tuple[str, ...]) -> None:
    assert parse_task(Path(run_arguments(Form(text), jobs)[1][2])).names == names


def test_a_run_is_named_after_its_classes(jobs: Jobs) -> None:
    assert run_arguments(Form("dog, sea horse"), jobs)[0].startswith("dog-sea_horse-")


def test_what_cannot_be_used_is_told_before_anything_starts(jobs: Jobs, tmp_path: Path) -> None:
    good = "dog\ncat"
    with pytest.raises(TaskError, match=r"appears twice \(lines 1 and 2, the second"):
        run_arguments(Form("dog\nDog"), jobs)
    with pytest.raises(TaskError, match="^no class is named. Name"):
        run_arguments(Form("  \n"), jobs)
    with pytest.raises(ConfigError, match="synthesis.step"):
        run_arguments(Form(good, settings="synthesis.step=4"), jobs)
    with pytest.raises(ConfigError, match="no duration"):
        run_arguments(Form(good, budget="soon"), jobs)
    with pytest.raises(DataError, match="there is no folder"):
        run_arguments(Form(good, examples=str(tmp_path / "absent")), jobs)
    with pytest.raises(DataError, match="both a folder and an upload"):
        run_arguments(Form(good, measured=str(tmp_path), measured_upload=(tmp_path / "a.zip",)), jobs)
    with pytest.raises(DataError, match="cannot name a run"):
        run_arguments(Form(good, name="../zoo"), jobs)


def test_the_plan_is_asked_for_and_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = ["plan", "--classes", "a.txt", "--set", "seed=3", "--json"]
    program(tmp_path, monkeypatch, f"import sys\nassert sys.argv[1:] == {expected!r}\nprint({json.dumps(PLAN)!r})")
    found = ask_plan(["run", "--classes", "a.txt", "--images", "in", "--set", "seed=3", "--out", "runs/zoo"])
    assert found == PLAN
    shown = panels.panel("plan", found)
    for text in ("63 %", "5 min 12 s", "112", "is a bird and a machine", "large wading bird"):
        assert text in shown
    assert shown.index(">crane (if a machine is meant)<") < shown.index(">dog<")


def test_names_are_shown_before_the_teacher_is_asked(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from clipstill.ui import page

    asked: list[Sequence[str]] = []
    monkeypatch.setattr(page, "ask_plan", lambda arguments: asked.append(arguments) or PLAN)
    given = {"classes": "crane\nheron\nstork\nelefant\ndog: a beagle", "effort": "Default"}
    looks = page.Page(jobs, tmp_path).check(*(given.get(field.name) for field in dataclasses.fields(Form)))
    first = next(looks)
    assert not asked
    for text in ("5 classes", "long-necked wading bird", "a beagle", "write: elephant", "no word that WordNet knows"):
        assert text in first
    assert "63 %" in next(looks)
    assert len(asked) == 1


def test_examples_show_what_a_name_means() -> None:
    assert [one.kind for one in look_at_words(Form("elefant\ndog")).findings()] == ["spelling"]
    assert look_at_words(Form("elefant\ndog", examples="photos")).findings() == []
    assert [one.kind for one in look_at_words(Form("собака\ndog")).findings()] == ["unreadable"]
    assert look_at_words(Form("собака\ndog", settings="teacher.name=openclip:a/b")).findings() == []


def test_a_plan_that_refuses_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path, monkeypatch, "import sys\nsys.exit('error: the names are all the same.')")
    with pytest.raises(ConfigError, match="^the names are all the same"):
        ask_plan(["run", "--classes", "a.txt"])


def test_names_and_words_of_others_are_no_markup(tmp_path: Path) -> None:
    made_run(tmp_path).__exit__()
    shown = panels.panel("progress", Watched("zoo", open_run(tmp_path, "zoo"), trouble="<i>bad</i>"))
    assert "<b>cat" not in shown
    assert "<i>bad" not in shown
    assert "&lt;b&gt;cat" in shown
    finding = {"level": "note", "message": "<script>", "advice": "<img src=x>"}
    assert "<script" not in panels.panel("plan", {**PLAN, "findings": [finding]})
    assert "<img" not in panels.panel("plan", {**PLAN, "findings": [finding]})
    assert "<script" not in panels.panel("log", ["<script>"])


def test_comparing_different_questions_is_warned_of() -> None:
    export = {"onnx_bytes": 13_000_000, "parameters": 3_000_000, "latency_ms": 4.0}
    one = {
        "labels": ["dog", "cat"],
        "models": {"student": "lite0", "teacher": "embedded-m"},
        "evaluation": {"n": 40, "student_top1": 0.8, "right_and_answered": 0.8, "teacher_top1": 0.9},
        "foresight": FORETOLD,
        "export": export,
        "refusal_threshold": 0.3,
    }
    other = {**one, "labels": ["dog", "cow"], "evaluation": None, "refusal_threshold": None}
    table = panels.compare_table([("a", one), ("b", other)])
    assert "different classes" in table
    assert "80.0 %" in table
    assert "40 labelled photos" in table
    assert "not measured" in table
    assert "different classes" not in panels.compare_table([("a", one), ("b", one)])


def test_a_run_in_seconds_stops_at_the_small_teacher_and_goes_on_to_the_student(jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from clipstill.ui.page import Page

    _, arguments, _ = run_arguments(Form("dog\ncat", name="zoo", effort="In seconds"), jobs)
    assert arguments[-1] == "--quick"
    with pytest.raises(ConfigError, match="Leave 'Time it may take' empty"):
        run_arguments(Form("dog\ncat", effort="In seconds", budget="30min"), jobs)
    with made_run(tmp_path) as run:
        run.event("start", keys={"zero_shot": "k"})
        run.event("done", stage="zero_shot", seconds=1.0)
        run.event("end", skipped=[])
    (tmp_path / "zoo" / "zero-shot").mkdir()
    for file in ("metrics.json", "labels.json"):
        shutil.copy(finished_run(tmp_path, "other") / "bundle" / file, tmp_path / "zoo" / "zero-shot")
    commit_manifest(
        tmp_path / "zoo" / "zero-shot", "k", ["metrics.json", "labels.json"], {"teacher": "t", "student": "s"}
    )
    write_json(tmp_path / ".ui" / "runs" / "zoo" / "command.json", arguments)
    shown = open_run(tmp_path, "zoo")
    assert (shown.bundles, shown.finished, shown.is_quick) == (("zero-shot",), True, True)
    pieces = Page(jobs, tmp_path).renew("zoo", {})[-1]
    assert pieces["go_on"] == "Train the student too"
    assert "This is the small teacher, ready to use" in pieces["result"]
    started: list[list[str]] = []
    jobs.start = lambda name, command: started.append(list(command))  # type: ignore[method-assign]
    Page(jobs, tmp_path).go_on("zoo")
    assert started == [arguments[:-1]]


def test_the_result_and_the_next_steps_are_shown_where_a_run_is_finished(jobs: Jobs, tmp_path: Path) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from clipstill.ui.page import Page

    run = finished_run(tmp_path, "zoo")
    steps = {"photos": "Give <five> photos", "teacher": "Try a larger teacher"}
    advice = {"verdict": "weak", "text": "Weak: 60 %.", "steps": steps, "which_to_ship": "Ship the student."}
    write_json(run / "advice.json", advice)
    pieces = Page(jobs, tmp_path).renew("zoo", {})[-1]
    assert "Weak: 60 %." in pieces["result"]
    assert "Give &lt;five&gt; photos" in pieces["result"]
    shown = {name: pieces[name] for name in ("done", "photos", "measure", "describe", "teacher")}
    assert shown == {"done": "True", "photos": "True", "measure": "False", "describe": "False", "teacher": "True"}
    (run / "advice.json").write_text("{")
    assert Page(jobs, tmp_path).renew("zoo", {})[-1]["result"] == ""


def test_what_is_done_with_a_finished_run_is_a_command_on_it(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("gradio", reason="the extra ui is not installed")
    from clipstill.ui.page import Page

    run, photos = finished_run(tmp_path, "zoo"), noise_photos(tmp_path / "photos", ("dog", "cat"), 1)
    page, started = Page(jobs, tmp_path), []
    monkeypatch.setattr(jobs, "start", lambda name, command: started.append(command))
    monkeypatch.setattr(page, "_chosen", lambda _: replace(open_run(tmp_path, "zoo"), task=parse_task("dog,cat")))
    given, none = [str(photos), None], ["", None]
    for verb, values in (
        ("fine-tune", [*given, *none]),
        ("evaluate", [*none, *given]),
        ("ladder", [*none, *given]),
        ("add-class", ["cow: it gives milk\n\nsea horse"]),
        ("remove-class", [["dog"]]),
        ("export", [["torch", "onnx-fp16"]]),
    ):
        page.improve(verb, "zoo", *values)
    assert started == [
        ["fine-tune", str(run), "--examples", str(photos), "--out", str(run / "tuned")],
        ["evaluate", str(run), "--images", str(photos)],
        ["ladder", str(run), "--images", str(photos)],
        ["add-class", str(run), "--", "cow: it gives milk", "sea horse"],
        ["remove-class", str(run), "--", "dog"],
        ["export", str(run), "--format", "torch", "--format", "onnx-fp16"],
    ]
    for verb, values, told in (
        ("fine-tune", [*none, *given], "xamples: none are given"),
        ("ladder", [*given, *none], "hotos to measure on: none are given"),
        ("export", [[]], "o format is chosen"),
        ("add-class", [" "], "o class is named"),
    ):
        assert told in page.improve(verb, "zoo", *values)[0]
    assert len(started) == 6


def test_other_verbs_keep_the_command_of_the_run_and_growing_ones_drop_it(
    jobs: Jobs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path, monkeypatch, "print('ladder, ours: 4/4 img')\nprint('Ship the student.')")
    write_json(tmp_path / ".ui" / "runs" / "zoo" / "command.json", ["run", "--classes", "a.txt"])
    finished_run(tmp_path, "zoo")
    jobs.start("zoo", ["ladder", "zoo"])
    until(lambda: jobs.running() is None)
    watched = jobs.watch("zoo", None)
    assert (watched.verb, watched.printed, watched.trouble) == ("ladder", ["Ship the student."], None)
    assert "Ship the student." in panels.panel("progress", watched)
    assert jobs.command("zoo") == ["run", "--classes", "a.txt"]
    program(tmp_path, monkeypatch, "import sys\nsys.exit('error: no such class')")
    jobs.start("zoo", ["remove-class", "zoo"])
    until(lambda: jobs.running() is None)
    assert jobs.watch("zoo", None).trouble == "No such class"
    assert not (tmp_path / ".ui" / "runs" / "zoo" / "command.json").exists()
