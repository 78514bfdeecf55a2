"""Teach a student the teacher's soft labels.

Two phases, each optional: the head alone on cached features of a frozen backbone, then all weights on fresh views.
Teacher and student see the same view, and each normalises by itself. The kept weights are those that agree most with
the teacher on styles that were not trained on, or the last where there are few pictures of those. The state is saved
every ``checkpoint_every`` steps; a killed run resumes there and, on the CPU, ends with the same bits.

Shapes: N images, C classes.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from clipstill.core.device import precision_on
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress, say
from clipstill.core.tensors import tensor_digest
from clipstill.distillation import parallel
from clipstill.distillation.checkpoint import Saved, load_state, save_state, with_prefix
from clipstill.distillation.losses import agreement, kd_loss
from clipstill.distillation.meta import MetaDistillation
from clipstill.distillation.optimisation import (
    FindGradient,
    Gradient,
    MovingAverage,
    Optimiser,
    learned_state,
    plain_gradient,
)
from clipstill.distillation.phases import ALL, HEAD, AllPhase, HeadPhase, Phase
from clipstill.distillation.randomness import borrowed_generator
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.training_data import Setup, TrainingData, held_out_mask

if TYPE_CHECKING:
    from clipstill.students.student import Student

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "student.safetensors"
# Called with the step, a student for its features, and the head for its logits. The head is not the student's own while
# the head alone is trained.
Watch = Callable[[int, "Student", nn.Module], None]
# Of six pictures, chance alone can put the weights before the first step ahead.
LEAST_TO_CHOOSE = 20
# Of an entry of the history, what is shown beside the loss.
_SHOWN = ("agreement", "held_out_loss")
# If minutes are given, the time of this many steps decides how many there will be.
_TIMED_STEPS = 10
# Steps between two readings of the loss from a device: the queue of a GPU does not run dry, and a CPU has none.
READ_EVERY = {"cpu": 1, "cuda": 16, "mps": 16}


@dataclass(frozen=True)
class DistilResult:
    """Result of a training.

    Attributes:
        history: One entry per validation: phase, step, loss (mean since the entry before; None at step 0), lr (share of
            the peak), agreement and held_out_loss (None if nothing was held out), alignment (mean cosine between the
            gradients of different styles; None without meta distillation).
        best_phase: ``"head"`` or ``"all"``.
        best_step: Step of that phase whose weights were kept.
        best_agreement: Agreement with the teacher on held-out images, in [0, 1]; None if nothing was held out.
        train_count: Number of images trained on.
        held_out_count: Number of images held out.
        resumed_step: Step that this call resumed from; 0 if it started anew.
    """

    history: list[dict[str, Any]]
    best_phase: str
    best_step: int
    best_agreement: float | None
    train_count: int
    held_out_count: int
    resumed_step: int


def distil(
    student: Student,
    labels: SoftLabels,
    data: TrainingData,
    *,
    settings: DistilSettings,
    folder: Path,
    seed: int = 0,
    watch: Watch | None = None,
) -> DistilResult:
    """Train ``student`` in place, on its device; it ends with its best weights, in evaluation mode.

    Args:
        student: Student as built. If an equal call left a state in ``folder``, training resumes from it.
        labels: Answers of a teacher on the student's device. Without a teacher, only the images' classes are taught
            (``loss="ce"``).
        data: Images to train on. Their classes are not taught unless ``settings.loss`` asks for it.
        settings: Settings of the training.
        folder: Folder for ``checkpoint.safetensors``, ``student.safetensors``, ``features/`` and ``labels/``.
        seed: Seed of everything that is drawn.
        watch: Called with the weights of every validation; changes nothing.

    Raises:
        DataError: Fewer than two images are left to train on.
        ConfigError: A setting does not suit this student or teacher, or the loss stopped being a number.
        ArtifactError: The stored state is damaged.
        ResourceError: The disk is full.

    Example:
        >>> labels, data = SoftLabels(teacher, class_vectors), TrainingData(pixels, class_id, style_id)
        >>> distil(student, labels, data, settings=DistilSettings(), folder=Path("student")).best_agreement
        0.94
    """
    began = time.monotonic()
    _check(settings, labels, data)
    held_N = held_out_mask(data.class_id_N, data.style_id_N, settings.held_out_styles, seed)
    device = student.mean.device
    settings = settings.changed(precision=precision_on(device, settings.precision))
    train, held_out = data.where(~held_N).on(device), data.where(held_N).on(device)
    if len(train) < 2:
        raise DataError(f"{len(train)} pictures are left to train on. Make more images a class.")
    if settings.epochs:
        settings = settings.changed(steps=settings.epochs * math.ceil(len(train) / settings.batch))
    if settings.keep != "last" and 0 < len(held_out) < LEAST_TO_CHOOSE:
        few = f"{len(held_out)} held-out images are too few to choose weights by"
        say(f"student: {few}, so the last are kept; {LEAST_TO_CHOOSE} would do")
        settings = settings.changed(keep="last")
    student.to(memory_format=torch.channels_last)  # Faster for convolutions on most processors.
    setup = Setup(student, labels, train, held_out, settings=settings, folder=folder, seed=seed)
    trainer = _Trainer(setup, began, _key(setup, data), watch)
    trainer.run()
    data.stop_reading()
    return DistilResult(
        history=trainer.history,
        best_phase=trainer.best["phase"],
        best_step=trainer.best["step"],
        best_agreement=trainer.best["agreement"],
        train_count=len(train),
        held_out_count=len(held_out),
        resumed_step=trainer.resumed_step,
    )


def _check(settings: DistilSettings, labels: SoftLabels, data: TrainingData) -> None:
    processes = parallel.share()[1]
    if settings.batch < 2 * processes:
        raise ConfigError(
            f"distillation.batch is {settings.batch}, which leaves {processes} processes less than two pictures each. "
            f"Set it to {2 * processes} or more."
        )
    needs_teacher = settings.held_out_styles > 0 or settings.loss != "ce" or bool((data.class_id_N < 0).any())
    if labels.teacher is None and needs_teacher:
        raise ConfigError(
            "without a teacher there are only the classes to learn from: set distillation.loss to 'ce' and "
            "held_out_styles to 0, and give each picture a class."
        )


def _key(setup: Setup, data: TrainingData) -> str:
    """Hash of everything that the weights depend on."""
    return sha256_json(
        {
            "format": 6,
            "settings": [setup.settings.identity(), setup.seed],
            "data": data.digest,
            "student": tensor_digest(setup.student.state_dict()),
            "teacher": setup.labels.key,
            "class_vectors": tensor_digest({"vectors": setup.labels.class_vectors_CD}),
            "device": setup.student.mean.device.type,
        }
    )


class _Trainer:
    """Trains the phases of one call of ``distil``, from the start or from a stored state."""

    def __init__(self, setup: Setup, began: float, key: str, watch: Watch | None) -> None:
        self.setup, self.settings, self.key, self.watch = setup, setup.settings, key, watch
        self.began, self.resumed_step = began, 0
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"phase": "", "step": 0, "agreement": None, "held_out_loss": None}

    def run(self) -> None:
        parallel.wait()
        saved = load_state(self.setup.folder / CHECKPOINT, self.key)
        if saved is not None:
            self.history, self.best = saved.facts["history"], saved.facts["best"]
            self.resumed_step = saved.facts["step"]
        is_all, head_steps = self.settings.freeze != "backbone", self.settings.head_steps
        if is_all and head_steps > 0 and (saved is None or saved.facts["phase"] == HEAD):
            self._train(HeadPhase(self.setup), saved, head_steps, minutes=0)
            saved = None
        last = AllPhase(self.setup) if is_all else HeadPhase(self.setup)
        self._train(last, saved, self.settings.steps, self.settings.minutes)
        student = self.setup.student
        student.freeze_backbone(False)
        student.freeze_statistics(False)
        student.eval()
        if parallel.share()[0] == 0:
            save_state(self.setup.folder / WEIGHTS, student.state_dict(), {"key": self.key})
        parallel.wait()

    def _train(self, phase: Phase, saved: Saved | None, steps: int, minutes: float) -> None:
        """Train one phase for ``steps`` steps, or until ``minutes`` have passed unless that is 0."""
        self.phase, self.step, self.timed = phase, 0, minutes == 0
        self.optimiser = Optimiser(phase.learner, phase.settings, steps)
        self.average = MovingAverage(phase.learner, self.settings.ema)
        self.best_weights = {name: value.clone() for name, value in learned_state(phase.learner).items()}
        find_gradient: FindGradient = partial(plain_gradient, phase)
        if self.settings.meta != "none":
            find_gradient = MetaDistillation(phase, self.settings)
        if saved is not None:
            self._restore(saved)
        elif phase.name == ALL or self.setup.student.first is not None:
            # The initial weights are a candidate too: training must beat what was known, tuning the head alone.
            self._validate([])
        first, began = self.step, time.monotonic()
        gradients: list[Gradient] = []
        read_every = READ_EVERY.get(phase.device.type, 1)
        with Progress(phase.title, total=self.optimiser.steps, unit="step", done=first) as bar:
            while self.step < self.optimiser.steps:
                gradients.append(self._take_step(find_gradient))
                is_timed = not self.timed and self.step == first + _TIMED_STEPS
                is_read = is_timed or self._is_last or self.step % read_every == 0
                facts = {"loss": self._last_loss(gradients[-read_every:])} if is_read else {}
                if is_timed:
                    self.timed = True
                    seconds_per_step = (time.monotonic() - began) / _TIMED_STEPS
                    left = minutes * 60 - (time.monotonic() - self.began)
                    more = max(_TIMED_STEPS, int(left / seconds_per_step))
                    # All processes take as many steps as the slowest one can.
                    bar.total = self.optimiser.steps = parallel.least(self.step + more)
                if self._is_last:
                    parallel.average_statistics(phase.learner)
                    self._validate(gradients)
                    self._save()
                    gradients = []
                    facts |= {name: self.history[-1][name] for name in _SHOWN if self.history[-1][name] is not None}
                bar.advance(1, **facts)
        phase.learner.load_state_dict(self.best_weights, strict=False)

    def _take_step(self, find_gradient: FindGradient) -> Gradient:
        self.phase.learner.train()
        # A student's own dropout draws from the global generator.
        seed_parts = (self.setup.seed, "step", self.phase.name, self.step, parallel.share()[0])
        with borrowed_generator(*seed_parts):
            gradient = find_gradient(self.optimiser.named, self.step, self.optimiser.rate(self.step))
        self.optimiser.step(gradient.values, self.step)
        self.average.update(self.phase.learner, self.step)
        self.step += 1
        # Kept until the next validation, so without the values: a hundred steps of them are a hundred students.
        return replace(gradient, values={})

    @property
    def _is_last(self) -> bool:
        """Whether the step was the last one before a validation."""
        return self.step % self.settings.checkpoint_every == 0 or self.step == self.optimiser.steps

    def _last_loss(self, gradients: list[Gradient]) -> float:
        """The loss of the last of some steps, all of which are checked. Only here a processor waits for its GPU."""
        losses = torch.stack([each.loss for each in gradients]).tolist()
        for step, loss in enumerate(losses, self.step - len(losses)):
            if not math.isfinite(loss):
                raise ConfigError(
                    f"the distillation loss is {loss} at step {step} of phase '{self.phase.name}'. Lower "
                    f"distillation.lr or distillation.head_lr."
                )
        return float(losses[-1])

    @torch.no_grad()
    def _validate(self, gradients: list[Gradient]) -> None:
        """Add an entry to the history, and keep the averaged weights if they are the best so far."""
        averaged: Any = self.average.module.eval()
        if self.watch is not None and parallel.share()[0] == 0:
            is_head = self.phase.name == HEAD
            self.watch(self.step, self.setup.student if is_head else averaged, averaged if is_head else averaged.head)
        pairs = [(averaged(inputs), teacher_BC) for inputs, teacher_BC in self.phase.held_out()]
        agreed = held_out_loss = None
        if pairs:
            student_NC, teacher_NC = (torch.cat(part) for part in zip(*pairs, strict=True))
            agreed = agreement(student_NC, teacher_NC)
            held_out_loss = float(kd_loss(student_NC, teacher_NC, self.settings.temperature).mean())
        alignments = [each.alignment for each in gradients if each.alignment is not None]
        entry = {"phase": self.phase.name, "step": self.step, "agreement": agreed, "held_out_loss": held_out_loss}
        self.history.append(
            {
                **entry,
                "loss": fmean(torch.stack([each.loss for each in gradients]).tolist()) if gradients else None,
                "alignment": fmean(alignments) if alignments else None,
                "lr": self.optimiser.rate(self.step),
            }
        )
        if self._is_better(agreed, held_out_loss):
            self.best = entry
            self.best_weights = {name: value.clone() for name, value in self._averaged().items()}

    def _is_better(self, agreed: float | None, held_out_loss: float | None) -> bool:
        known, known_loss = self.best["agreement"], self.best["held_out_loss"]
        if self.settings.keep == "last" or agreed is None or held_out_loss is None or known is None:
            return True
        if self.settings.keep == "loss":
            return bool(held_out_loss < known_loss)
        return bool(agreed > known or (agreed == known and held_out_loss < known_loss))

    def _averaged(self) -> dict[str, torch.Tensor]:
        averaged = self.average.module.state_dict()
        return {name: averaged[name] for name in learned_state(self.phase.learner)}

    def _save(self) -> None:
        if parallel.share()[0] != 0:
            return
        tensors = {
            **with_prefix("module", learned_state(self.phase.learner)),
            **with_prefix("average", self._averaged()),
            **with_prefix("best", self.best_weights),
            **with_prefix("optimiser", self.optimiser.state()),
        }
        facts = {
            "key": self.key,
            "phase": self.phase.name,
            "step": self.step,
            "steps": self.optimiser.steps,
            "timed": self.timed,
            "best": self.best,
            "history": self.history,
        }
        save_state(self.setup.folder / CHECKPOINT, tensors, facts)

    def _restore(self, saved: Saved) -> None:
        self.phase.learner.load_state_dict(saved.group("module"), strict=False)
        self.average.module.load_state_dict(saved.group("average"), strict=False)
        self.optimiser.restore(saved.group("optimiser"))
        self.best_weights = saved.group("best")
        self.step, self.optimiser.steps = saved.facts["step"], saved.facts["steps"]
        self.timed = self.timed or saved.facts["timed"]
