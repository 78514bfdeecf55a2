"""Learn a teacher's prompts from a few labelled images, while regularising terms keep it near the plain teacher.

Source: Khattak et al., PromptSRC, ICCV 2023 (self-regulating prompts). PromptKD (Li et al., CVPR 2024) uses it too.

Shapes: N images, B images of a batch, C classes, D teacher dimensions, E epochs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax
from torch.utils.checkpoint import checkpoint

from clipstill.core.errors import ConfigError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.core.tensors import logits
from clipstill.distillation.checkpoint import Saved, load_state, save_state, with_prefix
from clipstill.distillation.optimisation import epoch_rate
from clipstill.distillation.randomness import batch_rows
from clipstill.distillation.settings import PromptTeacherSettings
from clipstill.distillation.training_data import Rows, TrainingData
from clipstill.distillation.views import Views

if TYPE_CHECKING:
    from clipstill.core.protocols import PromptedTeacher

CHECKPOINT = "prompts-checkpoint.safetensors"
_AT_ONCE = 64
# PromptSRC's values for a ViT-L/14: learning rate of the first epoch, weight decay, least share of the area that a crop
# keeps, and weights of the regularising terms.
_WARMUP_LR, _WEIGHT_DECAY, _CROP_MIN = 1e-5, 5e-4, 0.08
_WEIGHTS = {"text": 25.0, "image": 10.0, "logits": 1.0}


def tune_prompts(
    teacher: PromptedTeacher,
    names: Sequence[str],
    data: TrainingData,
    *,
    settings: PromptTeacherSettings,
    folder: Path,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Train ``teacher``'s prompts in place. If an equal call left a state in ``folder``, training resumes from it.

    Args:
        teacher: Teacher with new prompts.
        names: Names of the classes.
        data: Images; the class of each is a position in ``names``.
        settings: Settings of the tuning.
        folder: Folder for the checkpoint, which is written after every epoch.
        seed: Seed of order and views.

    Returns:
        One entry per epoch: epoch (from 1), lr, and means of the loss, of its terms, and of the accuracy on the views.

    Raises:
        ConfigError: The loss stopped being a number.
        ArtifactError: The stored state is damaged.
    """
    device = next(value for _, value in teacher.named_parameters()).device
    key = sha256_json(
        {
            "format": 3,
            "settings": [settings.identity(), seed],
            "names": list(names),
            "images": data.digest,
            "teacher": teacher.weights_sha256,
            "device": device.type,
        }
    )
    tuning = _Tuning(teacher, names, data, device, settings=settings, seed=seed)
    path = folder / CHECKPOINT
    tuning.restore(load_state(path, key))
    total, done = settings.epochs * tuning.steps, len(tuning.history) * tuning.steps
    with Progress("teacher's prompts", total=total, unit="step", done=done) as bar:
        while len(tuning.history) < settings.epochs:
            tuning.train_epoch(bar)
            save_state(path, tuning.state(), {"key": key, "history": tuning.history})
    data.stop_reading()
    for name, value in tuning.learned.items():
        value.data.copy_(tuning.average[name])
    return tuning.history


