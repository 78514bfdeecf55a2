"""Teach a student the teacher's soft labels.

Two phases, each optional: the head alone on cached features of a frozen backbone, then all weights on views made on the
way. Teacher and student see the same view, and each normalises by itself. The best weights are chosen by the student's
agreement with the teacher on styles that were not trained on. Every ``checkpoint_every`` steps the whole state is
written; a run that was killed goes on from there and, on the CPU, ends with the same bits.

Shapes: N pictures, C classes, D teacher dimensions, F student features, B images of a batch.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.distillation.checkpoint import Saved, load_state, save_state, tensor_digest, with_prefix
from clipstill.distillation.feature_cache import FeatureCache, Pass
from clipstill.distillation.holdout import held_out_mask
from clipstill.distillation.losses import agreement, kd_loss
from clipstill.distillation.optimisation import MovingAverage, Optimiser, rate
from clipstill.distillation.randomness import SampleOrder, borrowed_generator
from clipstill.distillation.recentre import Recentre, fit_recentre
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.views import Views, plain_view, to_unit

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher
    from clipstill.students.student import Student

__all__ = ["CHECKPOINT", "WEIGHTS", "DistilResult", "DistilSettings", "distil"]

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "student.safetensors"
HEAD, ALL = "head", "all"


@dataclass(frozen=True)
class DistilResult:
    """What came out.

    Attributes:
        history: one entry a validation: phase, step, loss (mean since the entry before; None at step 0), lr (share of
            the peak), agreement and held_out_loss (None where nothing was held out).
        best_phase: ``"head"`` or ``"all"``.
        best_step: step of that phase whose weights were kept.
        best_agreement: with the teacher on held-out pictures, in [0, 1]; None where nothing was held out.
        train_count: pictures trained on.
        held_out_count: pictures held out.
        resumed_step: step of the stored state that this call went on from; 0 where it began anew.
        checkpoint: safetensors of the whole student.
    """

    history: list[dict[str, Any]]
    best_phase: str
    best_step: int
    best_agreement: float | None
    train_count: int
    held_out_count: int
    resumed_step: int
    checkpoint: Path


def distil(
    student: Student,
    teacher: Teacher,
    class_vectors_CD: Tensor,
    images_N3HW: Tensor,
    class_id_N: Tensor,
    style_id_N: Tensor,
    settings: DistilSettings,
    folder: Path,
    device: torch.device | str = "cpu",
) -> DistilResult:
    """Train ``student`` in place; it ends with its best weights, in evaluation mode.

    Args:
        student: as built; a state left in ``folder`` by an equal call is gone on from.
        teacher: on ``device``.
        class_vectors_CD: unit vectors, one a class.
        images_N3HW: uint8 pictures, synthetic or any others.
        class_id_N: class a picture was made for; -1 for pictures of anything. Labels are not trained on: the teacher's
            soft labels are.
        style_id_N: style of each picture; any number where it has none.
        settings: how.
        folder: for ``checkpoint.safetensors``, ``student.safetensors`` and ``features/``.
        device: where to train.

    Raises:
        DataError: the pictures do not have the shape or type, or fewer than two are left to train on.
        ConfigError: a setting that this student cannot follow, or a loss that is no number any more.
        ArtifactError: the stored state is damaged.
        ResourceError: the disk is full.

    Example:
        >>> result = distil(student, teacher, vectors, images, class_id, style_id, DistilSettings(), Path("student"))
        >>> result.best_agreement
        0.94
    """
    _check_pictures(images_N3HW, class_id_N, style_id_N)
    run = _Run(student, teacher, class_vectors_CD, images_N3HW, class_id_N, style_id_N, settings, folder, device)
    return run.finish()


def _check_pictures(images_N3HW: Tensor, class_id_N: Tensor, style_id_N: Tensor) -> None:
    if images_N3HW.dtype != torch.uint8 or images_N3HW.ndim != 4 or images_N3HW.shape[1] != 3:
        raise DataError(
            f"training pictures must be uint8 (N, 3, H, W), not {images_N3HW.dtype} {tuple(images_N3HW.shape)}."
        )
    if not len(images_N3HW) == len(class_id_N) == len(style_id_N):
        raise DataError(
            f"there are {len(images_N3HW)} training pictures, {len(class_id_N)} class ids and {len(style_id_N)} style "
            f"ids. Give one of each a picture."
        )


@dataclass
class _Phase:
    """One stretch of training.

    Attributes:
        name: ``"head"`` or ``"all"``.
        module: what is trained and averaged.
        steps: its length.
        batch_logits: step -> student's and teacher's logits (B, C) of its batch, with gradient to ``module``.
        held_out_logits: a copy of ``module`` -> both logits of the held-out pictures; None where there are none.
    """

    name: str
    module: nn.Module
    steps: int
    batch_logits: Callable[[int], tuple[Tensor, Tensor]]
    held_out_logits: Callable[[nn.Module], tuple[Tensor, Tensor]] | None


class _Run:
    """One call of ``distil``: what does not change, the phases, and the best weights so far."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher,
        class_vectors_CD: Tensor,
        images_N3HW: Tensor,
        class_id_N: Tensor,
        style_id_N: Tensor,
        settings: DistilSettings,
        folder: Path,
        device: torch.device | str,
    ) -> None:
        self.settings = settings
        self.folder = folder
        self.device = torch.device(device)
        self.student = student.to(self.device)
        if settings.channels_last:
            self.student = self.student.to(memory_format=torch.channels_last)
        self.teacher = teacher
        self.class_vectors = class_vectors_CD.to(self.device).float()
        held_N = held_out_mask(class_id_N, style_id_N, settings.held_out_styles, settings.seed)
        self.train_images, self.held_images = images_N3HW[~held_N], images_N3HW[held_N]
        # Pictures with a class and pictures of anything have different statistics, so they are re-centred apart.
        self.train_group = (class_id_N[~held_N] < 0).long()
        if len(self.train_images) < 2:
            raise DataError(f"{len(self.train_images)} pictures are left to train on. Make more images a class.")
        self.key = sha256_json(
            {
                "format": 1,
                "settings": dataclasses.asdict(settings),
                "pictures": tensor_digest({"images": images_N3HW, "class": class_id_N, "style": style_id_N}),
                "student": tensor_digest(student.state_dict()),
                "teacher": [teacher.name, teacher.weights_sha256, float(teacher.logit_scale)],
                "class_vectors": tensor_digest({"vectors": class_vectors_CD}),
                "device": self.device.type,
            }
        )
        self.train_cache = self._cache(self.train_images)
        self.recentre = self._fit_recentre()
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"phase": "", "step": 0, "agreement": None, "held_out_loss": None}

    def finish(self) -> DistilResult:
        """Run the phases that are left and keep the best weights."""
        saved = load_state(self.folder / CHECKPOINT)
        if saved is not None and saved.facts.get("key") != self.key:
            # Of other settings or pictures: of no use here, and the next checkpoint takes its place.
            saved = None
        resumed_step = 0
        if saved is not None:
            self.history, self.best = list(saved.facts["history"]), dict(saved.facts["best"])
            resumed_step = int(saved.facts["step"])
        for name, steps in self._plan():
            if saved is not None and saved.facts["phase"] == ALL and name == HEAD:
                continue
            phase = self._head_phase(steps) if name == HEAD else self._all_phase(steps)
            here = saved if saved is not None and saved.facts["phase"] == name else None
            self._train(phase, here)
        self.student.freeze_backbone(False)
        self.student.freeze_statistics(False)
        self.student.eval()
        save_state(self.folder / WEIGHTS, self.student.state_dict(), {"key": self.key})
        return DistilResult(
            history=self.history,
            best_phase=self.best["phase"],
            best_step=self.best["step"],
            best_agreement=self.best["agreement"],
            train_count=len(self.train_images),
            held_out_count=len(self.held_images),
            resumed_step=resumed_step,
            checkpoint=self.folder / WEIGHTS,
        )

    def _plan(self) -> list[tuple[str, int]]:
        if self.settings.freeze == "backbone":
            return [(HEAD, self.settings.steps)]
        head = [(HEAD, self.settings.head_steps)] if self.settings.head_steps > 0 else []
        return [*head, (ALL, self.settings.steps)]

    def _cache(self, images_N3HW: Tensor) -> FeatureCache:
        return FeatureCache(self.student, self.teacher, images_N3HW, self.settings, self.folder, self.device)

    def _fit_recentre(self) -> Recentre | None:
        if self.settings.feature_recentre == "off":
            return None
        first = self.train_cache.augmented(1)[0]
        fitted = fit_recentre(
            self.student, first.student_NF, self.train_images, self.train_group, self.settings, self.device
        )
        return fitted.to(self.device)

    def _shifted(self, feat_NF: Tensor, group_N: Tensor) -> Tensor:
        return feat_NF if self.recentre is None else self.recentre(feat_NF, group_N)

    def _teacher_logits(self, teacher_ND: Tensor) -> Tensor:
        return float(self.teacher.logit_scale) * teacher_ND @ self.class_vectors.T

    def _head_phase(self, steps: int) -> _Phase:
        """The head on cached features; the backbone's part of the work is done before the first step."""
        self.student.freeze_backbone(True)
        passes = self.train_cache.augmented(self.settings.views)
        group_N = self.train_group.to(self.device)
        feat_MF, logits_MC = self._cached(passes, group_N)
        order = SampleOrder(len(feat_MF), self.settings.batch, self.settings.seed, HEAD)

        def batch_logits(step: int) -> tuple[Tensor, Tensor]:
            chosen_B = order.indices(step).to(self.device)
            return self.student.head(feat_MF[chosen_B]), logits_MC[chosen_B]

        if len(self.held_images) == 0:
            return _Phase(HEAD, self.student.head, steps, batch_logits, None)
        held_group_N = torch.zeros(len(self.held_images), dtype=torch.long, device=self.device)
        held_NF, held_NC = self._cached([self._cache(self.held_images).plain()], held_group_N)
        return _Phase(HEAD, self.student.head, steps, batch_logits, lambda head: (head(held_NF), held_NC))

    def _cached(self, passes: list[Pass], group_N: Tensor) -> tuple[Tensor, Tensor]:
        """Re-centred features and teacher logits of all passes, one after another."""
        feats = [self._shifted(one.student_NF.to(self.device), group_N) for one in passes]
        logits = [self._teacher_logits(one.teacher_ND.to(self.device)) for one in passes]
        return torch.cat(feats), torch.cat(logits)

    def _all_phase(self, steps: int) -> _Phase:
        """All weights, on views that are drawn for each step."""
        self.student.freeze_backbone(False)
        self.student.freeze_statistics(self.settings.freeze == "bn")
        views = Views(
            self.student.preprocess.size, self.settings.crop_min, self.settings.jitter, self.settings.grayscale
        )
        order = SampleOrder(len(self.train_images), self.settings.batch, self.settings.seed, ALL)

        def batch_logits(step: int) -> tuple[Tensor, Tensor]:
            chosen_B = order.indices(step)
            x_B3HW = views(to_unit(self.train_images[chosen_B], self.device), self.settings.seed, ALL, step)
            x_B3HW = self._laid_out(x_B3HW)
            with torch.no_grad():
                teacher_BC = self._teacher_logits(self.teacher.encode_image(x_B3HW))
            feat_BF = self._shifted(self.student.features(x_B3HW), self.train_group[chosen_B].to(self.device))
            return self.student.head(feat_BF), teacher_BC

        return _Phase(ALL, self.student, steps, batch_logits, self._held_out_student())

    def _held_out_student(self) -> Callable[[nn.Module], tuple[Tensor, Tensor]] | None:
        if len(self.held_images) == 0:
            return None
        # The cache's teacher part; its student part is of the weights before training.
        held_NC = self._teacher_logits(self._cache(self.held_images).plain().teacher_ND.to(self.device))

        def held_out_logits(module: nn.Module) -> tuple[Tensor, Tensor]:
            student = cast("Student", module)
            parts = []
            for start in range(0, len(self.held_images), self.settings.batch):
                x_B3HW = to_unit(self.held_images[start : start + self.settings.batch], self.device)
                x_B3HW = self._laid_out(plain_view(x_B3HW, self.student.preprocess.size))
                group_B = torch.zeros(len(x_B3HW), dtype=torch.long, device=self.device)
                parts.append(student.head(self._shifted(student.features(x_B3HW), group_B)))
            return torch.cat(parts), held_NC

        return held_out_logits

    def _laid_out(self, x_N3HW: Tensor) -> Tensor:
        return x_N3HW.contiguous(memory_format=torch.channels_last) if self.settings.channels_last else x_N3HW

    def _train(self, phase: _Phase, saved: Saved | None) -> None:
        """Train one phase from its start or from a stored state; its module ends with the best weights."""
        optimiser = Optimiser(phase.module, self.settings, phase.steps)
        average = MovingAverage(phase.module, self.settings.ema)
        if saved is None:
            start = 0
            best = _copy(phase.module)
            if phase.name == ALL:
                # The weights that come in are a candidate too: tuning must beat the head alone.
                best = self._validated(phase, average.module, best, 0, None)
        else:
            start = int(saved.facts["step"])
            phase.module.load_state_dict(saved.group("module"))
            average.module.load_state_dict(saved.group("average"))
            optimiser.restore(saved.group("optimiser"))
            best = saved.group("best")
        losses: list[float] = []
        title = "student's head" if phase.name == HEAD else "student"
        with Progress(title, total=phase.steps, unit="step", done=start) as bar:
            for step in range(start, phase.steps):
                losses.append(self._step(phase, optimiser, average, step))
                bar.advance(1, loss=losses[-1])
                done = step + 1
                if done % self.settings.checkpoint_every == 0 or done == phase.steps:
                    best = self._validated(phase, average.module, best, done, sum(losses) / len(losses))
                    losses = []
                    self._save(phase, optimiser, average, best, done)
        phase.module.load_state_dict(best)

    def _step(self, phase: _Phase, optimiser: Optimiser, average: MovingAverage, step: int) -> float:
        self.student.train()
        # A student's own dropout draws from the global generator, hence the loan.
        with borrowed_generator(self.settings.seed, "step", phase.name, step):
            student_BC, teacher_BC = phase.batch_logits(step)
            loss = kd_loss(student_BC, teacher_BC, self.settings.temperature).mean()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise ConfigError(
                f"the distillation loss is {value} at step {step} of phase '{phase.name}'. Lower distillation.lr or "
                f"distillation.head_lr."
            )
        optimiser.step(loss, step)
        average.update(phase.module, step)
        return value

    @torch.no_grad()
    def _validated(
        self, phase: _Phase, candidate: nn.Module, best: dict[str, Tensor], step: int, loss: float | None
    ) -> dict[str, Tensor]:
        """Record a validation and return the weights to keep, as ``settings.keep`` says."""
        agrees = held_out_loss = None
        if phase.held_out_logits is not None:
            candidate.eval()
            student_NC, teacher_NC = phase.held_out_logits(candidate)
            agrees = agreement(student_NC, teacher_NC)
            held_out_loss = float(kd_loss(student_NC, teacher_NC, self.settings.temperature).mean())
        entry = {"phase": phase.name, "step": step, "loss": loss, "agreement": agrees, "held_out_loss": held_out_loss}
        self.history.append({**entry, "lr": rate(step, phase.steps, self.settings.warmup_steps)})
        if self._is_better(agrees, held_out_loss):
            self.best = {"phase": phase.name, "step": step, "agreement": agrees, "held_out_loss": held_out_loss}
            return _copy(candidate)
        return best

    def _is_better(self, agrees: float | None, held_out_loss: float | None) -> bool:
        known, known_loss = self.best["agreement"], self.best["held_out_loss"]
        if self.settings.keep == "last" or agrees is None or held_out_loss is None or known is None:
            return True
        if self.settings.keep == "loss":
            return bool(held_out_loss < known_loss)
        return bool(agrees > known or (agrees == known and held_out_loss < known_loss))

    def _save(
        self, phase: _Phase, optimiser: Optimiser, average: MovingAverage, best: dict[str, Tensor], step: int
    ) -> None:
        tensors = {
            **with_prefix("module", phase.module.state_dict()),
            **with_prefix("average", average.module.state_dict()),
            **with_prefix("best", best),
            **with_prefix("optimiser", optimiser.state()),
        }
        facts = {"key": self.key, "phase": phase.name, "step": step, "best": self.best, "history": self.history}
        save_state(self.folder / CHECKPOINT, tensors, facts)


def _copy(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in module.state_dict().items()}
