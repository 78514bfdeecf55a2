"""The trainer: it learns, keeps what is frozen, and goes on after a kill to the same bits."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Literal

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.nn import functional

from clipstill.core import compiled
from clipstill.core.errors import ConfigError
from clipstill.core.progress import ProgressEvent, listening
from clipstill.core.protocols import Preprocess
from clipstill.core.seeds import generator_for
from clipstill.distillation import trainer
from clipstill.distillation.feature_cache import FeatureCache
from clipstill.distillation.meta import statistics_kept
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import LEAST_TO_CHOOSE, DistilResult, distil
from clipstill.distillation.training_data import Setup, TrainingData
from clipstill.students.student import Backbone, FirstHead, Student

SMALL = DistilSettings(
    steps=12, batch=8, lr=1e-3, head_lr=1e-2, warmup_steps=2, views=2, held_out_styles=1, checkpoint_every=4, ema=0.9
)
MODES = {
    "backbone": SMALL,
    "bn": SMALL.changed(freeze="bn", head_steps=8, steps=8),
    "none": SMALL.changed(freeze="none", optimiser="sgd", lr=1e-2, steps=8),
}


class ColourTeacher:
    """Tells pictures by their mean colour; stops after a number of calls where asked to."""

    name = "colours"
    weights_sha256 = "none"
    logit_scale = 20.0

    def __init__(self, calls: int | None = None, kill: bool = False) -> None:
        self.calls = calls
        self.kill = kill
        self.done = 0

    def encode_image(self, x_N3HW: torch.Tensor) -> torch.Tensor:
        if self.done == self.calls:
            if self.kill:
                os.kill(os.getpid(), signal.SIGKILL)
            raise KeyboardInterrupt
        self.done += 1
        return functional.normalize(x_N3HW.mean((2, 3)) - 0.3, dim=1)


def pictures(count: int = 30) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = generator_for("pictures", count)
    images = torch.randint(0, 160, (count, 3, 36, 36), generator=generator, dtype=torch.uint8)
    class_id = torch.arange(count) % 3
    images[torch.arange(count), class_id] += 90
    return images, class_id, torch.arange(count) // 3 % 4


def new_student(seed: int = 0) -> Student:
    """Two layers with statistics: enough to tell colours."""
    network = nn.Sequential(
        *(nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU()),
        *(nn.Conv2d(8, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    )
    generator = generator_for(seed, "network")
    with torch.no_grad():
        for weight in (network[0].weight, network[3].weight):
            weight.copy_(torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5)
    preprocess = Preprocess(32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    return Student(Backbone("two layers", network, preprocess), classes=3, seed=seed).eval()


def train(
    folder: Path,
    settings: DistilSettings,
    teacher: ColourTeacher | None = None,
    student: Student | None = None,
    seed: int = 0,
    images: int = 30,
) -> tuple[Student, DistilResult]:
    torch.set_num_threads(1)
    student = student or new_student()
    labels, data = SoftLabels(teacher or ColourTeacher(), torch.eye(3)), TrainingData(*pictures(images))
    return student, distil(student, labels, data, settings=settings, folder=folder, seed=seed)


def assert_same_weights(first: Student, second: Student) -> None:
    for key, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[key]), key


@pytest.mark.parametrize("mode", list(MODES))
def test_resumed_run_equals_uninterrupted_wherever_it_stopped(mode: str, tmp_path: Path) -> None:
    teacher = ColourTeacher()
    expected, straight = train(tmp_path / "straight", MODES[mode], teacher)
    for calls in {2, teacher.done // 2, teacher.done - 1}:
        folder = tmp_path / str(calls)
        with pytest.raises(KeyboardInterrupt):
            train(folder, MODES[mode], ColourTeacher(calls))
        torch.rand(calls)  # another process has another global generator
        resumed, result = train(folder, MODES[mode])
        assert_same_weights(expected, resumed)
        assert result.history == straight.history
        assert (result.best_phase, result.best_step) == (straight.best_phase, straight.best_step)


@pytest.mark.slow
def test_run_killed_by_the_system_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    expected, straight = train(tmp_path / "straight", MODES["bn"])
    # Three calls fill the caches; the tenth is a step between two checkpoints of all weights.
    code = (
        "import sys; from pathlib import Path; import tests.distillation.test_trainer as t; "
        "t.train(Path(sys.argv[1]), t.MODES['bn'], t.ColourTeacher(int(sys.argv[2]), kill=True))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path])}
    command = [sys.executable, "-c", code, str(tmp_path / "killed"), "9"]
    finished = subprocess.run(command, env=environment, capture_output=True, check=False)
    assert finished.returncode == -signal.SIGKILL, finished.stderr.decode()
    resumed, result = train(tmp_path / "killed", MODES["bn"])
    assert result.resumed_step > 0
    assert_same_weights(expected, resumed)
    assert result.history == straight.history


def test_head_training_interrupted_between_steps_equals_uninterrupted(tmp_path: Path) -> None:
    # Cached features call no teacher, so the stop comes from the head itself.
    expected, _ = train(tmp_path / "straight", SMALL)
    student = new_student()
    seen = 0

    def stop(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        nonlocal seen
        seen += 1
        if seen == 7:
            raise KeyboardInterrupt

    student.head.register_forward_pre_hook(stop)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "broken", SMALL, student=student)
    resumed, result = train(tmp_path / "broken", SMALL)
    assert result.resumed_step == 4
    assert_same_weights(expected, resumed)


def test_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = train(tmp_path, SMALL)
    again, result = train(tmp_path, SMALL, ColourTeacher(calls=0))
    assert result.resumed_step == SMALL.steps
    assert_same_weights(first, again)


def test_checkpoint_of_other_settings_is_not_gone_on_from(tmp_path: Path) -> None:
    train(tmp_path, SMALL)
    other = SMALL.changed(head_lr=2e-2)
    changed, result = train(tmp_path, other)
    fresh, _ = train(tmp_path / "fresh", other)
    assert result.resumed_step == 0
    assert_same_weights(changed, fresh)


def test_cached_features_serve_other_head_settings(tmp_path: Path) -> None:
    train(tmp_path, SMALL)
    train(tmp_path, SMALL.changed(head_lr=2e-2), ColourTeacher(calls=0))


def test_result_does_not_depend_on_the_global_generator(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "a", MODES["none"])
    torch.rand(3)
    second, _ = train(tmp_path / "b", MODES["none"])
    assert_same_weights(first, second)


def test_layers_that_share_weights_are_trained_and_stored(tmp_path: Path) -> None:
    student = new_student()
    network = student.backbone
    network[4] = network[1] = nn.BatchNorm2d(8)
    network[3] = nn.Conv2d(8, 8, 3, stride=2, bias=False)
    shared = Student(Backbone("shared", network, student.preprocess), classes=3).eval()
    train(tmp_path, MODES["none"].changed(keep="last"), student=shared)
    stored = load_file(tmp_path / "student.safetensors")
    assert torch.equal(stored["backbone.1.weight"], stored["backbone.4.weight"])
    assert not torch.equal(stored["backbone.1.weight"], torch.ones(8))


def test_another_seed_gives_another_student(tmp_path: Path) -> None:
    first, _ = train(tmp_path / "a", SMALL)
    second, _ = train(tmp_path / "b", SMALL, seed=1)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_student_comes_to_agree_with_the_teacher_on_styles_it_never_saw(tmp_path: Path) -> None:
    settings = MODES["none"].changed(optimiser="adamw", lr=3e-3, steps=80, checkpoint_every=10)
    _, result = train(tmp_path, settings)
    assert result.best_agreement is not None
    assert result.best_agreement > 0.8
    assert result.history[-1]["loss"] < 0.5 * result.history[1]["loss"]


@pytest.mark.parametrize("mode", list(MODES))
def test_what_is_frozen_does_not_move(mode: str, tmp_path: Path) -> None:
    before = new_student().state_dict()
    after = train(tmp_path, MODES[mode].changed(keep="last"))[0].state_dict()
    moved = {key for key in before if not torch.equal(before[key], after[key])}
    statistics = {key for key in before if "running" in key}
    assert "head.weight" in moved
    if mode == "backbone":
        assert moved == {"head.weight", "head.bias"}
    elif mode == "bn":
        assert not moved & statistics
        assert any(key.startswith("backbone") for key in moved)
    else:
        assert moved & statistics


def test_kept_weights_are_those_of_the_best_validation(tmp_path: Path) -> None:
    _, result = train(tmp_path, SMALL.changed(steps=24), images=90)
    assert result.held_out_count >= LEAST_TO_CHOOSE
    ranked = [(entry["agreement"], -entry["held_out_loss"]) for entry in result.history]
    best = result.history[ranked.index(max(ranked))]
    assert (best["step"], best["agreement"]) == (result.best_step, result.best_agreement)
    _, last = train(tmp_path / "last", SMALL.changed(steps=24, keep="last"), images=90)
    assert last.best_step == 24


def test_nine_pictures_do_not_choose_the_weights_of_a_diverging_student(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="clipstill")
    diverging = MODES["none"].changed(lr=3.0, head_lr=3.0, steps=8, head_steps=0, ema=0.0)
    _, few = train(tmp_path / "few", diverging)
    agreed = [entry["agreement"] for entry in few.history]
    assert few.held_out_count == 9
    assert agreed[0] > agreed[-1]  # The weights before the first step would have been kept.
    assert (few.best_step, few.best_agreement) == (8, agreed[-1])
    assert any("9 held-out images are too few" in message for message in caplog.messages)


def test_training_without_held_out_pictures_keeps_the_last_step(tmp_path: Path) -> None:
    _, result = train(tmp_path, SMALL.changed(held_out_styles=0))
    assert (result.best_step, result.best_agreement, result.held_out_count) == (SMALL.steps, None, 0)


def test_pictures_without_class_teach_and_are_not_held_out(tmp_path: Path) -> None:
    images, class_id, style_id = pictures()
    extra = torch.cat([images, 255 - images])
    labels, styles = torch.cat([class_id, torch.full((30,), -1)]), torch.cat([style_id, style_id])
    student = new_student()
    data = TrainingData(extra, labels, styles)
    result = distil(student, SoftLabels(ColourTeacher(), torch.eye(3)), data, settings=SMALL, folder=tmp_path)
    _, without = train(tmp_path / "without", SMALL)
    assert result.train_count == without.train_count + 30
    assert result.held_out_count == without.held_out_count


def test_cached_views_count_by_everything_that_draws_them(tmp_path: Path) -> None:
    student, data = new_student(), TrainingData(*pictures(4))
    labels = SoftLabels(ColourTeacher(), torch.eye(3))
    keys = {
        FeatureCache(Setup(student, labels, data, data, settings=settings, folder=tmp_path, seed=0), data).key
        for settings in (
            SMALL,
            SMALL.changed(kernel="bicubic"),
            SMALL.changed(crop_min=0.5),
            SMALL.changed(jitter=0.5),
        )
    }
    assert len(keys) == 4


def test_features_of_all_passes_are_one_piece_of_work_that_goes_on_after_a_stop(tmp_path: Path) -> None:
    data, labels = TrainingData(*pictures(4)), SoftLabels(ColourTeacher(), torch.eye(3))
    events: list[ProgressEvent] = []
    cache = FeatureCache(Setup(new_student(), labels, data, data, settings=SMALL, folder=tmp_path, seed=0), data)
    cache.augmented(1)
    with listening(events.append):
        first = cache.augmented(3)
        again = cache.augmented(3)
    assert [(event.title, event.done, event.total) for event in events] == [
        ("features", done, 12) for done in (4, 8, 12, 12)
    ]
    assert all(torch.equal(one.student_NF, other.student_NF) for one, other in zip(first, again, strict=True))
    assert not torch.equal(first[1].student_NF, first[2].student_NF)


def test_exploding_loss_is_a_setting_to_change(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"Lower distillation\.lr"):
        train(tmp_path, MODES["none"].changed(lr=10.0, weight_decay=1.0, temperature=0.01, steps=200))


@pytest.mark.parametrize("meta", ["first_order", "exact", "reptile"])
@pytest.mark.parametrize("mode", list(MODES))
def test_meta_distillation_learns_and_goes_on_after_a_stop_in_every_phase(
    mode: str, meta: Literal["first_order", "exact", "reptile"], tmp_path: Path
) -> None:
    settings = MODES[mode].changed(meta=meta, loss="ce+kd")
    teacher = ColourTeacher()
    expected, straight = train(tmp_path / "straight", settings, teacher)
    assert all(-1 <= entry["alignment"] <= 1 for entry in straight.history if entry["step"] > 0)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", settings, ColourTeacher(teacher.done - 1))
    student, _ = train(tmp_path / "cut", settings)
    assert_same_weights(student, expected)


def test_meta_distillation_without_styles_is_refused(tmp_path: Path) -> None:
    images, class_id, _ = pictures()
    settings = SMALL.changed(meta="exact")
    data = TrainingData(images, class_id, torch.zeros_like(class_id))
    with pytest.raises(ConfigError, match="two styles"):
        distil(new_student(), SoftLabels(ColourTeacher(), torch.eye(3)), data, settings=settings, folder=tmp_path)


def test_statistics_do_not_move_at_weights_that_only_a_try_has() -> None:
    """With a second group that is tried aside, running statistics are those of the first group alone."""
    module = nn.Sequential(nn.BatchNorm1d(3)).train()
    x_N3 = torch.randn(8, 3, generator=generator_for("statistics"))
    module(x_N3)
    before = module[0].running_mean.clone()  # type: ignore[union-attr, operator]
    with statistics_kept(module):
        tried = module(x_N3 + 5)
    assert torch.equal(module[0].running_mean, before)  # type: ignore[arg-type]
    torch.testing.assert_close(tried, functional.batch_norm(x_N3, None, None, training=True), atol=1e-4, rtol=1e-4)
    assert module[0].momentum == 0.1


@pytest.mark.parametrize("loss", ["kd", "ce", "ce+kd"])
def test_every_loss_teaches_the_classes(loss: Literal["kd", "ce", "ce+kd"], tmp_path: Path) -> None:
    settings = SMALL.changed(loss=loss, steps=400, lr=1e-2, head_lr=5e-2, checkpoint_every=100)
    _, result = train(tmp_path, settings, images=90)
    assert result.best_agreement is not None
    assert result.best_agreement > 0.6


def test_labelled_pictures_teach_without_a_teacher(tmp_path: Path) -> None:
    images, class_id, style_id = pictures()
    settings = MODES["none"].changed(loss="ce", held_out_styles=0, jitter=0.0, lr=3e-2, steps=80)
    student = new_student()
    data = TrainingData(images, class_id, style_id)
    distil(student, SoftLabels(None, torch.eye(3)), data, settings=settings, folder=tmp_path / "run")
    with torch.no_grad():
        found = student(images.float() / 255).argmax(1)
    assert float((found == class_id).float().mean()) > 0.8
    for change in ({"loss": "kd"}, {"held_out_styles": 1}):
        unfit = settings.changed(**change)
        with pytest.raises(ConfigError, match="without a teacher"):
            distil(student, SoftLabels(None, torch.eye(3)), data, settings=unfit, folder=tmp_path / "no")


def test_half_precision_teaches_nearly_the_same(tmp_path: Path) -> None:
    settings = MODES["none"].changed(optimiser="adamw", lr=3e-3, steps=40, checkpoint_every=10)
    _, result = train(tmp_path, settings.changed(precision="bf16"))
    assert result.best_agreement is not None
    assert result.best_agreement > 0.7


@pytest.mark.parametrize("mode", list(MODES))
def test_reading_the_loss_rarely_changes_no_bit(mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    often, expected = train(tmp_path / "often", MODES[mode])
    monkeypatch.setitem(trainer.READ_EVERY, "cpu", 3)
    rarely, result = train(tmp_path / "rarely", MODES[mode])
    assert_same_weights(often, rarely)
    assert result.history == expected.history


@pytest.mark.slow
def test_a_compiled_student_learns_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class PlainTeacher(ColourTeacher):
        def encode_image(self, x_N3HW: torch.Tensor) -> torch.Tensor:
            return functional.normalize(x_N3HW.mean((2, 3)) - 0.3, dim=1)

    eager, expected = train(tmp_path / "eager", MODES["none"], PlainTeacher())
    counter, real = CompileCounterWithBackend("aot_eager"), torch.compile
    monkeypatch.setattr(torch, "compile", lambda function, **how: real(function, backend=counter, **how))
    monkeypatch.setattr(compiled, "can_compile", lambda device: True)
    monkeypatch.setattr(compiled, "COMPILE_AFTER_S", 0.0)
    torch.compiler.reset()
    whole, result = train(tmp_path / "compiled", MODES["none"], PlainTeacher())
    # The student and its teacher, once each.
    assert counter.frame_count == 2
    for key, value in eager.state_dict().items():
        torch.testing.assert_close(whole.state_dict()[key], value, rtol=1e-4, atol=1e-5)
    assert result.history[-1]["loss"] == pytest.approx(expected.history[-1]["loss"], abs=1e-5)


def test_minutes_take_the_place_of_steps_and_a_resumed_run_keeps_their_number(tmp_path: Path) -> None:
    # Too little time for a step more than the least, however fast the machine is.
    settings = MODES["none"].changed(minutes=1e-6, steps=5_000, checkpoint_every=10)
    teacher = ColourTeacher()
    expected, straight = train(tmp_path / "straight", settings, teacher)
    steps = straight.history[-1]["step"]
    assert 20 <= steps < 5_000
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", settings, ColourTeacher(teacher.done - 1))
    student, resumed = train(tmp_path / "cut", settings)
    assert resumed.resumed_step > 0
    assert resumed.history[-1]["step"] == steps
    assert_same_weights(student, expected)


def test_the_teacher_is_asked_once_about_a_view_that_comes_again(tmp_path: Path) -> None:
    """Two passes of three batches, walked through four times; the answers serve another rate, and a resumed run."""
    settings = MODES["none"].changed(labels="cached", views=2, steps=24, checkpoint_every=5)
    teacher = ColourTeacher()
    expected, _ = train(tmp_path / "straight", settings, teacher)
    held_out = 1
    assert teacher.done == held_out + 2 * 2, "23 pictures are two whole batches of 8 a pass"
    again = ColourTeacher()
    train(tmp_path / "straight", settings.changed(lr=1e-4), again)
    assert again.done == 0
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "cut", settings, ColourTeacher(teacher.done - 1))
    student, _ = train(tmp_path / "cut", settings)
    assert_same_weights(student, expected)


def test_a_start_is_kept_by_a_large_pull_left_by_a_small_one_and_a_candidate(tmp_path: Path) -> None:
    weight_CF = torch.randn(3, 16, generator=generator_for("start"))
    moved = []
    for pull, worth in ((1e7, 1.0), (1000.0, 1.0), (10_000.0, 0.1), (0.0, 1.0)):
        student = new_student()
        student.begin_with(FirstHead(weight_CF, torch.zeros(3), worth=worth))
        settings = SMALL.changed(pull=pull, steps=60)
        result = distil(
            student,
            SoftLabels(ColourTeacher(), torch.eye(3)),
            TrainingData(*pictures()),
            settings=settings,
            folder=tmp_path / str(pull),
        )
        assert result.history[0]["step"] == 0
        moved.append(float((student.head.weight.detach() - weight_CF).norm()))
    held, pulled, pulled_as_much, free = moved
    assert held < 0.02 * free
    assert held < pulled < free
    assert pulled_as_much == pulled


def test_a_head_without_a_start_is_not_held(tmp_path: Path) -> None:
    heads = []
    for pull in (0.0, 1e7):
        student = new_student()
        settings = SMALL.changed(pull=pull)
        distil(
            student,
            SoftLabels(ColourTeacher(), torch.eye(3)),
            TrainingData(*pictures()),
            settings=settings,
            folder=tmp_path / str(pull),
        )
        heads.append(student.head.weight)
    assert torch.equal(*heads)
