"""The two phases of training: the head alone on cached features, then all weights on fresh views.

Shapes: N images, B images of a batch, M rows to draw from, C classes, D teacher dimensions, F student features.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipstill.core.compiled import Compiled
from clipstill.distillation import parallel
from clipstill.distillation.feature_cache import FeatureCache
from clipstill.distillation.losses import distillation_loss
from clipstill.distillation.optimisation import Loss, Weights
from clipstill.distillation.randomness import batch_rows
from clipstill.distillation.soft_labels import Draw, LabelCache
from clipstill.distillation.training_data import Batch, Rows, Setup
from clipstill.distillation.views import views_of

HEAD, ALL = "head", "all"
# Learning rate of a head that begins with what is known, as a share of others': Adam takes steps as large where there
# is little to learn.
_FINE = 0.1

Result = TypeVar("Result")


class Phase(ABC):
    """What is trained, and on which batches.

    Attributes:
        name: ``HEAD`` or ``ALL``.
        title: Name of the progress bar.
        learner: Module that is trained and averaged: the student, which takes views in [0, 1], or its head, which takes
            features.
        style_M: Style of each row that can be drawn.
    """

    name: str
    title: str

    def __init__(self, setup: Setup, learner: nn.Module, style_M: Tensor) -> None:
        self.setup, self.settings, self.learner, self.style_M = setup, setup.settings, learner, style_M
        self.device = setup.student.mean.device
        self._forward: Callable[[Weights, Tensor], Tensor] = self._logits

    def work(self, work: Callable[[], Result]) -> Result:
        """Do work that calls ``loss`` of this phase."""
        return work()

    def rows(self, step: int) -> tuple[Tensor, Draw]:
        """Rows of a step, and the seed of their views."""
        return batch_rows(step, len(self.style_M), self.settings.batch, (self.setup.seed, self.name)), (step,)

    @abstractmethod
    def batch(self, rows: Tensor, draw: Draw, own: slice) -> Batch:
        """This process's share of some rows. Views are drawn for all rows, so they do not depend on the share."""

    @abstractmethod
    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Inputs and the teacher's logits of the held-out images as they are, only resized, in batches."""

    def loss(self, rows: Tensor, draw: Draw) -> Loss:
        """This process's share of the mean loss over some rows."""
        rank, processes = parallel.share()
        return partial(self._loss, self.batch(rows, draw, slice(rank, None, processes)), len(rows))

    def _loss(self, batch: Batch, count: int, weights: Weights) -> Tensor:
        return distillation_loss(self._forward(weights, batch.inputs), batch, self.settings).sum() / count

    def _logits(self, weights: Weights, inputs: Tensor) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16"):
            logits_BC: Tensor = functional_call(self.learner, weights, (inputs,))
        return logits_BC.float()


class HeadPhase(Phase):
    """Trains the head on cached features; the frozen backbone computes them before the first step."""

    name, title = HEAD, "student's head"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.student.head, setup.train.style_id_N.repeat(setup.settings.views))
        if setup.student.first is not None:
            self.settings = self.settings.changed(head_lr=_FINE * self.settings.head_lr)
        setup.student.freeze_backbone(True)
        passes = FeatureCache(setup, setup.train).augmented(self.settings.views)
        teacher_MD = torch.cat([one.teacher_ND for one in passes]).to(self.device)
        self._whole = Batch(
            inputs=torch.cat([one.student_NF for one in passes]).to(self.device),
            teacher_BC=setup.labels.logits(teacher_MD),
            class_B=setup.train.class_id_N.repeat(len(passes)).to(self.device),
        )
        self._std_F = self._whole.inputs.std(0)

    def _loss(self, batch: Batch, count: int, weights: Weights) -> Tensor:
        """As for every phase, with the squared change of the logits from the start, as of independent features."""
        loss, first = super()._loss(batch, count, weights), self.setup.student.first
        if first is None:
            return loss
        change = ((weights["weight"] - first.weight.to(self.device)) * self._std_F).square().sum()
        return loss + first.worth * self.settings.pull / len(self.setup.train) * change / parallel.share()[1]

    def batch(self, rows: Tensor, draw: Draw, own: slice) -> Batch:
        """This process's share of some cached views."""
        rows, whole = rows[own].to(self.device), self._whole
        return Batch(whole.inputs[rows], whole.teacher_BC[rows], whole.class_B[rows])

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The cached features of the held-out images and the teacher's logits, in one batch."""
        if len(self.setup.held_out):
            feat_NF, teacher_ND = FeatureCache(self.setup, self.setup.held_out).plain()
            yield feat_NF.to(self.device), self.setup.labels.logits(teacher_ND.to(self.device))


