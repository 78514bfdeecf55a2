"""Teach a teacher's prompts from a few labelled images, and keep it near what it knew.

Source: Khattak et al., PromptSRC, ICCV 2023 (self-regulating prompts), which PromptKD (Li et al., CVPR 2024) trains its
teacher by. The learning rate goes as in Dassl: the first epoch at a constant small one, then a cosine by whole epochs.

Shapes: N images, C classes, D dimensions, B images of a batch, H x W pixels.
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

from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.core.tensors import tensor_digest
from clipstill.distillation.checkpoint import load_state, save_state, with_prefix
from clipstill.distillation.optimisation import epoch_rate
from clipstill.distillation.randomness import SampleOrder
from clipstill.distillation.settings import PromptTeacherSettings
from clipstill.distillation.views import Views, to_unit

if TYPE_CHECKING:
    from clipstill.core.protocols import PromptedTeacher

CHECKPOINT = "prompts-checkpoint.safetensors"
_AT_ONCE = 64
# PromptSRC's values for a ViT-L/14: learning rate of the whole first epoch, weight decay of everything that is learned,
# least share of the area that a crop keeps, and weights of the regularising terms.
_WARMUP_LR = 1e-5
_WEIGHT_DECAY = 5e-4
_CROP_MIN = 0.08
_TEXT_WEIGHT = 25.0
_IMAGE_WEIGHT = 10.0
_LOGIT_WEIGHT = 1.0


def tune_prompts(
    teacher: PromptedTeacher,
    names: Sequence[str],
    images_N3HW: Tensor,
    label_N: Tensor,
    settings: PromptTeacherSettings,
    folder: Path,
    device: torch.device | str = "cpu",
    *,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Train ``teacher``'s prompts in place.

    Args:
        teacher: on ``device``; a state that an equal call left in ``folder`` is gone on from.
        names: of the classes that compete.
        images_N3HW: uint8, larger than the teacher sees them by what crops are to cut away.
        label_N: positions in ``names``.
        settings: how.
        folder: for the checkpoint, written after every epoch.
        device: where to train.
        seed: Seed of order and views.

    Returns:
        An entry an epoch: epoch (from 1), lr, and the means of loss, of its terms, and of the accuracy on the views.

    Raises:
        DataError: no image, or a label outside of the names.
        ConfigError: the loss is no number any more.
        ArtifactError: the stored state is damaged.
    """
    if not len(images_N3HW) or len(images_N3HW) != len(label_N) or int(label_N.max()) >= len(names):
        raise DataError(
            f"prompts are learned from labelled images: there are {len(images_N3HW)} images, {len(label_N)} labels and "
            f"{len(names)} classes. Give at least one image, and each a label of one of the classes."
        )
    return _Tuning(teacher, names, images_N3HW, label_N, settings, folder, torch.device(device), seed).finish()


