"""Inverts the teacher: latents are optimised until the teacher sees in the image what the prompt says.

The unit of work is a group of fixed members. Each member's latent and views come from its own seed; what couples the
members of a group is only the distance of their common feature statistics from those of natural images, where it is
asked for. The same group comes out whatever else is computed before, after or beside it. Where there are several
generators they take turns, a group each: what one draws badly, another may draw well.

Shapes: N images, V views, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from clipstill.core.protocols import BatchNormTeacher, Generator, Teacher
from clipstill.synthesis.natural import NaturalNetwork
from clipstill.synthesis.objectives import class_consistency, spherical_distance, total_variation
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.synthesis.views import ViewSchedule

# Fewer images than this are not split among generators.
_SMALLEST_TURN = 8
# History entries a group; enough for a smooth curve, and small in the run's story.
_HISTORY_POINTS = 20


@dataclass(frozen=True)
class SynthesisedGroup:
    """What came out of one group.

    Attributes:
        generator: name of the generator that drew it.
        images_NHW3: uint8.
        losses: last value of each image's own objective.
        scores: the teacher's probability of each image's class on the finished image, in [0, 1].
        history: means over the group: step, text, class, natural, loss.
    """

    generator: str
    images_NHW3: Any
    losses: list[float]
    scores: list[float]
    history: list[dict[str, float]]


def group_ranges(images: int, group_size: int, turns: int) -> list[range]:
    """Which images make up each group: all of one size, give or take one, so that none is too small for statistics.

    Args:
        images: how many there are.
        group_size: most members of a group.
        turns: generators that take turns; each gets a group where there are images enough.
    """
    count = max(math.ceil(images / group_size), min(turns, images // _SMALLEST_TURN))
    edges = [images * number // count for number in range(count + 1)]
    return [range(start, end) for start, end in pairwise(edges)]


class Synthesiser:
    """Holds what all groups of a run share.

    Args:
        teacher: frozen, on ``device``.
        generators: frozen, on ``device``; at least one.
        class_vectors_CD: unit vectors.
        settings: how images are made.
        device: where to work.

    Raises:
        ResourceError: the package of a natural network is not installed.
    """

    def __init__(
        self,
        teacher: Teacher,
        generators: Sequence[Generator],
        class_vectors_CD: Tensor,
        settings: SynthesisSettings,
        device: torch.device,
    ) -> None:
        self._teacher, self._generators, self._settings, self._device = teacher, generators, settings, device
        self._class_vectors_CD = class_vectors_CD.to(device)
        names = settings.natural_networks if settings.natural_weight > 0 else ()
        with_statistics = teacher if settings.bn_weight > 0 and isinstance(teacher, BatchNormTeacher) else None
        self._teacher_with_statistics: BatchNormTeacher | None = with_statistics
        # What the teacher's own statistics say already is not computed twice.
        known = () if with_statistics is None else with_statistics.statistics_networks
        self._natural = [NaturalNetwork(name, device) for name in names if name not in known]

    @property
    def provenance(self) -> list[Any]:
        """Of all weights that shape the images, but for the teacher's."""
        drawn = [part for generator in self._generators for part in generator.provenance]
        return [*drawn, *(network.provenance for network in self._natural)]

    def group(
        self, seeds: Sequence[int], class_ids: Sequence[int], targets_ND: Tensor, number: int = 0
    ) -> SynthesisedGroup:
        """Make one group of images.

        Args:
            seeds: one an image.
            class_ids: class of each image.
            targets_ND: unit vector of each image's text.
            number: of the group, from 0; says whose turn it is.
        """
        settings = self._settings
        generator = self._generators[number % len(self._generators)]
        lr, tv_weight = settings.lr * generator.lr_factor, settings.tv_weight * generator.tv_factor
        class_N = torch.tensor(class_ids, device=self._device)
        targets_ND = targets_ND.to(self._device)
        latents = [latent.requires_grad_(True) for latent in generator.init(seeds, settings.image_size)]
        optimiser = torch.optim.Adam(latents, lr=lr, betas=(0.9, 0.99))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, settings.steps, eta_min=lr / 10)
        views = ViewSchedule(seeds, settings.steps, settings.views, settings.crop_min, settings.degrees, settings.light)
        history: list[dict[str, float]] = []
        every = max(1, settings.steps // _HISTORY_POINTS)
        loss_N = targets_ND.new_zeros(len(seeds))
        for step in range(settings.steps):
            x_N3HW = generator.decode(latents)
            feat_NVD, gap = self._see(views(x_N3HW, step), len(seeds))
            text_N = spherical_distance(feat_NVD, targets_ND)
            class_loss_N = class_consistency(
                feat_NVD, self._class_vectors_CD, class_N, float(self._teacher.logit_scale)
            )
            loss_N = settings.text_weight * text_N + settings.class_weight * class_loss_N
            if tv_weight > 0:
                loss_N = loss_N + tv_weight * total_variation(x_N3HW)
            if settings.prior_weight > 0:
                loss_N = loss_N + settings.prior_weight * generator.prior(latents)
            # Summed, not averaged: an image's step does not depend on how many neighbours it has.
            total = loss_N.sum() + len(seeds) * gap
            optimiser.zero_grad(set_to_none=True)
            total.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
            generator.project_(latents)
            if step % every == 0 or step == settings.steps - 1:
                means = {"text": text_N, "class": class_loss_N, "natural": gap, "loss": total / len(seeds)}
                history.append({"step": step, **{name: float(value.detach().mean()) for name, value in means.items()}})
        return self._finished(generator, latents, class_N, loss_N.detach(), history)

    def _see(self, views_M3HW: Tensor, images: int) -> tuple[Tensor, Tensor]:
        """Features of the views (N, V, D), and the weighted distance of their statistics from natural ones."""
        settings = self._settings
        gap = views_M3HW.new_zeros(())
        if self._teacher_with_statistics is not None:
            feat_MD, teacher_gap = self._teacher_with_statistics.encode_image_with_statistics(views_M3HW)
            gap = gap + settings.bn_weight * teacher_gap
        else:
            feat_MD = self._teacher.encode_image(views_M3HW)
        for network in self._natural:
            gap = gap + settings.natural_weight * network.gap(views_M3HW)
        return feat_MD.view(images, settings.views, -1), gap

    @torch.no_grad()
    def _finished(
        self,
        generator: Generator,
        latents: list[Tensor],
        class_N: Tensor,
        loss_N: Tensor,
        history: list[dict[str, float]],
    ) -> SynthesisedGroup:
        images = (generator.decode(latents) * 255).round().clamp(0, 255).to(torch.uint8)
        # Scored as stored, after rounding, so that the number belongs to the file.
        feat_ND = self._teacher.encode_image(images.float() / 255)
        probabilities_NC = (float(self._teacher.logit_scale) * feat_ND @ self._class_vectors_CD.T).softmax(1)
        scores = probabilities_NC.gather(1, class_N[:, None])[:, 0]
        return SynthesisedGroup(
            generator.name,
            images.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
            [round(value, 6) for value in loss_N.tolist()],
            [round(value, 6) for value in scores.tolist()],
            history,
        )
