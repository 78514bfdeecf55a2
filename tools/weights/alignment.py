"""Trains the learned head of an image tower's alignment, by contrast on drawings and on pseudo features.

Drawings and emoji teach styles and what ImageNet lacks. Pseudo features stand for the photos of ImageNet, which are not
available: features of drawings, moved until the ImageNet classifier sees a class in them.

Shapes: N images, M texts, K = 1000 ImageNet classes, F = 1280 features, E = 384 text dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.distillation.randomness import borrowed_generator
from clipstill.teachers.embedded import SHARES, Alignment, Words
from clipstill.teachers.minilm import DIM
from tools.weights.tower_features import FEATURES, Classifier

# Largest factor, and inverse of the smallest, that a channel is scaled by.
_MOST_GAIN = 5.0
# The first dimensions of an alignment's vectors are those of the two heads without learned weights.
_FIXED = DIM + FEATURES
_CHUNK = 4000


@dataclass(frozen=True)
class AlignmentSettings:
    """Settings, chosen on the development halves of two sets of photos."""

    steps: int = 450  # Optimiser steps.
    batch: int = 512  # Drawings, and pseudo features, per step.
    dim: int = 384  # Dimensions of the learned head.
    hidden: int = 768  # Width of the image side.
    lr: float = 1e-3  # Peak learning rate.
    text_lr_share: float = 0.3  # Share of ``lr`` for the text side, since MiniLM's space is good already.
    weight_decay: float = 0.05  # Weight decay of the image side.
    dropout: float = 0.5  # Dropout of the image side.
    warmup: int = 50  # Steps to the peak.
    temperature: float = 0.05  # Start of the softmax's temperature, which is learned.
    pseudo: int = 20_000  # Number of pseudo features.
    margin: float = 8.0  # Largest lead of a pseudo feature's class over the next, in logits.
    names: float = 0.6  # Share of drawings that are shown with their name, the others with their caption.
    above: float = 0.3  # Share of pseudo features that are shown with a noun above their class.
    widest_noun: int = 80  # Most classes below such a noun.
    ema: float = 0.99  # Decay of the averaged weights, which are the result.
    seed: int = 0  # Seed of all draws.


class Choices:
    """Lists of numbers, one per row and possibly empty, from which single numbers are drawn."""

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = torch.tensor([len(row) for row in rows])
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._flat = torch.tensor([number for row in rows for number in row] or [0])

    def draw(self, rows_N: Tensor, generator: torch.Generator) -> Tensor:
        """One number (N,) from each named row; arbitrary for empty rows."""
        share = torch.rand(len(rows_N), generator=generator)
        picked = self._starts[rows_N] + (share * self.lengths[rows_N]).long()
        return self._flat[picked.clamp_max(len(self._flat) - 1)]


@dataclass(frozen=True)
class TrainingTexts:
    """The texts of drawings and ImageNet classes, as rows of ``text_ME``."""

    text_ME: Tensor  # MiniLM vectors of all texts.
    name_N: Tensor  # Name of each drawing.
    caption_N: Tensor  # Caption of each drawing.
    class_names: Choices  # Names of each ImageNet class.
    class_above: Choices  # Nouns above each ImageNet class; may be empty.


def train_alignment(
    words: Words,
    classifier: Classifier,
    feat_NF: Tensor,
    texts: TrainingTexts,
    *,
    natural_mean_F: Tensor,
    settings: AlignmentSettings,
    title: str,
) -> Alignment:
    """Train one tower's alignment.

    Args:
        words: Words shared by the towers.
        classifier: ImageNet classifier of the tower.
        feat_NF: Features of the shown drawings; row i shows drawing ``i % len(texts.name_N)``.
        texts: Texts of the drawings and of the ImageNet classes.
        natural_mean_F: Mean features of photos, as the tower's last BatchNorm predicts them.
        settings: Settings.
        title: Title of the progress display.

    Returns:
        The alignment in evaluation mode, with averaged weights.
    """
    generator = generator_for(settings.seed, "alignment", title)
    with borrowed_generator(settings.seed, "alignment", title):
        feat_NF = torch.cat([feat_NF, equalised(feat_NF, natural_mean_F, generator)])
        alignment = _start(words, classifier, feat_NF, settings)
        pseudo_NF, pseudo_class_N = pseudo_features(
            feat_NF, classifier, settings.pseudo, margin=settings.margin, generator=generator
        )
        trainer = _Trainer(alignment, words, texts, settings)
        drawings = trainer.images(feat_NF, classifier)
        pseudo = trainer.images(pseudo_NF, classifier)
        drawing_N = torch.arange(len(feat_NF)) % len(texts.name_N)
        with Progress(title, total=settings.steps, unit="step") as bar:
            for step in range(settings.steps):
                rows = torch.randint(len(feat_NF), (settings.batch,), generator=generator)
                names = texts.name_N[drawing_N[rows]]
                by_name = torch.rand(settings.batch, generator=generator) < settings.names
                shown = torch.where(by_name, names, texts.caption_N[drawing_N[rows]])
                loss = contrastive_loss(trainer.logits(drawings, rows, shown), names)

                rows = torch.randint(len(pseudo_NF), (settings.batch,), generator=generator)
                classes = pseudo_class_N[rows]
                above = torch.rand(settings.batch, generator=generator) < settings.above
                above &= texts.class_above.lengths[classes] > 0
                shown = torch.where(
                    above, texts.class_above.draw(classes, generator), texts.class_names.draw(classes, generator)
                )
                loss = loss + contrastive_loss(trainer.logits(pseudo, rows, shown), shown)
                trainer.update(loss, step)
                bar.advance(1, loss=loss.item())
    return trainer.finish()


def contrastive_loss(logits_NN: Tensor, ids_N: Tensor) -> Tensor:
    """Symmetric cross-entropy of images against texts; texts of one meaning share the target evenly.

    Args:
        logits_NN: Scaled cosines of image i and text j.
        ids_N: Equal numbers for equal meanings.

    Returns:
        A scalar, the mean over images and texts; ``log(N)`` if all logits are equal.

    Source: Radford et al., 2021, with the shared targets of Khosla et al., 2020.
    """
    same_NN = (ids_N[:, None] == ids_N[None]).float()
    target_NN = same_NN / same_NN.sum(1, keepdim=True)
    by_image = -(target_NN * logits_NN.log_softmax(1)).sum(1).mean()
    by_text = -(target_NN * logits_NN.T.log_softmax(1)).sum(1).mean()
    return (by_image + by_text) / 2


def pseudo_features(
    feat_NF: Tensor, classifier: Classifier, count: int, *, margin: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features moved until the classifier sees a random class in them.

    Each starts at a real feature and moves along ``Sigma w_c``: of all directions that raise the class's logit equally,
    the shortest in the metric of the real features' covariance Sigma. There are three rounds, each against the
    strongest other class; features stay at or above 0, as after the network's last activation.

    Args:
        feat_NF: Real features.
        classifier: ImageNet classifier of the tower.
        count: M.
        margin: Largest lead of the class over the others in logits, drawn from [0, margin], before the clamp at 0.
        generator: Source of all draws.

    Returns:
        pseudo_MF, and their classes (M,).
    """
    centred_NF = feat_NF - feat_NF.mean(0)
    directions_FK = centred_NF.T @ centred_NF / len(feat_NF) @ classifier.weight_KF.T
    gain_KK = classifier.weight_KF @ directions_FK
    classes = torch.randint(len(gain_KK), (count,), generator=generator)
    moved_MF = feat_NF[torch.randint(len(feat_NF), (count,), generator=generator)]
    for chunk in torch.split(torch.arange(count), _CHUNK):
        own = classes[chunk]
        for _ in range(3):
            logits = classifier(moved_MF[chunk])
            other_logit, other = logits.scatter(1, own[:, None], -math.inf).max(1)
            lead = torch.rand(len(chunk), generator=generator) * margin
            missing = (lead - logits.gather(1, own[:, None])[:, 0] + other_logit).clamp_min(0)
            step = missing / (gain_KK[own, own] - gain_KK[own, other]).clamp_min(1e-3)
            moved_MF[chunk] = (moved_MF[chunk] + step[:, None] * directions_FK.T[own]).clamp_min(0)
    return moved_MF, classes