class _Tuning:
    """One call of ``tune_prompts``."""

    def __init__(
        self,
        teacher: PromptedTeacher,
        names: Sequence[str],
        images_N3HW: Tensor,
        label_N: Tensor,
        settings: PromptTeacherSettings,
        folder: Path,
        device: torch.device,
        seed: int,
    ) -> None:
        self.seed = seed
        self.teacher, self.names, self.settings, self.folder, self.device = teacher, names, settings, folder, device
        self.images, self.labels = images_N3HW, label_N.to(device)
        self.learned: dict[str, Tensor] = dict(teacher.named_parameters())
        self.views = Views(teacher.image_size, _CROP_MIN, 0.0, kernel="bicubic")
        self.scale = float(teacher.logit_scale)
        self.key = sha256_json(
            {
                "format": 1,
                "settings": [settings.identity(), seed],
                "names": list(names),
                "pictures": tensor_digest({"images": images_N3HW, "labels": label_N}),
                "teacher": teacher.weights_sha256,
                "device": device.type,
            }
        )
        self.plain_text_CD = teacher.plain_class_vectors(names).to(device)

    def finish(self) -> list[dict[str, Any]]:
        settings = self.settings
        optimiser = torch.optim.SGD(
            list(self.learned.values()), lr=settings.lr, momentum=0.9, weight_decay=_WEIGHT_DECAY
        )
        average = {name: torch.zeros_like(value, dtype=torch.float32) for name, value in self.learned.items()}
        share_E = average_shares(settings)
        history: list[dict[str, Any]] = []
        saved = load_state(self.folder / CHECKPOINT)
        if saved is not None and saved.facts.get("key") == self.key:
            history = list(saved.facts["history"])
            for name, value in self.learned.items():
                value.data.copy_(saved.group("learned")[name])
                average[name].copy_(saved.group("average")[name])
                optimiser.state[value]["momentum_buffer"] = saved.group("momentum")[name].to(self.device)
        kept = self._kept_passes() if self.teacher.learns_after_towers else None
        steps = math.ceil(len(self.images) / settings.batch)
        total, done = settings.epochs * steps, len(history) * steps
        with Progress("teacher's prompts", total=total, unit="step", done=done) as bar:
            for epoch in range(len(history), settings.epochs):
                lr = settings.lr * epoch_rate(epoch, settings.epochs, _WARMUP_LR / max(settings.lr, 1e-12))
                for group in optimiser.param_groups:
                    group["lr"] = lr
                told = []
                order = SampleOrder(len(self.images), settings.batch, self.seed, "prompts")
                for step in range(epoch * steps, (epoch + 1) * steps):
                    told.append(self._step(optimiser, order.indices(step), step, epoch, kept))
                    bar.advance(1, loss=told[-1]["loss"])
                for name, value in self.learned.items():
                    average[name] += share_E[epoch] * value.detach().float()
                history.append(
                    {"epoch": epoch + 1, "lr": lr} | {name: fmean(each[name] for each in told) for name in told[0]}
                )
                self._save(optimiser, average, history)
        for name, value in self.learned.items():
            value.data.copy_(average[name])
        return history

    @torch.no_grad()
    def _kept_passes(self) -> list[Tensor]:
        """The plain vectors of some passes of crops: (N, D) each."""
        passes = []
        count = min(self.settings.views, self.settings.epochs)
        with Progress("teacher's view of the examples", total=count * len(self.images), unit="image") as bar:
            for number in range(count):
                parts = []
                for start in range(0, len(self.images), _AT_ONCE):
                    x_N3HW = to_unit(self.images[start : start + _AT_ONCE], self.device)
                    view_N3SS = self.views(x_N3HW, self.seed, "prompts", "pass", number, start).x_N3SS
                    parts.append(self.teacher.plain_image(view_N3SS))
                    bar.advance(len(x_N3HW))
                passes.append(torch.cat(parts))
        return passes

    def _step(
        self, optimiser: torch.optim.SGD, chosen_B: Tensor, step: int, epoch: int, kept: list[Tensor] | None
    ) -> dict[str, float]:
        if kept is None:
            x_B3HW = to_unit(self.images[chosen_B], self.device)
            view_B3SS = self.views(x_B3HW, self.seed, "prompts", step).x_N3SS
            plain_BD = self.teacher.plain_image(view_B3SS)
        else:
            view_B3SS = plain_BD = kept[epoch % len(kept)][chosen_B.to(self.device)]
        image_BD = self.teacher.prompted_image(view_B3SS, plain_BD)
        text_CD = self._class_vectors()
        terms = regulated_loss(
            image_BD, text_CD, plain_BD, self.plain_text_CD, self.labels[chosen_B.to(self.device)], self.scale
        )
        loss = (
            terms["cross_entropy"]
            + self.settings.regularisation * _TEXT_WEIGHT * terms["text"]
            + self.settings.regularisation * _IMAGE_WEIGHT * terms["image"]
            + self.settings.regularisation * _LOGIT_WEIGHT * terms["logits"]
        )
        if not bool(torch.isfinite(loss)):
            raise ConfigError(
                f"the loss of the teacher's prompts is {float(loss)} at step {step}. Set prompt_teacher.lr lower."
            )
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        return {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in terms.items()}

    def _class_vectors(self) -> Tensor:
        """All classes', chunk by chunk; the tower's activations of a chunk are made again on the way back."""
        chunk = self.settings.text_chunk or len(self.names)
        parts = [self.names[start : start + chunk] for start in range(0, len(self.names), chunk)]
        if len(parts) == 1:
            return self.teacher.class_vectors(self.names)
        return torch.cat([checkpoint(self.teacher.class_vectors, part, use_reentrant=False) for part in parts])

    def _save(self, optimiser: torch.optim.SGD, average: dict[str, Tensor], history: list[dict[str, Any]]) -> None:
        momentum = {name: optimiser.state[value]["momentum_buffer"] for name, value in self.learned.items()}
        tensors = {
            **with_prefix("learned", self.learned),
            **with_prefix("average", average),
            **with_prefix("momentum", momentum),
        }
        save_state(self.folder / CHECKPOINT, tensors, {"key": self.key, "history": history})


def regulated_loss(
    image_BD: Tensor, text_CD: Tensor, plain_BD: Tensor, plain_text_CD: Tensor, label_B: Tensor, scale: float
) -> dict[str, Tensor]:
    """The terms of PromptSRC's loss, each without its weight.

    Args:
        image_BD: prompted unit vectors of the images.
        text_CD: prompted class vectors.
        plain_BD: the images' unit vectors without prompts.
        plain_text_CD: class vectors without prompts.
        label_B: class of each image.
        scale: the teacher's logit scale.

    Returns:
        Scalars: ``cross_entropy`` (mean over the batch), ``text`` and ``image`` (mean absolute differences over all
        elements), ``logits`` (KL(plain || prompted), summed and divided by B * C), and ``accuracy``, without gradient.
    """
    logits_BC = scale * image_BD @ text_CD.T
    plain_BC = scale * plain_BD @ plain_text_CD.T
    divergence = kl_div(log_softmax(logits_BC, 1), log_softmax(plain_BC, 1), reduction="sum", log_target=True)
    return {
        "cross_entropy": cross_entropy(logits_BC, label_B),
        "text": (text_CD - plain_text_CD).abs().mean(),
        "image": (image_BD - plain_BD).abs().mean(),
        "logits": divergence / logits_BC.numel(),
        "accuracy": (logits_BC.argmax(1) == label_B).float().mean().detach(),
    }


def average_shares(settings: PromptTeacherSettings) -> list[float]:
    """What each epoch's weights count for in the average; the shares sum to 1.

    Source: Khattak et al., ICCV 2023, Gaussian weighted prompt aggregation.
    """
    if settings.average_mean == 0:
        return [0.0] * (settings.epochs - 1) + [1.0]
    epochs = range(1, settings.epochs + 1)
    # Against the nearest epoch, so that a far mean does not make all of them zero.
    distances = [((epoch - settings.average_mean) / settings.average_std) ** 2 for epoch in epochs]
    heights = [math.exp(-0.5 * (each - min(distances))) for each in distances]
    return [height / sum(heights) for height in heights]
