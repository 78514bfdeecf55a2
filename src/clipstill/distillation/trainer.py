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
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import sha256_json
from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import tensor_digest
from clipstill.distillation import parallel
from clipstill.distillation.checkpoint import Saved, load_state, save_state, with_prefix
from clipstill.distillation.feature_cache import FeatureCache, Pass
from clipstill.distillation.holdout import held_out_mask
from clipstill.distillation.label_cache import LabelCache
from clipstill.distillation.learner import Learner, new_projector, statistics_kept
from clipstill.distillation.losses import agreement, feature_loss, hard_loss, kd_loss
from clipstill.distillation.meta import Loss, Weights, meta_gradient, split_styles
from clipstill.distillation.optimisation import MovingAverage, Optimiser, learned_state
from clipstill.distillation.randomness import SampleOrder, borrowed_generator
from clipstill.distillation.recentre import Recentre
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.views import plain_view, to_unit, views_of

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher
    from clipstill.students.student import Student

__all__ = ["CHECKPOINT", "WEIGHTS", "DistilResult", "DistilSettings", "distil"]

CHECKPOINT = "checkpoint.safetensors"
WEIGHTS = "student.safetensors"
HEAD, ALL = "head", "all"
# Called with the step, a student for its features, and the head to answer by: the student's own, or another one while
# the head alone is taught.
Watch = Callable[[int, "Student", nn.Module], None]
# Steps whose time tells how many there will be, where minutes are given.
_TIMED_STEPS = 10
# Share of the styles that a step of meta distillation is tried on.
_META_TEST_SHARE = 0.25