def equalised(feat_NF: Tensor, natural_mean_F: Tensor, generator: torch.Generator) -> Tensor:
    """Features with each channel scaled, in part or wholly, to its predicted mean in photos.

    Drawings fire some channels much more than photos do (flat colours, hard edges, white ground), and a head that
    relies on these fails on photos.

    Args:
        feat_NF: Features of drawings, at or above 0.
        natural_mean_F: Predicted means.
        generator: Source of each drawing's share of the way, in [0, 1].
    """
    gain_F = (natural_mean_F / feat_NF.mean(0).clamp_min(1e-2)).clamp(1 / _MOST_GAIN, _MOST_GAIN)
    way_N1 = torch.rand(len(feat_NF), 1, generator=generator)
    return feat_NF * (1 + way_N1 * (gain_F - 1))


def _start(words: Words, classifier: Classifier, feat_NF: Tensor, settings: AlignmentSettings) -> Alignment:
    """An alignment whose learned head agrees with the words before the first step."""
    alignment = Alignment(words, classifier.weight_KF, settings.dim, hidden=settings.hidden, dropout=settings.dropout)
    with torch.no_grad():
        alignment.feature_mean_F.copy_(feat_NF.mean(0))
        # Some features are always zero.
        alignment.feature_std_F.copy_(feat_NF.std(0) + 1e-3)
        nn.init.orthogonal_(alignment.from_text.weight)
        alignment.from_names.weight.copy_(alignment.from_text.weight)
        alignment.from_features.weight.mul_(0.1)
        alignment.from_hidden.weight.mul_(0.3)
    return alignment


