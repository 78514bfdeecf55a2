"""Inverts the teacher: latents are optimised until the teacher sees in the image what the prompt says.

The unit of work is a group of fixed members. Each member's latent and views come from its own seed; what couples the
members of a group is only the distance of their common feature statistics from those of natural images, where it is
asked for. The same group comes out whatever else is computed before, after or beside it. Where there are several
generators they take turns, a group each: what one draws badly, another may draw well.

Shapes: N images, S of them at work, V views, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from clipstill.core.errors import ConfigError
from clipstill.core.progress import say
from clipstill.core.protocols import BatchNormTeacher, Generator, Sampler, Teacher
from clipstill.synthesis.inversion import Inversion, Losses, Story
from clipstill.synthesis.natural import NaturalNetwork
from clipstill.synthesis.objectives import class_consistency, class_margin, spherical_distance, total_variation
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.synthesis.views import ViewSchedule

# Fewer images than this are not split among generators.
_SMALLEST_TURN = 8
# History entries a group; enough for a smooth curve, and small in the run's story.
_HISTORY_POINTS = 20

# Told of the members and images at work, once a step.
Watch = Callable[[Sequence[int], Tensor], None]


@dataclass(frozen=True)
class Order:
    """The images of one group that are to be made.

    Attributes:
        number: of the group, from 0; says which generator's turn it is.
        seeds: one an image.
        class_ids: class of each image.
        targets_ND: unit vector that each image is drawn towards.
        texts: what each target says; only samplers read it.
    """

    number: int
    seeds: Sequence[int]
    class_ids: Sequence[int]
    targets_ND: Tensor
    texts: Sequence[str] = ()


@dataclass(frozen=True)
class SynthesisedGroup:
    """What came out of one group; M <= N images, those that could not be made are left out.

    Attributes:
        generator: name of the generator that drew it.
        members: position of each image in the order.
        images_MHW3: uint8.
        losses: last value of each image's own objective.
        scores: the teacher's probability of each image's class on the finished image, in [0, 1].
        features_MD: float16, the teacher's unit vectors of the finished images.
        steps: that each image took.
        codes: codebook indices of each image, row by row; None where its generator has no codebook.
        restarts: how often images began again because they were no numbers any more.
        history: means over the group: step, text, class, natural, loss.
    """

    generator: str
    members: list[int]
    images_MHW3: Any
    losses: list[float]
    scores: list[float]
    features_MD: Any
    steps: list[int]
    codes: list[list[int]] | None
    restarts: int
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
        generators: Sequence[Generator | Sampler],
        class_vectors_CD: Tensor,
        settings: SynthesisSettings,
        device: torch.device,
    ) -> None:
        self._teacher, self._generators, self._settings, self._device = teacher, generators, settings, device
        self._class_vectors_CD = class_vectors_CD.to(device)
        self._scale = float(teacher.logit_scale)
        names = settings.natural_networks if settings.natural_weight > 0 else ()
        with_statistics = teacher if settings.bn_weight > 0 and isinstance(teacher, BatchNormTeacher) else None
        self._teacher_with_statistics: BatchNormTeacher | None = with_statistics
        # What the teacher's own statistics say already is not computed twice.
        known = () if with_statistics is None else with_statistics.statistics_networks
        self._natural = [NaturalNetwork(name, device) for name in names if name not in known]
        self._encode = torch.compile(teacher.encode_image) if settings.compile else teacher.encode_image
        # Lowered where the memory does not hold as many.
        self._slots = settings.group_size

    @property
    def coupled(self) -> bool:
        """Whether common statistics couple the images of a group."""
        return self._teacher_with_statistics is not None or bool(self._natural)

    @property
    def provenance(self) -> list[Any]:
        """Of all weights that shape the images, but for the teacher's."""
        drawn = [part for generator in self._generators for part in generator.provenance]
        return [*drawn, *(network.provenance for network in self._natural)]

    def group(self, order: Order, watch: Watch | None = None) -> SynthesisedGroup:
        """Make one group of images.

        Args:
            order: what is to be made.
            watch: called once a step with the members and images at work.

        Raises:
            ConfigError: no image of the group could be made.
            torch.OutOfMemoryError: not even one image at a time fits, or the group is coupled and does not fit whole.
        """
        generator = self._generators[order.number % len(self._generators)]
        if isinstance(generator, Sampler):
            return self._sampled(generator, order, watch)
        while True:
            try:
                return self._inverted(generator, order, watch)
            except torch.OutOfMemoryError:
                slots = min(self._slots, len(order.seeds))
                if self.coupled or slots == 1:
                    raise
                self._slots = slots // 2
            # Outside of the handler, whose traceback holds the tensors that were too many.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            say(f"surrogate: {slots} images at once do not fit into the memory, going on with {self._slots}")

    def _inverted(self, generator: Generator, order: Order, watch: Watch | None) -> SynthesisedGroup:
        settings = self._settings
        resolutions = settings.resolutions(generator.stride)
        views = ViewSchedule(
            order.seeds,
            settings.steps,
            settings.views,
            settings.crop_min,
            settings.degrees,
            settings.light,
            settings.noise,
            self._device,
        )
        decode = torch.compile(generator.decode) if settings.compile else generator.decode
        story = Story.of(len(order.seeds))
        latents = generator.init(order.seeds, resolutions[0][0])
        for number, (size, start, stop) in enumerate(resolutions):
            if number > 0:
                latents = generator.resize(latents, size)
                generator.project_(latents)
            inversion = Inversion(
                generator,
                self._score(generator, order),
                views,
                order.seeds,
                settings,
                self._in_precision(decode),
                size,
                start,
                stop,
                len(order.seeds) if self.coupled else self._slots,
                self.coupled,
                watch,
            )
            latents = inversion.run(latents, story)
        return self._finished(generator, latents, order, story)

    def _score(self, generator: Generator, order: Order) -> Callable[..., Losses]:
        """What the teacher makes of images of this group."""
        settings = self._settings
        tv_weight = settings.tv_weight * generator.tv_factor
        class_N = torch.tensor(order.class_ids, device=self._device)
        targets_ND = order.targets_ND.to(self._device)

        def score(views_M3HW: Tensor, x_S3HW: Tensor, latents: Sequence[Tensor], members_S: Tensor) -> Losses:
            feat_SVD, gap = self._see(views_M3HW, len(members_S))
            text_S = spherical_distance(feat_SVD, targets_ND[members_S])
            class_S = class_consistency(feat_SVD, self._class_vectors_CD, class_N[members_S], self._scale)
            own_S = settings.text_weight * text_S + settings.class_weight * class_S
            if tv_weight > 0:
                own_S = own_S + tv_weight * total_variation(x_S3HW)
            margin_S = class_margin(feat_SVD, self._class_vectors_CD, class_N[members_S], self._scale)
            return Losses(own_S, {"text": text_S, "class": class_S}, margin_S, gap)

        return score

    def _see(self, views_M3HW: Tensor, images: int) -> tuple[Tensor, Tensor | None]:
        """Features of the views (S, V, D), and the weighted distance of their statistics from natural ones."""
        settings = self._settings
        gaps = []
        with self._autocast():
            if self._teacher_with_statistics is not None:
                feat_MD, gap = self._teacher_with_statistics.encode_image_with_statistics(views_M3HW)
                gaps.append(settings.bn_weight * gap)
            else:
                feat_MD = self._encode(views_M3HW)
            gaps += [settings.natural_weight * network.gap(views_M3HW) for network in self._natural]
        return feat_MD.float().view(images, settings.views, -1), torch.stack(gaps).sum() if gaps else None

    def _autocast(self) -> AbstractContextManager[Any]:
        enabled = self._settings.precision == "bf16"
        return torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=enabled)

    def _in_precision(self, decode: Callable[[Sequence[Tensor]], Tensor]) -> Callable[[Sequence[Tensor]], Tensor]:
        def decoded(latents: Sequence[Tensor]) -> Tensor:
            with self._autocast():
                return decode(latents).float()

        return decoded

    @torch.no_grad()
    def _finished(self, generator: Generator, latents: list[Tensor], order: Order, story: Story) -> SynthesisedGroup:
        members = [member for member in range(len(order.seeds)) if member not in story.dropped]
        if not members:
            raise ConfigError(
                f"no image of group {order.number} could be made: their latents stopped being numbers, "
                f"{story.restarts[0]} times over. Lower synthesis.lr, or set synthesis.precision to fp32."
            )
        parts, codes = [], []
        for start in range(0, len(members), self._slots):
            chosen = [latent[members[start : start + self._slots]] for latent in latents]
            parts.append((generator.decode(chosen) * 255).round().clamp(0, 255).to(torch.uint8))
            indices = generator.codes(chosen)
            if indices is not None:
                codes += indices.flatten(1).tolist()
        images_M3HW = torch.cat(parts)
        feat_MD = self._features(images_M3HW)
        return SynthesisedGroup(
            generator.name,
            members,
            images_M3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
            [round(story.losses[member], 6) for member in members],
            self._scores(feat_MD, [order.class_ids[member] for member in members]),
            feat_MD.half().cpu().numpy(),
            [story.steps[member] for member in members],
            codes or None,
            sum(story.restarts),
            _history(story),
        )

    @torch.no_grad()
    def _sampled(self, sampler: Sampler, order: Order, watch: Watch | None) -> SynthesisedGroup:
        """Images that a model drew by itself, judged as if they had been inverted."""
        members = list(range(len(order.seeds)))
        x_N3HW = sampler.sample(order.texts, order.seeds, self._settings.image_size).to(self._device)
        if watch is not None:
            watch(members, x_N3HW)
        images_N3HW = (x_N3HW * 255).round().clamp(0, 255).to(torch.uint8)
        feat_ND = self._features(images_N3HW)
        feat_N1D = feat_ND[:, None]
        class_N = torch.tensor(order.class_ids, device=self._device)
        loss_N = self._settings.text_weight * spherical_distance(feat_N1D, order.targets_ND.to(self._device))
        loss_N = loss_N + self._settings.class_weight * class_consistency(
            feat_N1D, self._class_vectors_CD, class_N, self._scale
        )
        return SynthesisedGroup(
            sampler.name,
            members,
            images_N3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy(),
            [round(value, 6) for value in loss_N.tolist()],
            self._scores(feat_ND, order.class_ids),
            feat_ND.half().cpu().numpy(),
            [0] * len(members),
            None,
            0,
            [],
        )

    def _features(self, images_N3HW: Tensor) -> Tensor:
        """What the teacher sees in images as stored, after rounding, so that the numbers belong to the file."""
        starts = range(0, len(images_N3HW), self._slots)
        parts = [self._teacher.encode_image(images_N3HW[at : at + self._slots].float() / 255) for at in starts]
        return torch.cat(parts)

    def _scores(self, feat_ND: Tensor, class_ids: Sequence[int]) -> list[float]:
        share_NC = (self._scale * feat_ND @ self._class_vectors_CD.T).softmax(1)
        return [round(float(share_C[class_id]), 6) for share_C, class_id in zip(share_NC, class_ids, strict=True)]


def _history(story: Story) -> list[dict[str, float]]:
    """Means over the images that took a step, at some of the steps."""
    if story.table is None:
        return []
    counts, *sums = story.table.tolist()
    taken = [step for step, count in enumerate(counts) if count > 0]
    every = max(1, len(counts) // _HISTORY_POINTS)
    return [
        {"step": step, **{name: total[step] / counts[step] for name, total in zip(story.terms, sums, strict=True)}}
        for step in taken
        if step % every == 0 or step == taken[-1]
    ]
