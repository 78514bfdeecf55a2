"""What a run says of its own scores, how it refuses, and what a few labelled photos change."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from clipstill.cli.main import main
from clipstill.core.files import read_json
from clipstill.core.seeds import generator_for
from clipstill.evaluation.metrics import softmax
from clipstill.runtime import load_bundle
from clipstill.surrogate.dataset import SurrogateSet
from run_fixtures import CLASSES, QUICK, run_arguments

pytestmark = pytest.mark.usefixtures("own_torch_settings")


def photo_folder(folder: Path, each: int) -> Path:
    """Noise of one colour a class: a student can learn it."""
    for number, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(each):
            pixels = torch.randint(
                0, 90, (40, 40, 3), generator=generator_for(folder.name, name, index), dtype=torch.uint8
            )
            pixels[..., 2 * number] += 150
            Image.fromarray(pixels.numpy()).save(folder / name / f"{index}.png")
    return folder


def test_near_misses_set_the_threshold_and_teach_nothing(quick_run: Path) -> None:
    made = SurrogateSet.open(quick_run / "stages" / "near_misses")
    assert sorted(made.class_id_N.tolist()) == [2, 3, 4, 5]
    refusal = read_json(quick_run / "stages" / "calibration" / "calibration.json")["refusal"]
    assert len(set(refusal["near_misses"])) == 4
    assert not set(CLASSES) & set(refusal["near_misses"])
    assert refusal["synthetic_accepted"] >= 0.9
    told = read_json(quick_run / "stages" / "student" / "history.json")
    assert told["train_count"] + told["held_out_count"] == told["images"] <= 8


def test_the_bundle_carries_what_was_found(quick_run: Path) -> None:
    found = read_json(quick_run / "stages" / "calibration" / "calibration.json")
    bundle = load_bundle(quick_run)
    assert bundle.temperature == found["temperature"]
    assert bundle.refusal_threshold == found["refusal"]["threshold"]
    # A student from scratch is worth nothing known.
    assert found["foresight"]["photos"] is None
    assert "cannot tell: no student that learns from scratch" in (quick_run / "bundle" / "card.md").read_text()
    logits = bundle.logits(np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3), dtype=np.uint8))
    np.testing.assert_allclose(bundle.probabilities(logits), softmax(logits / found["temperature"]), atol=1e-5)
    assert "none of these" in (quick_run / "bundle" / "card.md").read_text()
    report = (quick_run / "report.html").read_text()
    assert "Calibration of the scores" in report
    assert ", ".join(found["refusal"]["near_misses"]) in report


def test_photos_below_the_threshold_are_none_of_these(
    quick_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = photo_folder(tmp_path / "photos", 1) / "dog" / "0.png"
    bundle = load_bundle(quick_run)
    score = bundle.predict(photo, top=1)[0].score
    for threshold, refused in ((score + 0.01, True), (score - 0.01, False)):
        bundle.refusal_threshold = threshold
        (answer,) = bundle.answer([photo], top=1)
        assert answer.refused is refused
        assert answer.told[:1] == bundle.predict(photo, top=1)
    bundle.refusal_threshold = None
    assert not bundle.answer([photo])[0].refused
    assert main(["predict", str(quick_run), str(photo), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)[0]
    assert told["refused"] is (score < load_bundle(quick_run).refusal_threshold)
    assert main(["predict", str(quick_run), str(photo)]) == 0
    assert ("none of these (most like" in capsys.readouterr().out) is told["refused"]


def test_a_run_that_is_called_again_makes_no_near_miss(quick_copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(quick_copy, QUICK)) == 0
    told = capsys.readouterr().err
    assert "near_misses: done already, skipped" in told
    assert "calibration: done already, skipped" in told


@pytest.mark.slow
def test_meta_distillation_is_one_flag_and_near_misses_are_given_by_name(tmp_path: Path) -> None:
    out = tmp_path / "run"
    near = ("refusal.near_misses=[tree, car, cup]", "refusal.images=2")
    settings = (*QUICK, "distillation.held_out_styles=0", *near)
    assert main(run_arguments(out, settings, "--meta", "first_order", "--quiet")) == 0
    history = read_json(out / "stages" / "student" / "history.json")["history"]
    assert all(-1 <= entry["alignment"] <= 1 for entry in history if entry["step"] > 0)
    report = (out / "report.html").read_text()
    assert "cosine between gradients of different styles" in report
    assert "tree, car, cup" in report
    made = SurrogateSet.open(out / "stages" / "near_misses")
    assert sorted(made.class_id_N.tolist()) == [2, 2, 3, 3, 4, 4]


@pytest.mark.parametrize(
    ("value", "message"),
    [("-1", "must lie at or above 0"), ("[tree]", "Give at least 2"), ("[tree, dog]", "dog")],
)
def test_near_misses_that_cannot_be_are_told_in_one_line(
    value: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(run_arguments(tmp_path / "run", (*QUICK, f"refusal.near_misses={value}"))) == 2
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert message in told


def test_a_budget_is_minutes_and_nonsense_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(run_arguments(tmp_path / "run", QUICK, "--budget", "soon")) == 2
    assert "10min, 90s or 1h30min" in capsys.readouterr().err


@pytest.mark.slow
def test_a_few_labelled_photos_tune_a_finished_student(
    quick_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    examples, photos = photo_folder(tmp_path / "examples", 4), photo_folder(tmp_path / "photos", 6)
    out = tmp_path / "tuned"
    command = ["fine-tune", str(quick_run), "--examples", str(examples), "--out", str(out), "--quiet", "--json"]
    more = ["--images", str(photos), "--per-class", "3", "--seed", "1"]
    assert main([*command, *more, "--set", "distillation.steps=40", "--set", "distillation.head_lr=0.05"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["examples"] == 6
    assert told["after"]["top1"] >= max(0.9, told["before"]["top1"])
    tuned = load_bundle(out)
    assert tuned.labels == CLASSES
    assert tuned.temperature == pytest.approx(told["temperature"])
    before = load_bundle(quick_run).refusal_threshold
    assert before is not None
    assert tuned.refusal_threshold is not None
    assert tuned.refusal_threshold <= before
    assert told["after"]["accepted"] > 0.5
    assert "none of these" in (out / "card.md").read_text()
    assert tuned.info["fine_tuned_on"] == 6
    assert tuned.predict(photos / "dog" / "0.png", top=1)[0].label == "dog"
    assert "tuned on 6 labelled photos" in (out / "card.md").read_text()
    untuned, weights = (load_file(each / "student.safetensors") for each in (quick_run / "bundle", out))
    moved = {name for name, value in untuned.items() if not torch.equal(value, weights[name])}
    assert moved == {"head.weight", "head.bias"}
    assert main(["evaluate", str(out), "--images", str(photos), "--quiet", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["student_top1"] == told["after"]["top1"]
    # It ends as a run does: with a verdict, the command that names a photo, and the next step.
    written = (out / "MANIFEST.json").stat().st_mtime_ns
    shown = ["--set", "distillation.steps=40", "--set", "distillation.head_lr=0.05"]
    assert main([*command[:-2], *more, *shown]) == 0
    captured = capsys.readouterr()
    assert f"nothing to do: {out} was tuned on these photos before" in captured.err
    assert (out / "MANIFEST.json").stat().st_mtime_ns == written
    rows = dict(line.strip().split("  ", 1) for line in captured.out.splitlines())
    assert rows["verdict"].strip() == told["text"]
    assert "(80 % interval" in told["text"]
    assert rows["name a photo"].strip() == f"clipstill predict {out} photo.jpg"
    assert rows["next 1"].strip().startswith("Measure it on 50 photos or more")
    assert main([*command, *more, *shown]) == 0
    assert json.loads(capsys.readouterr().out) == told
    # A damaged bundle is made again.
    (out / "card.md").write_text("")
    assert main([*command, *more, *shown]) == 0
    assert "tuned on 6 labelled photos" in (out / "card.md").read_text()
    capsys.readouterr()
    # Another setting is another student.
    assert main([*command, *more, *shown, "--set", "distillation.steps=41"]) == 0
    assert (out / "MANIFEST.json").stat().st_mtime_ns > written


def test_fine_tuning_says_what_is_missing(quick_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    examples = photo_folder(tmp_path / "examples", 1)
    command = ["fine-tune", str(quick_run), "--examples", str(examples), "--quiet"]
    assert main([*command, "--out", str(tmp_path / "tuned"), "--images", str(examples)]) == 2
    assert "flatters" in capsys.readouterr().err
    assert main([*command, "--out", str(examples)]) == 2
    assert "no part of a bundle" in capsys.readouterr().err
    (examples / "guitar" / "0.png").unlink()
    assert main([*command, "--out", str(tmp_path / "tuned")]) == 2
    assert "no photo of guitar" in capsys.readouterr().err
    assert not (tmp_path / "tuned").exists()
