"""Learning a teacher's prompts: the loss against closed forms, the schedule, the average, resume, and that it does."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for
from clipstill.distillation.prompt_tuning import CHECKPOINT, average_shares, regulated_loss, tune_prompts
from clipstill.distillation.randomness import batch_rows
from clipstill.distillation.settings import PromptTeacherSettings
from clipstill.distillation.training_data import TrainingData
from clipstill.teachers import load_teacher
from clipstill.teachers.prompted import PromptedOpenClip, PromptedTeacher, prompted
from clipstill.workflow.recipes import load_settings
from golden import golden
from openclip_fixtures import architectures, loaded, pictures  # noqa: F401

NAMES = ["dog", "cat", "sea horse"]
SETTINGS = PromptTeacherSettings(epochs=3, batch=4, lr=0.05, average_mean=2.0)


def units(*shape: int) -> Tensor:
    return normalize(torch.randn(*shape, generator=generator_for("units", *shape)), dim=-1)


def clip(tmp_path: Path) -> PromptedTeacher:
    return prompted(loaded(tmp_path)[1], visual_depth=2, text_depth=2)


def examples() -> TrainingData:
    """Three classes that differ by colour."""
    images = torch.randint(0, 60, (9, 3, 40, 40), generator=generator_for("examples"), dtype=torch.uint8)
    labels = torch.arange(9) % 3
    for image, label in zip(images, labels, strict=True):
        image[label] += 150
    return TrainingData(images, labels, torch.full_like(labels, -1))


def test_each_term_is_its_closed_form() -> None:
    image, text, plain, plain_text, label = (
        units(2, 4),
        units(3, 4),
        units(5, 4)[:2],
        units(6, 4)[:3],
        torch.tensor([2, 0]),
    )
    terms = regulated_loss(
        image_BD=image, text_CD=text, plain_BD=plain, plain_text_CD=plain_text, label_B=label, scale=10.0
    )
    p = torch.softmax(10 * plain @ plain_text.T, 1).double()
    q = torch.softmax(10 * image @ text.T, 1).double()
    assert float(terms["cross_entropy"]) == pytest.approx(float(-(q[0, 2].log() + q[1, 0].log()) / 2), rel=1e-5)
    assert float(terms["text"]) == pytest.approx(float((text - plain_text).abs().sum() / 12), rel=1e-5)
    assert float(terms["image"]) == pytest.approx(float((image - plain).abs().sum() / 8), rel=1e-5)
    assert float(terms["logits"]) == pytest.approx(float((p * (p / q).log()).sum() / 6), rel=1e-4)


def test_unprompted_vectors_cost_nothing_but_their_errors() -> None:
    image, text, label = units(2, 4), units(3, 4), torch.tensor([0, 1])
    terms = regulated_loss(image_BD=image, text_CD=text, plain_BD=image, plain_text_CD=text, label_B=label, scale=10.0)
    assert [float(terms[name]) for name in ("text", "image", "logits")] == [0, 0, 0]


def test_the_average_is_a_gaussian_over_epochs_that_sums_to_one() -> None:
    shares = average_shares(PromptTeacherSettings())
    assert sum(shares) == pytest.approx(1)
    assert shares[14] / shares[15] == pytest.approx(math.exp(0.5))
    assert average_shares(PromptTeacherSettings(average_mean=0))[-2:] == [0, 1]
    assert sum(average_shares(PromptTeacherSettings(epochs=2, average_mean=90.0))) == pytest.approx(1)


def test_prompts_learn_and_everything_else_keeps_its_bits(tmp_path: Path) -> None:
    teacher = clip(tmp_path)
    frozen = {name: value.clone() for name, value in teacher.base._model.state_dict().items()}
    start = {name: value.detach().clone() for name, value in teacher.named_parameters()}
    settings = SETTINGS.changed(epochs=25, average_mean=23.0)
    history = tune_prompts(teacher, NAMES, examples(), settings=settings, folder=tmp_path / "work")
    assert history[-1]["cross_entropy"] < 0.5 * history[0]["cross_entropy"]
    assert all(not torch.equal(value, start[name]) for name, value in teacher.named_parameters())
    assert all(torch.equal(value, frozen[name]) for name, value in teacher.base._model.state_dict().items())


def watched(teacher: PromptedTeacher, on_step: Callable[[int], None]) -> PromptedTeacher:
    """The teacher, with a call before each step, which counts from 0."""
    vectors, steps = teacher.class_vectors, count()

    def class_vectors(names: Sequence[str]) -> Tensor:
        on_step(next(steps))
        return vectors(names)

    teacher.class_vectors = class_vectors  # type: ignore[method-assign]
    return teacher


def test_the_result_is_the_average_of_what_the_epochs_ended_with(tmp_path: Path) -> None:
    seen: list[dict[str, Tensor]] = []
    plain = clip(tmp_path)

    def keep(step: int) -> None:
        if step in (3, 6):  # The first steps of the second and third epoch: nine images are three steps.
            seen.append({name: value.detach().clone() for name, value in plain.named_parameters()})

    tune_prompts(watched(plain, keep), NAMES, examples(), settings=SETTINGS, folder=tmp_path / "work")
    last = load_file(tmp_path / "work" / CHECKPOINT)
    seen.append({name.removeprefix("learned."): value for name, value in last.items() if name.startswith("learned.")})
    shares = average_shares(SETTINGS)
    for name, value in plain.named_parameters():
        expected = sum(share * each[name] for share, each in zip(shares, seen, strict=True))
        assert torch.allclose(value, torch.as_tensor(expected), atol=1e-7)


PICTURES = TrainingData(
    torch.randint(0, 256, (12, 3, 32, 32), generator=generator_for("golden pictures"), dtype=torch.uint8),
    torch.arange(12) % 3,
    torch.full((12,), -1),
)


def golden_start(tmp_path: Path) -> PromptedOpenClip:
    teacher = prompted(loaded(tmp_path, "tiny-vit-quickgelu")[1], visual_depth=2, text_depth=2)
    assert isinstance(teacher, PromptedOpenClip)
    return teacher


def test_each_term_and_its_gradient_are_those_of_the_code_of_promptsrc(tmp_path: Path) -> None:
    """Both are float32; the rest is rounding. Our terms come without their weights."""
    expected, teacher = golden("promptsrc"), golden_start(tmp_path)
    x_N3HW, label_N = PICTURES.pixels_M3HW[expected["rows"][0]] / 255, PICTURES.class_id_N[expected["rows"][0]]
    terms = regulated_loss(
        image_BD=teacher.encode_image(x_N3HW),
        text_CD=teacher.class_vectors(NAMES),
        plain_BD=teacher.plain_image(x_N3HW),
        plain_text_CD=teacher.plain_class_vectors(NAMES),
        label_B=label_N,
        scale=float(teacher.logit_scale),
    )
    weights = {"cross_entropy": 1, "text": 25, "image": 10, "logits": 1}
    found: dict[str, Any] = {name: weight * terms[name] for name, weight in weights.items()}
    found["loss"] = sum(found.values())
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(
        expected["first_batch"], rel=1e-5
    )
    assert teacher.visual_prompts is not None
    learned = [teacher.visual_prompts.tokens_KPE, teacher.text_prompts.tokens_KPE]
    for name, value in found.items():
        gradients = torch.autograd.grad(value, learned, retain_graph=True, allow_unused=True)
        norms = [0.0 if both is None else float(both[layer].norm()) for both in gradients for layer in (0, 1)]
        assert norms == pytest.approx(expected["gradient_norms"][name], rel=1e-4, abs=1e-6), name


def test_eighty_sentences_by_design_raise_promptsrcs_loss_by_a_third_of_a_percent() -> None:
    """The authors take sixty; only the terms that look at the frozen class vectors differ."""
    ours, theirs = golden("promptsrc")["first_batch"], golden("promptsrc")["sixty_sentences"]
    assert ours["loss"] / theirs["loss"] == pytest.approx(1.0032, abs=1e-4)
    assert [ours[name] == theirs[name] for name in ("cross_entropy", "image")] == [True, True]


def test_five_epochs_give_the_prompts_of_the_code_of_promptsrc(tmp_path: Path) -> None:
    """Pictures without augmentation: the teacher is shown the picture itself in place of each view."""
    expected, teacher = golden("promptsrc"), golden_start(tmp_path)
    assert teacher.visual_prompts is not None
    learned = {"visual": teacher.visual_prompts.tokens_KPE, "text": teacher.text_prompts.tokens_KPE}
    start = {name: value.detach().clone() for name, value in learned.items()}
    rows, step = expected["rows"], count()
    plain, with_prompts = teacher.plain_image, teacher.encode_image
    shown: list[Tensor] = []

    def plain_image(view_B3SS: Tensor) -> Tensor:
        shown.append(PICTURES.pixels_M3HW[rows[next(step)]] / 255)
        return plain(shown[-1])

    teacher.plain_image = plain_image  # type: ignore[method-assign]
    teacher.prompted_image = lambda view_B3SS, plain_BD: with_prompts(shown[-1])  # type: ignore[method-assign]
    settings = PromptTeacherSettings(epochs=5, batch=4, average_mean=4.0)
    assert rows == [batch_rows(number, 12, 4, (0, "prompts")).tolist() for number in range(15)]
    history = tune_prompts(teacher, NAMES, PICTURES, settings=settings, folder=tmp_path / "work")
    assert next(step) == 15
    assert [entry["loss"] for entry in history] == pytest.approx(expected["losses"], rel=1e-5)
    for name, value in learned.items():
        right = torch.tensor(expected["prompts"][name])
        assert ((right - start[name]).abs().amax((1, 2)) > 0.1).all()
        torch.testing.assert_close(value.detach(), right, atol=1e-5, rtol=0)


def test_a_killed_tuning_goes_on_and_ends_with_the_same_bits(tmp_path: Path) -> None:
    whole = clip(tmp_path)
    tune_prompts(whole, NAMES, examples(), settings=SETTINGS, folder=tmp_path / "whole")

    def die(step: int) -> None:
        if step == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tune_prompts(watched(clip(tmp_path), die), NAMES, examples(), settings=SETTINGS, folder=tmp_path / "killed")
    again, steps = clip(tmp_path), []
    history = tune_prompts(
        watched(again, steps.append), NAMES, examples(), settings=SETTINGS, folder=tmp_path / "killed"
    )
    assert len(steps) == 6
    assert [entry["epoch"] for entry in history] == [1, 2, 3]
    expected = dict(whole.named_parameters())
    assert all(torch.equal(value, expected[name]) for name, value in again.named_parameters())


@pytest.mark.parametrize("kind", ["clip", "embedded"])
def test_classes_in_chunks_learn_the_same(tmp_path: Path, kind: str) -> None:
    learned, calls = [], []
    for chunk in (0, 2):
        teacher = clip(tmp_path) if kind == "clip" else prompted(load_teacher("embedded-s", torch.device("cpu")))
        plain = teacher.class_vectors
        teacher.class_vectors = lambda names, plain=plain: calls.append(len(names)) or plain(names)  # type: ignore
        settings = SETTINGS.changed(epochs=1, lr=0.005, text_chunk=chunk)
        tune_prompts(teacher, NAMES, examples(), settings=settings, folder=tmp_path / str(chunk))
        learned.append(torch.cat([value.flatten() for value in teacher.parameters()]))
    assert torch.allclose(*learned, atol=1e-6)
    # Three classes at once in each of the three steps; then two and one of them, and once more on the way back.
    assert sorted(calls) == [1] * 6 + [2] * 6 + [3] * 3


def test_an_embedded_teacher_is_shown_each_view_once(tmp_path: Path) -> None:
    teacher = prompted(load_teacher("embedded-s", torch.device("cpu")), words="a", rank=4)
    asked: list[int] = []
    encode = teacher.plain_image

    def counted(x_N3HW: Tensor) -> Tensor:
        asked.append(len(x_N3HW))
        return encode(x_N3HW)

    teacher.plain_image = counted  # type: ignore[method-assign]
    settings = SETTINGS.changed(views=2, epochs=4, average_mean=4.0)
    history = tune_prompts(teacher, NAMES, examples(), settings=settings, folder=tmp_path)
    assert sum(asked) == 2 * 9
    assert history[-1]["loss"] < history[1]["loss"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"epochs": 0}, "epochs is 0"),
        ({"regularisation": -1.5}, "regularisation is -1.5"),
        ({"average_std": 0.0}, "average_std is 0"),
    ],
)
def test_settings_out_of_range_are_named(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=f"prompt_teacher.{message}"):
        load_settings(values={"prompt_teacher": changes})
