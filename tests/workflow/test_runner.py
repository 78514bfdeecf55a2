"""A run of two stages of the test's own: what is skipped, what a changed setting does again, what a kill leaves."""

import re
from pathlib import Path

import pytest

from clipstill.core.files import commit_manifest, replacing, write_text
from clipstill.export.bundle import check_replaceable
from clipstill.text.task import parse_task
from clipstill.workflow.cohorts import FolderHistory, cohorts_in_use
from clipstill.workflow.keys import Keys
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.runner import looks_done, run_steps, seconds_of_work
from clipstill.workflow.stage import Stage, Step
from clipstill.workflow.store import LockedStore, Store

TASK = parse_task("dog,cat")
pytestmark = pytest.mark.usefixtures("own_torch_settings")


def make_names(run: Run, step: Step, folder: Path) -> list[str]:
    write_text(folder / "names.txt", f"{run.settings.seed}: {' '.join(run.task.names)}")
    return ["names.txt"]


def make_upper(run: Run, step: Step, folder: Path) -> list[str]:
    write_text(folder / "upper.txt", (run.folder("names") / "names.txt").read_text().upper())
    return ["upper.txt"]


NAMES = Stage(name="names", version=1, title="Write the names", make=make_names, settings=("task", "seed"))
UPPER = Stage(name="upper", version=1, title="Shout them", make=make_upper, settings=("student",), inputs=("names",))
STAGES = (NAMES, UPPER)


def bring_up_to_date(out: Path, stages: tuple[Stage, ...] = STAGES, *overrides: str) -> list[str]:
    """Names of the steps that were done already."""
    settings = load_settings(overrides=overrides)
    keys = Keys(stages, settings, Photos())
    with LockedStore(out, 1) as store:
        in_use = cohorts_in_use(keys, TASK, FolderHistory())
        steps = keys.steps(TASK, in_use)
        run = Run(settings, TASK, Photos(), store, in_use, steps, Models(settings))
        skipped = run_steps(run, store, steps, keys)
        assert looks_done(out, steps)
        assert set(seconds_of_work(store, steps)) == {step.name for step in steps}
    return skipped


def upper_of(out: Path) -> str:
    return (out / "stages" / "upper" / "upper.txt").read_text()


def test_a_second_run_skips_what_is_done(tmp_path: Path) -> None:
    assert bring_up_to_date(tmp_path) == []
    assert upper_of(tmp_path) == "0: DOG CAT"
    assert bring_up_to_date(tmp_path) == ["names", "upper"]


def test_a_setting_of_the_first_stage_does_both_again(tmp_path: Path) -> None:
    bring_up_to_date(tmp_path)
    assert bring_up_to_date(tmp_path, STAGES, "seed=7") == []
    assert upper_of(tmp_path) == "7: DOG CAT"
    # The earlier results are kept, and come back with the setting.
    assert bring_up_to_date(tmp_path) == ["names", "upper"]
    assert upper_of(tmp_path) == "0: DOG CAT"


def test_a_setting_of_the_second_stage_leaves_the_first_alone(tmp_path: Path) -> None:
    bring_up_to_date(tmp_path)
    assert bring_up_to_date(tmp_path, STAGES, "student.name=resnet18") == ["names"]


def test_a_setting_that_no_stage_reads_does_nothing_again(tmp_path: Path) -> None:
    bring_up_to_date(tmp_path)
    assert bring_up_to_date(tmp_path, STAGES, "synthesis.steps=3") == ["names", "upper"]


def test_a_new_stage_is_one_value_in_the_list(tmp_path: Path) -> None:
    def make_count(run: Run, step: Step, folder: Path) -> list[str]:
        write_text(folder / "count.txt", str(len(upper_of(tmp_path))))
        return ["count.txt"]

    bring_up_to_date(tmp_path)
    count = Stage(name="count", version=1, title="Count the letters", make=make_count, inputs=("upper",))
    assert bring_up_to_date(tmp_path, (*STAGES, count)) == ["names", "upper"]
    assert (tmp_path / "stages" / "count" / "count.txt").read_text() == "10"


def test_a_stage_of_a_higher_version_is_done_again_with_what_follows(tmp_path: Path) -> None:
    bring_up_to_date(tmp_path)
    newer = Stage(name="names", version=2, title="Write the names", make=make_names, settings=("task", "seed"))
    assert bring_up_to_date(tmp_path, (newer, UPPER)) == []


def test_a_damaged_result_is_made_again_and_kept_aside(tmp_path: Path) -> None:
    bring_up_to_date(tmp_path)
    (tmp_path / "stages" / "names" / "names.txt").write_text("altered")
    assert bring_up_to_date(tmp_path) == ["upper"]
    assert (tmp_path / "stages" / "names" / "names.txt").read_text() == "0: dog cat"
    assert (tmp_path / "stages" / "old" / "names-damaged" / "names.txt").read_text() == "altered"


def test_a_stage_that_was_stopped_finds_its_folder_as_it_left_it(tmp_path: Path) -> None:
    found: list[list[str]] = []

    def make_slowly(run: Run, step: Step, folder: Path) -> list[str]:
        found.append(sorted(path.name for path in folder.iterdir()))
        write_text(folder / "half.txt", "half")
        if len(found) == 1:
            raise KeyboardInterrupt
        return ["half.txt"]

    slow = Stage(name="slow", version=1, title="Stop once", make=make_slowly)
    with pytest.raises(KeyboardInterrupt):
        bring_up_to_date(tmp_path, (slow,))
    assert bring_up_to_date(tmp_path, (slow,)) == []
    assert found == [["stage.json"], ["half.txt", "stage.json"]]


def test_a_shipped_folder_whose_manifest_is_damaged_or_gone_is_kept_aside_and_made_again(tmp_path: Path) -> None:
    def make_shipped(run: Run, step: Step, folder: Path) -> None:
        check_replaceable(folder)
        with replacing(folder) as partial:
            write_text(partial / "names.txt", "shipped")
            commit_manifest(partial, step.key, ["names.txt"])

    shipped = Stage(name="shipped", version=1, title="Ship", make=make_shipped, inputs=("names",), folder="shipped")
    stages = (NAMES, shipped)
    bring_up_to_date(tmp_path, stages)
    manifest = tmp_path / "shipped" / "MANIFEST.json"
    manifest.write_text("[")
    assert bring_up_to_date(tmp_path, stages) == ["names"]
    manifest.unlink()
    assert bring_up_to_date(tmp_path, stages) == ["names"]
    assert (tmp_path / "stages" / "old" / "shipped-damaged" / "MANIFEST.json").read_text() == "["
    assert (tmp_path / "stages" / "old" / "shipped-damaged-2" / "names.txt").read_text() == "shipped"


@pytest.mark.parametrize("seconds", ['"long"', "null", "-1", "Infinity", "1e999"])
def test_a_damaged_time_of_a_stage_is_left_out(tmp_path: Path, seconds: str) -> None:
    bring_up_to_date(tmp_path)
    manifest = tmp_path / "stages" / "names" / "MANIFEST.json"
    manifest.write_text(re.sub(r'"seconds": [\d.]+', f'"seconds": {seconds}', manifest.read_text()))
    keys = Keys(STAGES, load_settings(), Photos())
    steps = keys.steps(TASK, cohorts_in_use(keys, TASK, FolderHistory()))
    assert set(seconds_of_work(Store(tmp_path), steps)) == {"upper"}