class _Tuning:
    """The state of one call of ``tune_prompts``."""

    def __init__(
        self,
        teacher: PromptedTeacher,
        names: Sequence[str],
        data: TrainingData,
        device: torch.device,
        *,
        settings: PromptTeacherSettings,
        seed: int,
    ) -> None:
        self.teacher, self.names, self.settings, self.seed = teacher, names, settings, seed
        self.data, self.label_N, self.device = data, data.class_id_N.to(device), device
        self.steps = math.ceil(len(data) / settings.batch)
        self.learned: dict[str, Tensor] = dict(teacher.named_parameters())
        self.average = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in self.learned.items()}
        self.history: list[dict[str, Any]] = []
        self.optimiser = torch.optim.SGD(
            list(self.learned.values()), lr=settings.lr, momentum=0.9, weight_decay=_WEIGHT_DECAY
        )
        self._views = Views(teacher.image_size, _CROP_MIN, jitter=0.0, kernel="bicubic")
        self._plain_text_CD = teacher.plain_class_vectors(names).to(self.device)
        self._kept = self._kept_passes() if teacher.learns_after_towers else None

    def restore(self, saved: Saved | None) -> None:
        if saved is None:
            return
        self.history = saved.facts["history"]
        for name, value in self.learned.items():
            value.data.copy_(saved.group("learned")[name])
            self.average[name].copy_(saved.group("average")[name])
            self.optimiser.state[value]["momentum_buffer"] = saved.group("momentum")[name].to(self.device)

    def state(self) -> dict[str, Tensor]:
        momentum = {name: self.optimiser.state[value]["momentum_buffer"] for name, value in self.learned.items()}
        groups = {"learned": self.learned, "average": self.average, "momentum": momentum}
        return {name: value for prefix, group in groups.items() for name, value in with_prefix(prefix, group).items()}

    def train_epoch(self, bar: Progress) -> None:
        settings, epoch = self.settings, len(self.history)
        lr = settings.lr * epoch_rate(epoch, settings.epochs, _WARMUP_LR / max(settings.lr, 1e-12))
        for group in self.optimiser.param_groups:
            group["lr"] = lr
        done = []
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            done.append(self._step(step, epoch))
            bar.advance(1, loss=done[-1]["loss"])
        share = average_shares(settings)[epoch]
        for name, value in self.learned.items():
            self.average[name] += share * value.detach().float()
        means = {name: fmean(each[name] for each in done) for name in done[0]}
        self.history.append({"epoch": epoch + 1, "lr": lr, **means})

    @torch.no_grad()
    def _kept_passes(self) -> list[Tensor]:
        """The plain teacher's vectors (N, D) of some passes of crops."""
        passes = []
        count = min(self.settings.views, self.settings.epochs)
        with Progress("teacher's view of the examples", total=count * len(self.data), unit="image") as bar:
            for number in range(count):
                parts, seed = [], (self.seed, "prompts", "pass", number)
                for view_N3SS in self.data.in_order(_AT_ONCE, self._views, self.device, seed):
                    parts.append(self.teacher.plain_image(view_N3SS))
                    bar.advance(len(view_N3SS))
                passes.append(torch.cat(parts))
        return passes

    def _step(self, step: int, epoch: int) -> dict[str, float]:
        rows, seed = self._rows(step)
        label_B = self.label_N[rows.to(self.device)]
        if self._kept is None:
            ahead = (self._rows(each) for each in range(step + 1, self.settings.epochs * self.steps))
            view_B3SS = self.data.views((rows, seed), self._views, self.device, ahead=ahead)
            plain_BD = self.teacher.plain_image(view_B3SS)
        else:
            view_B3SS = plain_BD = self._kept[epoch % len(self._kept)][rows.to(self.device)]
        terms = regulated_loss(
            image_BD=self.teacher.prompted_image(view_B3SS, plain_BD),
            text_CD=self._class_vectors(),
            plain_BD=plain_BD,
            plain_text_CD=self._plain_text_CD,
            label_B=label_B,
            scale=float(self.teacher.logit_scale),
        )
        loss = terms["cross_entropy"]
        for name, weight in _WEIGHTS.items():
            loss = loss + self.settings.regularisation * weight * terms[name]
        if not bool(torch.isfinite(loss)):
            raise ConfigError(
                f"the loss of the teacher's prompts is {float(loss)} at step {step}. Set prompt_teacher.lr lower."
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimiser.step()
        return {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in terms.items()}

    def _rows(self, step: int) -> Rows:
        rows = batch_rows(step, len(self.data), self.settings.batch, (self.seed, "prompts"))
        return rows, (self.seed, "prompts", step)

    def _class_vectors(self) -> Tensor:
        """The class vectors, chunk by chunk; the backward pass recomputes a chunk's activations to save memory."""
        chunk = self.settings.text_chunk or len(self.names)
        parts = [self.names[start : start + chunk] for start in range(0, len(self.names), chunk)]
        if len(parts) == 1:
            return self.teacher.class_vectors(self.names)
        return torch.cat([checkpoint(self.teacher.class_vectors, part, use_reentrant=False) for part in parts])


def regulated_loss(
    *, image_BD: Tensor, text_CD: Tensor, plain_BD: Tensor, plain_text_CD: Tensor, label_B: Tensor, scale: float
) -> dict[str, Tensor]:
    """The terms of PromptSRC's loss, each without its weight.

    Args:
        image_BD: Prompted unit vectors of the images.
        text_CD: Prompted class vectors.
        plain_BD: Unit vectors of the images without prompts.
        plain_text_CD: Class vectors without prompts.
        label_B: Class of each image.
        scale: The teacher's logit scale.

    Returns:
        Scalars: ``cross_entropy`` (mean over the batch), ``text`` and ``image`` (mean absolute differences over all
        elements), ``logits`` (KL(plain || prompted), summed and divided by B * C), and ``accuracy``, without gradient.
    """
    logits_BC, plain_BC = logits(image_BD, text_CD, scale), logits(plain_BD, plain_text_CD, scale)
    divergence = kl_div(log_softmax(logits_BC, 1), log_softmax(plain_BC, 1), reduction="sum", log_target=True)
    return {
        "cross_entropy": cross_entropy(logits_BC, label_B),
        "text": (text_CD - plain_text_CD).abs().mean(),
        "image": (image_BD - plain_BD).abs().mean(),
        "logits": divergence / logits_BC.numel(),
        "accuracy": (logits_BC.argmax(1) == label_B).float().mean().detach(),
    }


def average_shares(settings: PromptTeacherSettings) -> list[float]:
    """The share of each epoch's weights in the average; they sum to 1.

    Source: Khattak et al., ICCV 2023, Gaussian weighted prompt aggregation.
    """
    if settings.average_mean == 0:
        return [0.0] * (settings.epochs - 1) + [1.0]
    epochs = range(1, settings.epochs + 1)
    # Relative to the nearest epoch, so that a far mean does not make all heights zero.
    distances = [((epoch - settings.average_mean) / settings.average_std) ** 2 for epoch in epochs]
    heights = [math.exp(-0.5 * (each - min(distances))) for each in distances]
    return [height / sum(heights) for height in heights]
