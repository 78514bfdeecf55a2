"""Trains the alignment of one image tower: its learned head, by contrast on drawings and on pseudo features.

Drawings and emoji teach styles and what ImageNet lacks. The photos of ImageNet are not at hand, but its classifier is:
features of drawings, moved until the classifier sees a class in them, stand for that class's photos and keep the
breadth of 1,000 classes.

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

# A channel is turned up by at most this, and down as much.
_MOST_GAIN = 5.0
# The first dimensions of an alignment's vectors are the two heads without learned weights.
_FIXED = DIM + FEATURES
_CHUNK = 4000


@dataclass(frozen=True)
class AlignmentSettings:
    """How the learned head is trained. Chosen on the development halves of two sets of photos, never on their tests.

    Attributes:
        steps: optimiser steps.
        batch: drawings, and pseudo features, a step.
        dim: dimensions of the learned head.
        hidden: width of its image side.
        lr: peak learning rate.
        text_lr_share: of it, for the text side: MiniLM's space is good already.
        weight_decay: of the image side.
        dropout: of the image side.
        warmup: steps to the peak.
        temperature: of the softmax at the start; learned.
        pseudo: pseudo features in the pool.
        margin: largest lead of a pseudo feature's class over the next, in logits.
        names: share of drawings that are met by their name; the others by their whole caption.
        above: share of pseudo features that are met by a noun above their class, where there is a telling one.
        widest_noun: most classes below a telling noun.
        ema: decay of the averaged weights, which are the result.
        seed: of everything drawn.
    """

    steps: int = 450
    batch: int = 512
    dim: int = 384
    hidden: int = 768
    lr: float = 1e-3
    text_lr_share: float = 0.3
    weight_decay: float = 0.05
    dropout: float = 0.5
    warmup: int = 50
    temperature: float = 0.05
    pseudo: int = 20_000
    margin: float = 8.0
    names: float = 0.6
    above: float = 0.3
    widest_noun: int = 80
    ema: float = 0.99
    seed: int = 0


class Choices:
    """Lists of numbers, one a row, of which one is drawn at a time.

    Args:
        rows: the lists; some may be empty.
    """

    def __init__(self, rows: Sequence[Sequence[int]]) -> None:
        self.lengths = torch.tensor([len(row) for row in rows])
        self._starts = self.lengths.cumsum(0) - self.lengths
        self._flat = torch.tensor([number for row in rows for number in row] or [0])

    def draw(self, rows_N: Tensor, generator: torch.Generator) -> Tensor:
        """One number of each row named (N,); arbitrary for empty rows."""
        share = torch.rand(len(rows_N), generator=generator)
        picked = self._starts[rows_N] + (share * self.lengths[rows_N]).long()
        return self._flat[picked.clamp_max(len(self._flat) - 1)]


@dataclass(frozen=True)
class Lessons:
    """Which texts belong to what.

    Attributes:
        text_ME: MiniLM vectors of all texts.
        name_N: text of each drawing's name.
        caption_N: text of each drawing's caption.
        class_names: texts of each ImageNet class.
        class_above: texts of the telling nouns above each ImageNet class; may be none.
    """

    text_ME: Tensor
    name_N: Tensor
    caption_N: Tensor
    class_names: Choices
    class_above: Choices


def train_alignment(
    words: Words,
    classifier: Classifier,
    natural_mean_F: Tensor,
    feat_NF: Tensor,
    lessons: Lessons,
    settings: AlignmentSettings,
    title: str,
) -> Alignment:
    """Train one tower's alignment.

    Args:
        words: shared by the towers.
        classifier: of the tower.
        natural_mean_F: mean features of photos, as the tower's last BatchNorm predicts them.
        feat_NF: features of the shown drawings; row i shows drawing ``i % len(lessons.name_N)``.
        lessons: what they are called.
        settings: how.
        title: of the progress display.

    Returns:
        The alignment in evaluation mode, with averaged weights.
    """
    generator = generator_for(settings.seed, "alignment", title)
    with borrowed_generator(settings.seed, "alignment", title):
        feat_NF = torch.cat([feat_NF, equalised(feat_NF, natural_mean_F, generator)])
        alignment = _start(words, classifier, feat_NF, settings)
        pseudo_NF, pseudo_class_N = pseudo_features(feat_NF, classifier, settings.pseudo, settings.margin, generator)
        trainer = _Trainer(alignment, words, lessons, settings)
        drawings = trainer.images(feat_NF, classifier)
        pseudo = trainer.images(pseudo_NF, classifier)
        drawing_N = torch.arange(len(feat_NF)) % len(lessons.name_N)
        with Progress(title, total=settings.steps, unit="step") as bar:
            for step in range(settings.steps):
                rows = torch.randint(len(feat_NF), (settings.batch,), generator=generator)
                names = lessons.name_N[drawing_N[rows]]
                by_name = torch.rand(settings.batch, generator=generator) < settings.names
                texts = torch.where(by_name, names, lessons.caption_N[drawing_N[rows]])
                loss = contrastive_loss(trainer.logits(drawings, rows, texts), names)

                rows = torch.randint(len(pseudo_NF), (settings.batch,), generator=generator)
                classes = pseudo_class_N[rows]
                above = torch.rand(settings.batch, generator=generator) < settings.above
                above &= lessons.class_above.lengths[classes] > 0
                texts = torch.where(
                    above,
                    lessons.class_above.draw(classes, generator),
                    lessons.class_names.draw(classes, generator),
                )
                loss = loss + contrastive_loss(trainer.logits(pseudo, rows, texts), texts)
                trainer.update(loss, step)
                bar.advance(1, loss=loss.item())
    return trainer.finish()


def contrastive_loss(logits_NN: Tensor, ids_N: Tensor) -> Tensor:
    """Symmetric cross-entropy of images against texts; those that mean the same share the target evenly.

    Args:
        logits_NN: image i against text j, already scaled.
        ids_N: equal numbers for equal meanings.

    Returns:
        A scalar, mean over images and texts; ``log(N)`` where all logits are equal.

    Source: Radford et al., 2021, with the shared targets of Khosla et al., 2020.
    """
    same_NN = (ids_N[:, None] == ids_N[None]).float()
    target_NN = same_NN / same_NN.sum(1, keepdim=True)
    by_image = -(target_NN * logits_NN.log_softmax(1)).sum(1).mean()
    by_text = -(target_NN * logits_NN.T.log_softmax(1)).sum(1).mean()
    return (by_image + by_text) / 2


def pseudo_features(
    feat_NF: Tensor, classifier: Classifier, count: int, margin: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Features moved until the classifier sees a random class in them.

    Each starts at a real feature and moves along ``Sigma w_c``: of all directions that raise the class's logit equally,
    the one that is shortest in the metric of the real features' covariance Sigma, hence the least strange. Three
    rounds, each against the strongest other class; features stay at or above 0, as the network's last activation has
    it.

    Args:
        feat_NF: real features.
        classifier: of the tower.
        count: how many to make.
        margin: the class leads by a lead drawn from [0, margin], in logits, before the clamp at 0.
        generator: of everything drawn.

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
    """Features with each channel turned up or down, in part or wholly, to where photos are predicted to have it.

    Drawings fire some channels much more than others (flat colours, hard edges, white ground), and a head that leans on
    these loses them on photos. The prediction is close to one level for all channels, so this mostly evens them out.

    Args:
        feat_NF: features of drawings, at or above 0.
        natural_mean_F: where to.
        generator: of how far each drawing goes, from not at all to the whole way.
    """
    gain_F = (natural_mean_F / feat_NF.mean(0).clamp_min(1e-2)).clamp(1 / _MOST_GAIN, _MOST_GAIN)
    way_N1 = torch.rand(len(feat_NF), 1, generator=generator)
    return feat_NF * (1 + way_N1 * (gain_F - 1))


def _start(words: Words, classifier: Classifier, feat_NF: Tensor, settings: AlignmentSettings) -> Alignment:
    """An alignment whose learned head agrees with the words before the first step."""
    alignment = Alignment(words, classifier.weight_KF, settings.dim, settings.hidden, settings.dropout)
    with torch.no_grad():
        alignment.feature_mean_F.copy_(feat_NF.mean(0))
        # Features that never fire must not divide by nothing.
        alignment.feature_std_F.copy_(feat_NF.std(0) + 1e-3)
        nn.init.orthogonal_(alignment.from_text.weight)
        alignment.from_names.weight.copy_(alignment.from_text.weight)
        alignment.from_features.weight.mul_(0.1)
        alignment.from_hidden.weight.mul_(0.3)
    return alignment


@dataclass(frozen=True)
class _Images:
    """Images as the trainer needs them: features, and what the heads without learned weights make of them."""

    feat_NF: Tensor
    fixed_NX: Tensor


class _Trainer:
    """The alignment, its optimiser and the running average of its weights."""

    def __init__(self, alignment: Alignment, words: Words, lessons: Lessons, settings: AlignmentSettings) -> None:
        self.alignment = alignment
        self.settings = settings
        with torch.no_grad():
            self._centred_ME = words.centre(lessons.text_ME)
            parts = [alignment.encode_text(text_ME)[:, :_FIXED] for text_ME in torch.split(lessons.text_ME, _CHUNK)]
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
        """Features, with what of their vectors does not change in training."""
        parts = [
            self.alignment.encode_image(chunk, classifier(chunk))[:, :_FIXED] for chunk in torch.split(feat_NF, _CHUNK)
        ]
        return _Images(feat_NF, torch.cat(parts))

    def logits(self, images: _Images, rows: Tensor, texts: Tensor) -> Tensor:
        """Scaled cosines of some images and some texts: those of ``Alignment``, with the constant part looked up."""
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