class AllPhase(Phase):
    """Trains all weights on views that are drawn for each step."""

    name, title = ALL, "student"

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup, setup.student, setup.train.style_id_N)
        settings, student = self.settings, setup.student
        student.freeze_backbone(False)
        student.freeze_statistics(settings.freeze == "bn")
        self._views = views_of(settings, student.preprocess.side)
        # The inner steps of meta distillation change BatchNorm, and its gradients have gradients.
        self._student = Compiled("student", self._logits, self.device, wanted=settings.meta == "none")
        self._teacher = Compiled("teacher", setup.labels.vectors, self.device)
        self._known: LabelCache | None = None
        self._next: int | None = None  # Step whose rows come next; meta distillation draws rows of its own.
        # Meta distillation never draws the same group again.
        if settings.labels == "cached" and settings.meta == "none":
            self._known = LabelCache(setup)
        if len(setup.held_out):
            # The cached student features are those from before training.
            _, teacher_ND = FeatureCache(setup, setup.held_out).plain()
            self._held_out_teacher_ND = teacher_ND.to(self.device)

    def work(self, work: Callable[[], Result]) -> Result:
        """Do work that calls ``loss`` of this phase, with the student compiled where that pays."""

        def with_forward(forward: Callable[[Weights, Tensor], Tensor]) -> Result:
            self._forward = forward
            return work()

        return self._student.run(with_forward)

    def rows(self, step: int) -> tuple[Tensor, Draw]:
        """Rows of a step, and the seed of their views, which repeats if labels are cached."""
        self._next = step + 1
        return self._rows(step)

    def _rows(self, step: int) -> tuple[Tensor, Draw]:
        return super().rows(step) if self._known is None else self._known.rows(step)

    def _seeded(self, rows: Tensor, draw: Draw) -> Rows:
        return rows, (self.setup.seed, ALL, *draw)

    @torch.no_grad()
    def batch(self, rows: Tensor, draw: Draw, own: slice) -> Batch:
        """New views, and the teacher's answers to them."""
        steps = () if self._next is None else itertools.count(self._next)
        ahead = (self._seeded(*self._rows(step)) for step in steps)
        view_B3SS = self.setup.train.views(self._seeded(rows, draw), self._views, self.device, own=own, ahead=ahead)
        view_B3SS = view_B3SS.contiguous(memory_format=torch.channels_last)
        ask = partial(self._teacher.run, lambda vectors: vectors(view_B3SS))
        teacher_BD = ask() if self._known is None else self._known.answer(draw, ask)
        class_B = self.setup.train.class_id_N[rows[own]].to(self.device)
        return Batch(view_B3SS, self.setup.labels.logits(teacher_BD), class_B)

    def held_out(self) -> Iterator[tuple[Tensor, Tensor]]:
        """The held-out images and the teacher's logits, in batches."""
        if len(self.setup.held_out) == 0:
            return
        size, at_once = self.setup.student.preprocess.side, self.settings.batch
        images = self.setup.held_out.in_order(at_once, size, self.device)
        for x_B3HW, teacher_BD in zip(images, torch.split(self._held_out_teacher_ND, at_once), strict=True):
            yield x_B3HW.contiguous(memory_format=torch.channels_last), self.setup.labels.logits(teacher_BD)
