"""The two phases of training: the head alone on cached features, then all weights on fresh views.

Shapes: N images, B images of a batch, M rows that can be drawn, C classes, D teacher dimensions, F student features.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipstill.core.seeds import generator_for
from clipstill.distillation import parallel
from clipstill.distillation.feature_cache import FeatureCache, Pass
from clipstill.distillation.losses import distillation_loss
from clipstill.distillation.optimisation import Loss, Weights
from clipstill.distillation.randomness import SampleOrder
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import Draw, LabelCache, SoftLabels
from clipstill.distillation.training_data import Batch, TrainingData
from clipstill.distillation.views import plain_view, to_unit, views_of

if TYPE_CHECKING:
    from clipstill.students.student import Student

HEAD, ALL = "head", "all"


class Learner(nn.Module):
    """A student, which takes views in [0, 1], or a head, which takes features; and maybe a projector.

    The projector maps features to the teacher's space, where they are matched.
    """

    def __init__(self, trained: nn.Module, projector: nn.Linear | None, takes_views: bool) -> None:
        super().__init__()
        self.trained, self.projector, self._takes_views = trained, projector, takes_views

    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        """Views (N, 3, S, S) or features (N, F) -> logits (N, C), and (N, D) or None."""
        feat_NF, head = inputs, self.trained
        if self._takes_views:
            student = cast("Student", self.trained)
            feat_NF, head = student.features(inputs), student.head
        return head(feat_NF), None if self.projector is None else self.projector(feat_NF)

    def shown(self, student: Student) -> tuple[Student, nn.Module]:
        """A student for its features, and the head to answer by."""
        if self._takes_views:
            student = cast("Student", self.trained)
            return student, student.head
        return student, self.trained


@dataclass(frozen=True)
class Setup:
    """What both phases share; ``held_out`` chooses the best weights and may be empty."""

    student: Student
    labels: SoftLabels
    train: TrainingData
    held_out: TrainingData
    settings: DistilSettings
    folder: Path
    seed: int

    @property
    def device(self) -> torch.device:
        """Device of the training."""
        return self.student.mean.device

    def cache(self, data: TrainingData) -> FeatureCache:
        """Features of some of the images."""
        return FeatureCache(
            self.student, self.labels, data.pixels_N3HW, settings=self.settings, folder=self.folder, seed=self.seed
        )


class Phase(ABC):
    """One stretch of training.

    Attributes:
        name: ``HEAD`` or ``ALL``.
        title: Name of the progress bar.
        learner: Module that is trained and averaged.
        style_M: Style of each row that can be drawn.
    """

    name: str
    title: str

    def __init__(self, setup: Setup, trained: nn.Module, style_M: Tensor) -> None:
        self.setup, self.settings, self.device, self.style_M = setup, setup.settings, setup.device, style_M
        projector = None
        if self.settings.feature_weight > 0:
            features, dimensions = setup.student.head.in_features, setup.labels.class_vectors_CD.shape[1]
            projector = _new_projector(features, dimensions, setup.seed)
        self.learner = Learner(trained, projector, trained is setup.student).to(self.device)
        self._order = SampleOrder(len(style_M), self.settings.batch, setup.seed, self.name)

    def rows(self, step: int) -> tuple[Tensor, Draw]:
        """Rows of a step, and the name of the draw of their views."""
        return self._order.indices(step), (step,)

    @abstractmethod
    def batch(self, rows: Tensor, draw: Draw, own: slice) -> Batch:
        """This process's share of some rows. Views are drawn for all rows, so that they do not depend on the share."""

    @abstractmethod
    def held_out(self) -> Iterator[Batch]:
        """The held-out images, in batches."""

    def losses(self, rows: Tensor, draw: Draw) -> list[Loss]:
        """The loss of this process's share of some rows, in the parts that go through memory one after the other."""
        rank, processes = parallel.share()
        own = self.batch(rows, draw, slice(rank, None, processes))
        parts = min(self.settings.accumulate, len(own.inputs))
        return [partial(self._loss, own.part(slice(part, None, parts)), len(rows)) for part in range(parts)]

    def _loss(self, batch: Batch, count: int, weights: Weights) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits_BC, feat_BD = functional_call(self.learner, weights, (batch.inputs,))
        feat_BD = None if feat_BD is None else feat_BD.float()
        return distillation_loss(logits_BC.float(), feat_BD, batch, self.settings).sum() / count


