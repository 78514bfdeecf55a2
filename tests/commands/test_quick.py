"""The small teacher's bundle in a run folder, before there is a student."""

import json
import shlex
from pathlib import Path

import numpy as np
import pytest

import clipstill
from clipstill.cli.main import main
from clipstill.commands.results import QuickResult
from clipstill.core.files import read_json
from clipstill.workflow.records import read_events
from run_fixtures import CLASSES, QUICK, noise_photos, run_arguments, steps_done

pytestmark = pytest.mark.usefixtures("own_torch_settings")
# Without the setting of the tests that leaves the bundle out.
SETTINGS = tuple(each for each in QUICK if not each.startswith("export.zero_shot"))


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> QuickResult:
    out = tmp_path_factory.mktemp("quick") / "run"
    return clipstill.quick(classes=CLASSES, out=out, settings=SETTINGS, images=photos)


def test_it_makes_the_bundle_and_nothing_else(result: QuickResult, photos: Path) -> None:
    assert steps_done(result.out) == ["zero_shot"]
    assert [path.name for path in (result.out / "stages").glob("*")] == []
    assert result.bundle.out == result.out / "zero-shot"
    assert result.bundle.evaluation is not None
    assert result.bundle.evaluation.n == 18
    text = result.advice.text
    assert result.advice.verdict.endswith(" so far")
    assert "right and answered" in text
    assert "18 labelled photos" in text
    assert read_json(result.out / "advice.json")["text"] == text
    assert "without --quick keeps this and adds the student" in str(result.facts()["a full run"])
    assert result.facts()["name a photo"] == f"clipstill predict {result.out} photo.jpg"


def test_the_next_step_makes_it_better_by_five_photos(
    result: QuickResult, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    step = result.advice.steps["photos"]
    assert "Give five photos of each class" in step
    command = shlex.split(step.rpartition(": clipstill ")[2])
    changed = {"five_photos": str(photos), f"{result.out}-five": str(tmp_path / "five")}
    assert main([changed.get(word, word) for word in command]) == 0
    shown = capsys.readouterr().out
    assert f"clipstill predict {tmp_path / 'five'} photo.jpg" in shown
    assert "18 examples, each classified without itself" in shown
    assert "five_photos" not in shown  # They were given.


def test_other_commands_take_the_run_folder(
    result: QuickResult, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photos / "dog" / "1.png"
    assert main(["predict", str(result.out), str(photo), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    [best] = clipstill.load_bundle(result.out / "zero-shot").predict(photo, top=1)
    assert best.label in json.dumps(answer)
    assert main(["evaluate", str(result.out), str(photos), "--json", "--quiet"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["student_top1"] == result.bundle.evaluation.top1  # type: ignore[union-attr]
    assert (result.out / "zero-shot" / "index.html").is_file()
    assert main(["fine-tune", str(result.out), "--examples", str(photos), "--out", str(tmp_path / "tuned")]) == 2
    assert "has nothing that learns" in capsys.readouterr().err
    assert main(["ladder", str(result.out), str(photos)]) == 2
    assert "is not finished" in capsys.readouterr().err


def test_a_bundle_that_is_its_teacher_is_measured_once(
    result: QuickResult, photos: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr("clipstill.commands.evaluate._measure_teacher")
    assert main(["evaluate", str(result.out), str(photos), "--json"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert found["teacher_top1"] == found["student_top1"] == result.bundle.evaluation.top1  # type: ignore[union-attr]
    assert "measured once for both" in captured.err


@pytest.mark.slow
def test_the_full_run_finds_it_done_and_answers_by_its_student_from_then_on(result: QuickResult, photos: Path) -> None:
    before = (result.out / "zero-shot" / "MANIFEST.json").stat().st_mtime_ns
    full = clipstill.distil(classes=CLASSES, out=result.out, settings=SETTINGS, images=photos)
    assert full.skipped == ("zero_shot",)
    assert (result.out / "zero-shot" / "MANIFEST.json").stat().st_mtime_ns == before
    assert full.zero_shot_folder == result.bundle.out
    assert clipstill.load_bundle(result.out).folder == result.out / "bundle"
    pixels_NHW3 = np.zeros((1, 32, 32, 3), np.uint8)
    assert full.bundle.logits(pixels_NHW3).shape == (1, 2)
    # Asked for again, it neither works nor forgets the student.
    assert clipstill.quick(classes=CLASSES, out=result.out, settings=SETTINGS, images=photos).bundle == result.bundle
    assert clipstill.distil(classes=CLASSES, out=result.out, settings=SETTINGS, images=photos).up_to_date


def test_classes_that_no_photo_shows_are_named_beside_the_number(tmp_path: Path) -> None:
    dogs = noise_photos(tmp_path / "photos", ["dog"], 12)
    found = clipstill.quick(classes=CLASSES, out=tmp_path / "run", settings=SETTINGS, images=dogs)
    text = found.advice.text
    assert found.advice.verdict.endswith(" so far")
    assert "labelled photos in 1 of the 2 classes (none of guitar)" in text
    assert "photos of guitar to be sure" in text


def test_a_finished_run_of_other_classes_is_refused_and_stays_as_it_was(
    quick_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def files() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in quick_copy.rglob("*") if path.is_file()}

    before = files()
    assert main(run_arguments(quick_copy, SETTINGS, "--quick", classes="dog,elephant")) == 2
    assert capsys.readouterr().err.startswith(
        f"error: {quick_copy} holds a run of other classes or descriptions (dog, guitar). Choose another --out"
    )
    assert files() == before


def test_a_quick_run_may_change_its_classes_and_writes_no_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    clipstill.quick(classes=CLASSES, out=out, settings=SETTINGS)
    assert main(run_arguments(out, SETTINGS, "--quick", "--log", "tensorboard", classes="dog,elephant")) == 0
    said = capsys.readouterr().err
    assert "log=tensorboard writes nothing: a quick run has no curves" in said
    assert f"{out} held the small teacher for other classes (dog, guitar), which is replaced" in said
    assert not (out / "tensorboard").exists()
    assert clipstill.load_bundle(out).labels == ("dog", "elephant")


def test_a_run_without_it_says_how_to_make_it(quick_run: Path) -> None:
    assert not (quick_run / "zero-shot").exists()
    assert "clipstill zero-shot --run" in json.loads((quick_run / "advice.json").read_text())["which_to_ship"]


def test_the_command_line_prints_what_python_returns(
    tmp_path: Path, result: QuickResult, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = run_arguments(result.out, SETTINGS, "--quick", "--images", str(photos), "--json", "--quiet")
    assert main(command) == 0
    assert json.loads(capsys.readouterr().out) == json.loads(json.dumps(result.to_json()))
    assert [event["event"] for event in read_events(result.out)][-1] == "end"