@dataclass(frozen=True)
class DistilResult:
    """What came out.

    Attributes:
        history: one entry a validation: phase, step, loss (mean since the entry before; None at step 0), lr (share of
            the peak), agreement and held_out_loss (None where nothing was held out), alignment (mean cosine between the
            gradients of different styles; None without meta distillation).
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
    teacher: Teacher | None,
    class_vectors_CD: Tensor,
    images_N3HW: Tensor,
    class_id_N: Tensor,
    style_id_N: Tensor,
    settings: DistilSettings,
    folder: Path,
    device: torch.device | str = "cpu",
    watch: Watch | None = None,
    *,
    seed: int = 0,
) -> DistilResult:
    """Train ``student`` in place; it ends with its best weights, in evaluation mode.

    Args:
        student: as built; a state left in ``folder`` by an equal call is gone on from.
        teacher: on ``device``; None where the pictures' classes are all that is taught (``loss="ce"``, no mixing).
        class_vectors_CD: unit vectors, one a class.
        images_N3HW: uint8 pictures, synthetic or any others.
        class_id_N: class a picture was made for; -1 for pictures of anything. Labels are not trained on: the teacher's
            soft labels are.
        style_id_N: style of each picture; any number where it has none.
        settings: how.
        folder: for ``checkpoint.safetensors``, ``student.safetensors`` and ``features/``.
        device: where to train.
        watch: is shown the weights of every validation, and changes nothing.
        seed: Seed of everything that is drawn.

    Raises:
        DataError: the pictures do not have the shape or type, or fewer than two are left to train on.
        ConfigError: a setting that this student cannot follow, one that asks for a teacher where there is none, or a
            loss that is no number any more.
        ArtifactError: the stored state is damaged.
        ResourceError: the disk is full.

    Example:
        >>> result = distil(student, teacher, vectors, images, class_id, style_id, settings, Path("student"), seed=0)
        >>> result.best_agreement
        0.94
    """
    _check_pictures(images_N3HW, class_id_N, style_id_N)
    if teacher is None:
        asked = settings.mix > 0 or settings.feature_weight > 0 or settings.held_out_styles > 0
        if asked or settings.loss != "ce" or bool((class_id_N < 0).any()):
            raise ConfigError(
                "without a teacher there are only the classes to learn from: set distillation.loss to 'ce', and mix, "
                "feature_weight and held_out_styles to 0, and give each picture a class."
            )
    if settings.feature_weight > 0 and settings.freeze == "backbone":
        raise ConfigError(
            "distillation.feature_weight moves the backbone's features, and the backbone is frozen. Set it to 0, or "
            "distillation.freeze to 'bn' or 'none'."
        )
    asked_of = teacher or _NoTeacher(class_vectors_CD.shape[1])
    run = _Run(student, asked_of, class_vectors_CD, images_N3HW, class_id_N, style_id_N, settings, folder, device, seed)
    run.watch = watch
    return run.finish()


class _NoTeacher:
    """Stands where nobody is asked: every picture looks the same to it."""

    name = "none"
    weights_sha256 = "none"
    logit_scale = 1.0

    def __init__(self, dimensions: int) -> None:
        self.dimensions = dimensions

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        return x_N3HW.new_zeros((len(x_N3HW), self.dimensions))


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


@dataclass(frozen=True)
class _Batch:
    """Pictures of one pass, and what is to be learned of them.

    Attributes:
        inputs: views (B, 3, S, S), or cached features (B, F).
        teacher_BD: unit vectors.
        teacher_BC: logits.
        class_B: class that a picture was made for, -1 where there is none.
        group_B: of the re-centring.
    """

    inputs: Tensor
    teacher_BD: Tensor
    teacher_BC: Tensor
    class_B: Tensor
    group_B: Tensor

    def part(self, chosen: slice | Tensor) -> _Batch:
        """Some of them."""
        return _Batch(*(getattr(self, field.name)[chosen] for field in dataclasses.fields(self)))


@dataclass
class _Phase:
    """One stretch of training.

    Attributes:
        name: ``"head"`` or ``"all"``.
        learner: what is trained and averaged.
        steps: its length.
        style_M: style of each row that can be drawn, -1 where it has none.
        batch: rows, names of the draw, and which of the rows are wanted -> a batch. Views are drawn for all rows, so
            that they do not depend on how many processes share them.
        held_out: batches of the held-out pictures; empty where there are none.
        labels: the teacher's answers to views that come again; None where it is asked at every step.
    """

    name: str
    learner: Learner
    steps: int
    style_M: Tensor
    batch: Callable[[Tensor, tuple[int | str, ...], slice], _Batch]
    held_out: Callable[[], Iterator[_Batch]]
    labels: LabelCache | None = None


class _Told(NamedTuple):
    """What a step has to say."""

    loss: float
    alignment: float | None


class _Run:
    """One call of ``distil``: what does not change, the phases, and the best weights so far."""

    def __init__(
        self,
        student: Student,
        teacher: Teacher | _NoTeacher,
        class_vectors_CD: Tensor,
        images_N3HW: Tensor,
        class_id_N: Tensor,
        style_id_N: Tensor,
        settings: DistilSettings,
        folder: Path,
        device: torch.device | str,
        seed: int,
    ) -> None:
        self.began = time.monotonic()
        self.watch: Watch | None = None
        processes = parallel.share()[1]
        if settings.batch < 2 * processes:
            raise ConfigError(
                f"distillation.batch is {settings.batch}, which leaves {processes} processes less than two pictures "
                f"each. Set it to {2 * processes} or more."
            )
        self.folder = folder
        self.seed = seed
        self.device = torch.device(device)
        # Faster for convolutions on most processors.
        self.student = student.to(self.device).to(memory_format=torch.channels_last)
        self.teacher = teacher
        self.class_vectors = class_vectors_CD.to(self.device).float()
        held_N = held_out_mask(class_id_N, style_id_N, settings.held_out_styles, seed)
        self.train_images, self.held_images = images_N3HW[~held_N], images_N3HW[held_N]
        # Pictures with a class and pictures of anything have different statistics, so they are re-centred apart.
        self.train_class, self.train_style = class_id_N[~held_N], style_id_N[~held_N]
        self.train_group = (self.train_class < 0).long()
        if settings.epochs:
            settings = settings.changed(steps=settings.epochs * math.ceil(len(self.train_images) / settings.batch))
        self.settings = settings
        if len(self.train_images) < 2:
            raise DataError(f"{len(self.train_images)} pictures are left to train on. Make more images a class.")
        self.key = sha256_json(
            {
                "format": 4,
                "settings": [settings.identity(), seed],
                "pictures": tensor_digest({"images": images_N3HW, "class": class_id_N, "style": style_id_N}),
                "student": tensor_digest(student.state_dict()),
                "teacher": [teacher.name, teacher.weights_sha256, float(teacher.logit_scale)],
                "class_vectors": tensor_digest({"vectors": class_vectors_CD}),
                "device": self.device.type,
            }
        )
        self.train_cache = self._cache(self.train_images)
        self.recentre: Recentre | None = None
        self.history: list[dict[str, Any]] = []
        self.best: dict[str, Any] = {"phase": "", "step": 0, "agreement": None, "held_out_loss": None}

    def finish(self) -> DistilResult:
        """Run the phases that are left and keep the best weights."""
        parallel.wait()
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
        if parallel.share()[0] == 0:
            save_state(self.folder / WEIGHTS, self.student.state_dict(), {"key": self.key})
        parallel.wait()
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
        return FeatureCache(self.student, self.teacher, images_N3HW, self.settings, self.folder, self.device, self.seed)

    def _shifted(self, feat_NF: Tensor, group_N: Tensor) -> Tensor:
        return feat_NF if self.recentre is None else self.recentre(feat_NF, group_N)

    def _teacher_logits(self, teacher_ND: Tensor) -> Tensor:
        return float(self.teacher.logit_scale) * teacher_ND @ self.class_vectors.T

    def _learner(self, whole: nn.Module) -> Learner:
        projector = None
        if self.settings.feature_weight > 0:
            features, dimensions = self.student.head.in_features, self.class_vectors.shape[1]
            projector = new_projector(features, dimensions, self.seed)
        return Learner(whole, whole is self.student, projector, self.recentre).to(self.device)

    def _head_phase(self, steps: int) -> _Phase:
        """The head on cached features; the backbone's part of the work is done before the first step."""
        self.student.freeze_backbone(True)
        whole = self._cached(self.train_cache.augmented(self.settings.views), self.train_class, self.train_group)

        def batch(chosen_B: Tensor, drawn: tuple[int | str, ...], own: slice) -> _Batch:
            return whole.part(chosen_B[own].to(self.device))

        def held_out() -> Iterator[_Batch]:
            if len(self.held_images):
                outside = torch.full((len(self.held_images),), -1)
                yield self._cached([self._cache(self.held_images).plain()], outside, torch.zeros_like(outside))

        styles = self.train_style.repeat(self.settings.views)
        return _Phase(HEAD, self._learner(self.student.head), steps, styles, batch, held_out)

    def _cached(self, passes: list[Pass], class_N: Tensor, group_N: Tensor) -> _Batch:
        """All passes, one after another, with re-centred features."""
        group_N = group_N.to(self.device)
        teacher_MD = torch.cat([one.teacher_ND for one in passes]).to(self.device)
        return _Batch(
            inputs=torch.cat([self._shifted(one.student_NF.to(self.device), group_N) for one in passes]),
            teacher_BD=teacher_MD,
            teacher_BC=self._teacher_logits(teacher_MD),
            class_B=class_N.repeat(len(passes))
            .masked_fill(torch.cat([one.mixed_N for one in passes]), -1)
            .to(self.device),
            group_B=group_N.repeat(len(passes)),
        )

    def _all_phase(self, steps: int) -> _Phase:
        """All weights, on views that are drawn for each step."""
        self.student.freeze_backbone(False)
        self.student.freeze_statistics(self.settings.freeze == "bn")
        views = views_of(self.settings, self.student.preprocess.size)

        labels = self._label_cache()

        @torch.no_grad()
        def batch(chosen_B: Tensor, drawn: tuple[int | str, ...], own: slice) -> _Batch:
            pictures_B3HW = to_unit(self.train_images[chosen_B], self.device)
            x_B3HW, mixed_B = views(pictures_B3HW, self.seed, ALL, *drawn)
            chosen_B, mixed_B, x_B3HW = chosen_B[own], mixed_B[own], self._laid_out(x_B3HW[own])
            teacher_BD = None if labels is None else labels.answers(drawn)
            if teacher_BD is None:
                teacher_BD = self.teacher.encode_image(x_B3HW)
                if labels is not None:
                    labels.keep(drawn, teacher_BD)
            return _Batch(
                inputs=x_B3HW,
                teacher_BD=teacher_BD,
                teacher_BC=self._teacher_logits(teacher_BD),
                class_B=self.train_class[chosen_B].to(self.device).masked_fill(mixed_B, -1),
                group_B=self.train_group[chosen_B].to(self.device),
            )

        learner = self._learner(self.student)
        teacher_ND = self.class_vectors[:0]
        if len(self.held_images):
            # The cache's teacher part; its student part is of the weights before training.
            teacher_ND = self._cache(self.held_images).plain().teacher_ND.to(self.device)
        held_out = partial(self._held_out_views, teacher_ND)
        return _Phase(ALL, learner, steps, self.train_style, batch, held_out, labels)

    def _label_cache(self) -> LabelCache | None:
        """For meta distillation there is none: its groups are never the same again."""
        settings = self.settings
        if settings.labels == "online" or settings.meta != "none":
            return None
        rank, processes = parallel.share()
        parts = [self.train_cache.key, settings.batch, rank, processes]
        return LabelCache(self.folder, parts, len(self.train_images), settings.batch, settings.views, self.seed)

    def _held_out_views(self, teacher_ND: Tensor) -> Iterator[_Batch]:
        for start in range(0, len(self.held_images), self.settings.batch):
            x_B3HW = to_unit(self.held_images[start : start + self.settings.batch], self.device)
            teacher_BD = teacher_ND[start : start + self.settings.batch]
            outside = torch.full((len(x_B3HW),), -1, device=self.device)
            yield _Batch(
                inputs=self._laid_out(plain_view(x_B3HW, self.student.preprocess.size)),
                teacher_BD=teacher_BD,
                teacher_BC=self._teacher_logits(teacher_BD),
                class_B=outside,
                group_B=torch.zeros_like(outside),
            )

    def _laid_out(self, x_N3HW: Tensor) -> Tensor:
        return x_N3HW.contiguous(memory_format=torch.channels_last)

    def _train(self, phase: _Phase, saved: Saved | None) -> None:
        """Train one phase from its start or from a stored state; its module ends with the best weights."""
        optimiser = Optimiser(phase.learner, self.settings, phase.steps)
        average = MovingAverage(phase.learner, self.settings.ema)
        if saved is None:
            start = 0
            best = _copy(learned_state(phase.learner))
            if phase.name == ALL:
                # The weights that come in are a candidate too: tuning must beat the head alone.
                best = self._validated(phase, average, optimiser, best, 0, [])
        else:
            start = int(saved.facts["step"])
            phase.learner.load_state_dict(saved.group("module"), strict=False)
            average.module.load_state_dict(saved.group("average"), strict=False)
            optimiser.restore(saved.group("optimiser"))
            best = saved.group("best")
            phase.steps = optimiser.steps = int(saved.facts["steps"])
        order = SampleOrder(len(phase.style_M), self.settings.batch, self.seed, phase.name)
        told: list[_Told] = []
        title = "student's head" if phase.name == HEAD else "student"
        began, step = time.monotonic(), start
        # The last phase goes on for as long as the minutes allow.
        timed = self.settings.minutes == 0 or phase.name != self._plan()[-1][0] or (saved and saved.facts["timed"])
        with Progress(title, total=phase.steps, unit="step", done=start) as bar:
            while step < phase.steps:
                told.append(self._step(phase, optimiser, average, order, step))
                bar.advance(1, loss=told[-1].loss)
                step += 1
                if not timed and step == start + _TIMED_STEPS:
                    timed = True
                    phase.steps = optimiser.steps = self._affordable(step, (time.monotonic() - began) / _TIMED_STEPS)
                    bar.total = phase.steps
                if step % self.settings.checkpoint_every == 0 or step == phase.steps:
                    parallel.average_statistics(phase.learner)
                    best = self._validated(phase, average, optimiser, best, step, told)
                    told = []
                    self._save(phase, optimiser, average, best, step, bool(timed))
        phase.learner.load_state_dict(best, strict=False)

    def _affordable(self, step: int, seconds_a_step: float) -> int:
        """Steps that fit into the minutes, of which some are gone; all processes go by the slowest one's answer."""
        left = self.settings.minutes * 60 - (time.monotonic() - self.began)
        return parallel.least(step + max(_TIMED_STEPS, int(left / seconds_a_step)))

    def _step(
        self, phase: _Phase, optimiser: Optimiser, average: MovingAverage, order: SampleOrder, step: int
    ) -> _Told:
        phase.learner.train()
        rows = self._style_groups(phase, step)
        drawn: tuple[int | str, ...] = (step,)
        if not rows and phase.labels is not None:
            row, drawn = phase.labels.rows(step)
            rows = [row]
        rows = rows or [order.indices(step)]
        # A student's own dropout draws from the global generator, hence the loan.
        with borrowed_generator(self.seed, "step", phase.name, step, parallel.share()[0]):
            groups = [
                self._parts(phase, rows[place], (*drawn, place) if place else drawn, place > 0)
                for place in range(len(rows))
            ]
            share_of_peak = optimiser.rate(step)
            alpha = self.settings.head_lr * share_of_peak
            found = meta_gradient(self.settings.meta, optimiser.named, groups, alpha, parallel.summed)
        value = parallel.total(sum(found.losses)) / len(found.losses)
        if not math.isfinite(value):
            raise ConfigError(
                f"the distillation loss is {value} at step {step} of phase '{phase.name}'. Lower distillation.lr or "
                f"distillation.head_lr."
            )
        optimiser.step(found.gradient, step)
        average.update(phase.learner, step)
        return _Told(value, found.alignment)

    def _style_groups(self, phase: _Phase, step: int) -> list[Tensor]:
        """Rows of each group of styles; none without meta distillation. Pictures without a style go with the first."""
        if self.settings.meta == "none":
            return []
        styles = torch.unique(phase.style_M[phase.style_M >= 0]).tolist()
        groups = min(len(styles), self.settings.meta_groups if self.settings.meta == "reptile" else 2)
        if groups < 2:
            raise ConfigError(
                f"meta distillation needs pictures of two styles or more, and there is {len(styles)}. Choose a prompt "
                f"strategy with styles, or set distillation.meta to 'none'."
            )
        parts = (self.seed, "meta", phase.name, step)
        subsets = split_styles(styles, groups, _META_TEST_SHARE, *parts)
        subsets[0].append(-1)
        rows = []
        for place, subset in enumerate(subsets):
            pool = torch.isin(phase.style_M, torch.tensor(subset)).nonzero().flatten()
            size = max(2, round(self.settings.batch * len(pool) / len(phase.style_M)))
            order = torch.randperm(len(pool), generator=generator_for(*parts, place))
            rows.append(pool[order[:size]])
        return rows

    def _parts(self, phase: _Phase, rows: Tensor, drawn: tuple[int | str, ...], aside: bool) -> list[Loss]:
        """This process's share of a group, in parts of a step; ``aside``: at weights that only a try has."""
        rank, processes = parallel.share()
        own = phase.batch(rows, drawn, slice(rank, None, processes))
        parts = min(self.settings.accumulate, len(own.inputs))
        batches = [own.part(slice(part, None, parts)) for part in range(parts)]

        def loss_on(batch: _Batch) -> Loss:
            def loss(weights: Weights) -> Tensor:
                kept = statistics_kept(phase.learner) if aside else nullcontext()
                with kept, self._autocast():
                    logits_BC, feat_BD = functional_call(phase.learner, weights, (batch.inputs, batch.group_B))
                feat_BD = None if feat_BD is None else feat_BD.float()
                return self._loss(logits_BC.float(), feat_BD, batch).sum() / len(rows)

            return loss

        return [loss_on(batch) for batch in batches]

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.settings.precision == "bf16")

    def _loss(self, logits_BC: Tensor, feat_BD: Tensor | None, batch: _Batch) -> Tensor:
        loss_B = torch.zeros_like(batch.class_B, dtype=logits_BC.dtype)
        if self.settings.loss != "ce":
            share = 1 / logits_BC.shape[1] if self.settings.kd_per_class else 1
            loss = kd_loss(logits_BC, batch.teacher_BC, self.settings.temperature)
            loss_B = loss_B + self.settings.kd_weight * share * loss
        if self.settings.loss != "kd":
            label_B = torch.where(batch.class_B >= 0, batch.class_B, batch.teacher_BC.argmax(1))
            loss_B = loss_B + hard_loss(logits_BC, label_B)
        if feat_BD is not None:
            loss_B = loss_B + self.settings.feature_weight * feature_loss(feat_BD, batch.teacher_BD)
        return loss_B

    @torch.no_grad()
    def _validated(
        self,
        phase: _Phase,
        average: MovingAverage,
        optimiser: Optimiser,
        best: dict[str, Tensor],
        step: int,
        told: list[_Told],
    ) -> dict[str, Tensor]:
        """Record a validation and return the weights to keep, as ``settings.keep`` says."""
        candidate = average.module.eval()
        if self.watch is not None and parallel.share()[0] == 0:
            if phase.name == HEAD:
                self.watch(step, self.student, cast(nn.Module, candidate.whole))
            else:
                student = cast("Student", candidate.whole)
                self.watch(step, student, student.head)
        pairs = [(candidate(batch.inputs, batch.group_B)[0], batch.teacher_BC) for batch in phase.held_out()]
        agrees = held_out_loss = None
        if pairs:
            student_NC, teacher_NC = (torch.cat(part) for part in zip(*pairs, strict=True))
            agrees = agreement(student_NC, teacher_NC)
            held_out_loss = float(kd_loss(student_NC, teacher_NC, self.settings.temperature).mean())
        aligned = [each.alignment for each in told if each.alignment is not None]
        self.history.append(
            {
                "phase": phase.name,
                "step": step,
                "loss": fmean(each.loss for each in told) if told else None,
                "agreement": agrees,
                "held_out_loss": held_out_loss,
                "alignment": fmean(aligned) if aligned else None,
                "lr": optimiser.rate(step),
            }
        )
        if self._is_better(agrees, held_out_loss):
            self.best = {"phase": phase.name, "step": step, "agreement": agrees, "held_out_loss": held_out_loss}
            own = candidate.state_dict()
            return _copy({name: own[name] for name in learned_state(phase.learner)})
        return best

    def _is_better(self, agrees: float | None, held_out_loss: float | None) -> bool:
        known, known_loss = self.best["agreement"], self.best["held_out_loss"]
        if self.settings.keep == "last" or agrees is None or held_out_loss is None or known is None:
            return True
        if self.settings.keep == "loss":
            return bool(held_out_loss < known_loss)
        return bool(agrees > known or (agrees == known and held_out_loss < known_loss))

    def _save(
        self,
        phase: _Phase,
        optimiser: Optimiser,
        average: MovingAverage,
        best: dict[str, Tensor],
        step: int,
        timed: bool,
    ) -> None:
        learned, own = learned_state(phase.learner), average.module.state_dict()
        tensors = {
            **with_prefix("module", learned),
            **with_prefix("average", {name: own[name] for name in learned}),
            **with_prefix("best", best),
            **with_prefix("optimiser", optimiser.state()),
        }
        facts = {
            "key": self.key,
            "phase": phase.name,
            "step": step,
            "steps": phase.steps,
            "timed": timed,
            "best": self.best,
            "history": self.history,
        }
        if parallel.share()[0] == 0:
            save_state(self.folder / CHECKPOINT, tensors, facts)


def _copy(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in state.items()}