class HeadPhase(Phase):
    """Trains the head on cached features of a frozen backbone; the backbone's work is done before the first step."""

    name, title = HEAD, "student's head"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.student.head, setup.train.style_id_N.repeat(setup.settings.views))
        setup.student.freeze_backbone(True)
        self._whole = self._cached(setup.cache(setup.train).augmented(self.settings.views), setup.train.class_id_N)

    def batch(self, rows: Tensor, draw: Draw, own: slice) -> Batch:
        """Some of the cached views."""
        return self._whole.part(rows[own].to(self.device))

    def held_out(self) -> Iterator[Batch]:
        """The cached held-out images, in one batch."""
        held_out = self.setup.held_out
        if len(held_out):
            yield self._cached([self.setup.cache(held_out).plain()], torch.full((len(held_out),), -1))

    def _cached(self, passes: list[Pass], class_N: Tensor) -> Batch:
        """All passes, one after another."""
        teacher_MD = torch.cat([one.teacher_ND for one in passes]).to(self.device)
        mixed_M = torch.cat([one.mixed_N for one in passes])
        return Batch(
            inputs=torch.cat([one.student_NF for one in passes]).to(self.device),
            teacher_BD=teacher_MD,
            teacher_BC=self.setup.labels.logits(teacher_MD),
            class_B=class_N.repeat(len(passes)).masked_fill(mixed_M, -1).to(self.device),
        )


class AllPhase(Phase):
    """Trains all weights on views that are drawn for each step."""

    name, title = ALL, "student"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.student, setup.train.style_id_N)
        settings, student = self.settings, setup.student
        student.freeze_backbone(False)
        student.freeze_statistics(settings.freeze == "bn")
        self._views = views_of(settings, student.preprocess.size)
        self._known: LabelCache | None = None
        # The groups of meta distillation never come again.
        if settings.labels == "cached" and settings.meta == "none":
            key_parts = [setup.cache(setup.train).key, settings.batch, *parallel.share()]
            self._known = LabelCache(setup.folder, key_parts, len(setup.train), settings=settings, seed=setup.seed)
        # The cached features are those of the weights before training; only the teacher's part is used.
        held_out = setup.held_out
        teacher_ND = setup.cache(held_out).plain().teacher_ND if len(held_out) else torch.zeros(0, 0)
        self._held_out_teacher_ND = teacher_ND.to(self.device)

    def rows(self, step: int) -> tuple[Tensor, Draw]:
        """Rows of a step, and the name of the draw of their views, which come again if labels are cached."""
        return super().rows(step) if self._known is None else self._known.rows(step)

    @torch.no_grad()
    def batch(self, rows: Tensor, draw: Draw, own: slice) -> Batch:
        """New views, and the teacher's answers to them."""
        x_B3HW = to_unit(self.setup.train.pixels_N3HW[rows], self.device)
        view_B3SS, mixed_B = self._views(x_B3HW, self.setup.seed, ALL, *draw)
        rows, mixed_B, view_B3SS = rows[own], mixed_B[own], _laid_out(view_B3SS[own])
        ask = partial(self.setup.labels.vectors, view_B3SS)
        teacher_BD = ask() if self._known is None else self._known.answer(draw, ask)
        class_B = self.setup.train.class_id_N[rows].to(self.device).masked_fill(mixed_B, -1)
        return Batch(view_B3SS, teacher_BD, self.setup.labels.logits(teacher_BD), class_B)

    def held_out(self) -> Iterator[Batch]:
        """The held-out images as they are, only resized."""
        if len(self.setup.held_out) == 0:
            return
        parts = (self.setup.held_out.pixels_N3HW, self._held_out_teacher_ND)
        for pixels_B3HW, teacher_BD in zip(*(torch.split(part, self.settings.batch) for part in parts), strict=True):
            x_B3HW = plain_view(to_unit(pixels_B3HW, self.device), self.setup.student.preprocess.size)
            class_B = torch.full((len(x_B3HW),), -1, device=self.device)
            yield Batch(_laid_out(x_B3HW), teacher_BD, self.setup.labels.logits(teacher_BD), class_B)


def _laid_out(x_N3HW: Tensor) -> Tensor:
    return x_N3HW.contiguous(memory_format=torch.channels_last)


def _new_projector(features: int, dimensions: int, seed: int) -> nn.Linear:
    """F -> D, drawn from its own seed."""
    projector = nn.Linear(features, dimensions, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        projector.weight.normal_(0.0, features**-0.5, generator=generator_for(seed, "projector"))
        projector.bias.zero_()
    return projector