@dataclass(frozen=True)
class _Images:
    """Features of images, and the output of the heads without learned weights."""

    feat_NF: Tensor
    fixed_NX: Tensor


class _Trainer:
    """The alignment, its optimiser and the running average of its weights."""

    def __init__(self, alignment: Alignment, words: Words, texts: TrainingTexts, settings: AlignmentSettings) -> None:
        self.alignment = alignment
        self.settings = settings
        with torch.no_grad():
            self._centred_ME = words.centre(texts.text_ME)
            parts = [alignment.encode_text(text_ME)[:, :_FIXED] for text_ME in torch.split(texts.text_ME, _CHUNK)]
            self._fixed_MX = torch.cat(parts)
        self._log_scale = nn.Parameter(torch.tensor(-math.log(settings.temperature)))
        text_side = [alignment.from_text.weight]
        image_side = [one for name, one in alignment.named_parameters() if not name.startswith("from_text")]
        groups: list[dict[str, Any]] = [
            {"params": image_side, "weight_decay": settings.weight_decay},
            {"params": text_side, "lr": settings.lr * settings.text_lr_share},
            {"params": [self._log_scale]},
        ]
        self._optimiser = torch.optim.AdamW(groups, lr=settings.lr, weight_decay=0.0)
        self._schedule = torch.optim.lr_scheduler.LambdaLR(self._optimiser, self._rate)
        self._learned = [*image_side, *text_side, self._log_scale]
        self._average = [one.detach().clone() for one in self._learned]
        alignment.train()

    def _rate(self, step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * min(1.0, step / self.settings.steps)))
        return min(1.0, step / self.settings.warmup) * (cosine + 0.01)

    @torch.no_grad()
    def images(self, feat_NF: Tensor, classifier: Classifier) -> _Images:
        """Features, with the part of their vectors that is constant in training."""
        parts = [
            self.alignment.encode_image(chunk, classifier(chunk))[:, :_FIXED] for chunk in torch.split(feat_NF, _CHUNK)
        ]
        return _Images(feat_NF, torch.cat(parts))

    def logits(self, images: _Images, rows: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines of some images and texts, as of ``Alignment``, with the constant part looked up."""
        fixed_NX = images.fixed_NX[rows]
        # The constant part is stored as a share of the joint vector; the names' head alone is of unit length.
        names_NE = F.normalize(fixed_NX[:, :DIM], dim=-1)
        learned_ND = self.alignment.pictures_of(images.feat_NF[rows] - self.alignment.feature_mean_F, names_NE)
        text_MD = F.normalize(self.alignment.from_text(self._centred_ME[texts]), dim=-1)
        cosine_NM = fixed_NX @ self._fixed_MX[texts].T + SHARES[-1] * learned_ND @ text_MD.T
        return self._log_scale.exp() * cosine_NM

    def update(self, loss: Tensor, step: int) -> None:
        """One step of the optimiser and of the average."""
        self._optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimiser.step()
        self._schedule.step()
        decay = min(self.settings.ema, (step + 1) / (step + 10))
        with torch.no_grad():
            for average, one in zip(self._average, self._learned, strict=True):
                average.lerp_(one, 1 - decay)

    @torch.no_grad()
    def finish(self) -> Alignment:
        """The alignment with the averaged weights."""
        for average, one in zip(self._average, self._learned, strict=True):
            one.copy_(average)
        self.alignment.logit_scale.copy_(self._log_scale.exp())
        return self.alignment.eval().requires_grad_(False)
