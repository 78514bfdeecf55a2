"""The public functions: what they take, what they return, what they say, and what a caller may pass them."""

import inspect
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

import clipstill
from clipstill import api
from clipstill.assembly.fine_tuning import FineTuned
from clipstill.assembly.zero_shot import ZeroShot
from clipstill.commands.export import Exported
from clipstill.commands.results import Calibration, RunResult
from clipstill.core.config import apply_overrides
from clipstill.evaluation.evaluate import Evaluation
from clipstill.evaluation.ladder import Ladder
from clipstill.generators import load_generators
from clipstill.planning.plan import Plan
from clipstill.teachers import load_teacher
from clipstill.text.task import parse_task
from run_fixtures import CLASSES, MEASURED, QUICK, shards_of, stopped_before, student_of

FUNCTIONS = (
    "distil",
    "quick",
    "plan",
    "evaluate",
    "fine_tune",
    "zero_shot",
    "export_formats",
    "ladder",
    "add_class",
    "remove_class",
)
pytestmark = pytest.mark.usefixtures("own_torch_settings")


def test_the_package_lists_the_public_names_and_no_others() -> None:
    assert dir(clipstill) == sorted([*api.__all__, "__version__"])
    assert all(getattr(clipstill, name) is getattr(api, name) for name in api.__all__)


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import sys, clipstill; print([name for name in ('torch', 'pydantic', 'numpy') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_refuses_positional_arguments(name: str) -> None:
    function = getattr(clipstill, name)
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    assert kinds <= {inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD}
    with pytest.raises(TypeError, match="positional argument"):
        function("dog,cat")


def test_a_misspelt_option_is_refused_with_the_closest_one() -> None:
    with pytest.raises(TypeError, match=r"no option 'tacher'\. Did you mean 'teacher'"):
        clipstill.distil(classes="dog,cat", tacher="embedded-s")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="no option 'out'"):
        clipstill.plan(classes="dog,cat", out="runs/zoo")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    "name", ["ArtifactError", "ConfigError", "DataError", "ExportError", "ResourceError", "TaskError"]
)
def test_every_error_is_exported_and_of_one_kind(name: str) -> None:
    assert issubclass(getattr(clipstill, name), clipstill.ClipstillError)


def test_a_mistake_is_raised_as_such() -> None:
    with pytest.raises(clipstill.TaskError, match="'dog' is the only class"):
        clipstill.distil(classes="dog")
    with pytest.raises(clipstill.UnknownNameError, match="embedded-"):
        clipstill.distil(classes="dog,cat", teacher="embedded-x")


@pytest.mark.parametrize("kind", [RunResult, Evaluation, Calibration, Ladder, Plan, FineTuned, ZeroShot, Exported])
def test_every_result_shows_itself_in_a_notebook(kind: type) -> None:
    assert callable(kind._repr_html_)  # type: ignore[attr-defined]


def test_a_finished_run_is_a_table_of_what_was_measured(measured_run: Path, photos: Path) -> None:
    result = clipstill.distil(classes=CLASSES, out=measured_run, images=photos, settings=MEASURED)
    assert result.evaluation is not None
    assert result.ladder is not None
    for shown in (result, result.evaluation, result.ladder, result.calibration):
        assert shown._repr_html_().startswith("<table>")
    assert "dog, guitar" in result._repr_html_()
    assert (
        f"{100 * result.evaluation.student.right_and_answered:.1f} % (80 % interval" in result.evaluation._repr_html_()
    )


def test_texts_and_nested_values_say_the_same(quick_run: Path) -> None:
    for settings in (QUICK, apply_overrides({}, QUICK)):
        assert clipstill.distil(classes="dog,guitar", out=quick_run, settings=settings).up_to_date


def test_keywords_win_over_settings_and_settings_over_a_file(quick_copy: Path, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("synthesis: {steps: 99}\nseed: 8\n")
    others = ("seed=9", "teacher.name=embedded-m", "generator.name=embedded", "student.name=resnet18", "device=cuda")
    result = clipstill.distil(
        classes=CLASSES,
        out=quick_copy,
        config=file,
        settings=(*QUICK, *others),
        seed=3,
        teacher="embedded-s",
        generator="pixels",
        student="timm:test_efficientnet",
        device="cpu",
    )
    assert result.up_to_date
    config = yaml.safe_load((quick_copy / "config.yaml").read_text())
    assert (config["seed"], config["device"], config["synthesis"]["steps"]) == (3, "cpu", 2)


def test_default_folder_names_the_classes_and_differs_by_them() -> None:
    first = api.default_out(parse_task("sea lion,crane: a bird,dog,cat"))
    assert first.parent == Path("runs")
    assert first.name.startswith("sea_lion-crane-dog-")
    assert first == api.default_out(parse_task("sea lion,crane: a bird,dog,cat"))
    assert first != api.default_out(parse_task("sea lion,crane: a machine,dog,cat"))


def test_notes_are_silent_by_default_and_visible_through_logging(
    quick_run: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    clipstill.distil(classes=CLASSES, out=quick_run, settings=QUICK)
    captured = capsys.readouterr()
    assert (captured.out, captured.err, caplog.text) == ("", "", "")
    with caplog.at_level(logging.INFO, "clipstill"):
        clipstill.distil(classes=CLASSES, out=quick_run, settings=QUICK)
    assert "nothing to do" in caplog.text


def test_models_that_the_caller_built_make_the_same_images_as_by_name_and_progress_is_told(
    quick_run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cpu, events = torch.device("cpu"), list[clipstill.ProgressEvent]()
    (generator,) = load_generators("pixels", cpu)
    caplog.set_level(logging.INFO, "clipstill")
    with stopped_before("near_misses"), pytest.raises(KeyboardInterrupt):
        clipstill.distil(
            classes=CLASSES,
            out=tmp_path / "run",
            settings=QUICK,
            teacher=load_teacher("embedded-s", cpu),
            generator=generator,
            progress=events.append,
        )
    assert shards_of(tmp_path / "run") == shards_of(quick_run)
    assert student_of(tmp_path / "run") == student_of(quick_run)
    of_images = [event for event in events if event.title == "synthesis"]
    assert [event.done for event in of_images] == sorted(event.done for event in of_images)
    assert (of_images[0].done, of_images[-1].done, of_images[-1].total) == (0, 8, 8)
    assert [event.finished for event in of_images] == [False] * (len(of_images) - 1) + [True]
    assert {event.title for event in events} == {event.title for event in events if event.finished}
