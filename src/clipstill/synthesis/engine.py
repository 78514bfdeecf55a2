"""Inverts the teacher: latents are optimised until the teacher sees in the image what the prompt says.

Images are made in groups. Each image's latent and views come from its own seed, and only images of one group can
influence each other, through a loss on their common statistics: a group comes out the same whatever else is computed.
Several generators take turns, one group each, because what one draws badly another may draw well.

Shapes: N images, V views (M = N V), C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cache, partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipstill.core.compiled import Compiled
from clipstill.core.device import hold_in, precision_on
from clipstill.core.errors import ConfigError, is_out_of_memory
from clipstill.core.progress import say
from clipstill.core.protocols import BatchNormTeacher, Generator, NetworkGenerator, Sampler, Teacher
from clipstill.core.tensors import logits
from clipstill.synthesis.inversion import History, Inversion, Losses, Step, Watch, gradients_of, looking
from clipstill.synthesis.natural import NATURAL_NETWORK, NaturalNetwork
from clipstill.synthesis.objectives import class_consistency, spherical_distance, total_variation
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.synthesis.views import ViewDraws, ViewSchedule, draw_views

# Steps between two readings of a device: the queue of a GPU does not run dry, and a CPU has none.
READ_EVERY = {"cpu": 1, "cuda": 16, "mps": 16}
# Share of the free memory of a GPU that images are given: the allocator cannot use all of it.
_MEMORY_SHARE = 0.85
# Fewer images than this are not split among generators.
_SMALLEST_TURN = 8


@dataclass(frozen=True)
class GroupSpec:
    """The images of one group to make.

    Attributes:
        number: Number of the group, from 0; it decides which generator makes the group.
        seeds: One seed per image.
        class_ids: Class of each image.
        targets_ND: Unit vector that each image is drawn towards.
        texts: Text of each target; only samplers read it.
    """

    number: int
    seeds: Sequence[int]
    class_ids: Sequence[int]
    targets_ND: Tensor
    texts: Sequence[str] = ()

    def part(self, start: int, stop: int) -> GroupSpec:
        """Some of the images."""
        names = ("seeds", "class_ids", "targets_ND", "texts")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in names})


class _Inputs(NamedTuple):
    """The tensors that one step of some images needs."""

    draws: ViewDraws
    class_N: Tensor
    target_ND: Tensor


@dataclass(frozen=True)
class SynthesisedGroup:
    """The finished images of one group, without those that failed.

    Attributes:
        generator: Name of the generator.
        members: Position of each image in the ``GroupSpec``.
        pixels_NHW3: Images, uint8.
        losses: Last objective of each image.
        scores: The teacher's probability of each image's class on the stored pixels, in [0, 1].
        features_ND: The teacher's unit vectors of the stored pixels, float16.
        steps: Optimiser steps per image; 0 for a sampler.
        codes: Codebook indices of each image, row by row; None without a codebook.
        restarts: Number of restarts of images whose values became NaN or infinite.
        history: Means over the group at some steps: step, text, class, natural, loss.
    """

    generator: str
    members: list[int]
    pixels_NHW3: NDArray[np.uint8]
    losses: list[float]
    scores: list[float]
    features_ND: NDArray[np.float16]
    steps: int = 0
    codes: list[list[int]] | None = None
    restarts: int = 0
    history: list[dict[str, float]] = field(default_factory=list)


def group_ranges(images: int, group_size: int, turns: int) -> list[range]:
    """The images of each group. Sizes differ by one at most, so that no group is too small for statistics.

    Args:
        images: Number of images.
        group_size: Most images in a group.
        turns: Number of generators; with enough images, each gets a group.
    """
    count = max(math.ceil(images / group_size), min(turns, images // _SMALLEST_TURN))
    edges = [images * number // count for number in range(count + 1)]
    return [range(start, end) for start, end in pairwise(edges)]


class Synthesiser:
    """Makes groups of images with a frozen teacher and frozen generators, which lie on ``device``.

    Raises:
        ResourceError: The package of the natural network is not installed.
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
        self._is_half = precision_on(device, settings.precision) == "bf16"
        with_statistics = teacher if settings.bn_weight > 0 and isinstance(teacher, BatchNormTeacher) else None
        self._teacher_with_statistics = with_statistics
        # Do not compute statistics of the teacher's own network twice.
        is_known = with_statistics is not None and NATURAL_NETWORK in with_statistics.statistics_networks
        self._natural = NaturalNetwork(device) if settings.natural_weight > 0 and not is_known else None
        networks = [generator.network for generator in generators if isinstance(generator, NetworkGenerator)]
        for network in [*networks, *([] if self._natural is None else [self._natural.network])]:
            if self._is_half:
                hold_in(torch.bfloat16, network)
        # Images of a group without common statistics can be made in smaller parts if memory is short.
        self._can_split = with_statistics is None and self._natural is None
        self._at_once = 0 if device.type == "cuda" and self._can_split else settings.group_size
        self._shape = 0  # Most images of a part so far.
        # Kept, because a new function would be compiled anew.
        self._look_of: Callable[[Any], Compiled] = cache(self._look)

    @property
    def provenance(self) -> list[Any]:
        """Provenance of all weights used, except the teacher's."""
        of_generators = [part for generator in self._generators for part in generator.provenance]
        return of_generators if self._natural is None else [*of_generators, self._natural.provenance]

    def group(self, group: GroupSpec, watch: Watch | None = None) -> SynthesisedGroup:
        """Make one group of images; ``watch`` is called with them at each step.

        Raises:
            ConfigError: No image of the group could be made.
            torch.OutOfMemoryError: Not even one image fits, or the group does not fit and its images share statistics;
                on the CPU a RuntimeError.
        """
        generator = self._generators[group.number % len(self._generators)]
        if isinstance(generator, Sampler):
            return self._sampled(generator, group, watch)
        if self._at_once == 0:
            self._at_once = self._fitting(generator, group)
        while True:
            try:
                return self._inverted(generator, group, watch)
            except (RuntimeError, MemoryError) as error:
                too_many = min(self._at_once, len(group.seeds))
                if not is_out_of_memory(error) or not self._can_split or too_many == 1:
                    raise
                self._at_once = too_many // 2
            # Free memory outside ``except``: the traceback keeps tensors alive.
            if self._device.type == "cuda":
                torch.cuda.empty_cache()
            say(f"images: {too_many} images at once do not fit into memory; continuing with {self._at_once}")

    def _inverted(self, generator: Generator, group: GroupSpec, watch: Watch | None) -> SynthesisedGroup:
        history, pixels, codes = History(), [], []
        for start in range(0, len(group.seeds), self._at_once):
            chunk = group.part(start, start + self._at_once)
            filled = self._filled(generator, chunk)
            inversion = Inversion(
                generator,
                filled.seeds,
                self._settings,
                step_of=self._steps(generator, filled),
                count=len(chunk.seeds),
                read_every=READ_EVERY.get(self._device.type, 1),
                watch=watch,
            )
            latents, of_chunk = inversion.run()
            history.extend(of_chunk)
            with torch.no_grad():
                pixels.append(_to_pixels(generator.decode(latents)))
                indices = generator.codes(latents)
            codes += [] if indices is None else indices.flatten(1).tolist()
        members = history.finished
        if not members:
            raise ConfigError(
                f"no image of group {group.number} could be made: their latents stopped being numbers, "
                f"{history.restarts[0]} times over. Lower synthesis.lr, or set synthesis.precision to fp32."
            )
        pixels_N3HW = torch.cat(pixels)[members]
        feat_ND = self._features(pixels_N3HW)
        return SynthesisedGroup(
            generator=generator.name,
            members=members,
            pixels_NHW3=_to_numpy(pixels_N3HW),
            losses=[round(history.losses[member], 6) for member in members],
            scores=self._scores(feat_ND, [group.class_ids[member] for member in members]),
            features_ND=feat_ND.half().cpu().numpy(),
            steps=self._settings.steps,
            codes=[codes[member] for member in members] if codes else None,
            restarts=sum(history.restarts),
            history=history.means(),
        )

    def _filled(self, generator: Generator, group: GroupSpec) -> GroupSpec:
        """The images, repeated up to the most that there were, because another shape is compiled anew."""
        self._shape = max(self._shape, len(group.seeds))
        if not self._look_of(generator).is_due or not self._can_split:
            return group
        places = [n % len(group.seeds) for n in range(self._shape)]
        return replace(
            group,
            seeds=[group.seeds[n] for n in places],
            class_ids=[group.class_ids[n] for n in places],
            targets_ND=group.targets_ND[places],
        )

    def _fitting(self, generator: Generator, group: GroupSpec) -> int:
        """How many images of a group fit into the memory of a GPU at once, by what a step of two of them takes."""
        pair = group.part(0, 2)
        step_of, latents = self._steps(generator, pair), generator.init(pair.seeds, self._settings.image_size)
        held = torch.cuda.memory_allocated(self._device)
        torch.cuda.reset_peak_memory_stats(self._device)
        step_of(latents, 0, self._settings.image_size)
        each = (torch.cuda.max_memory_allocated(self._device) - held) / len(pair.seeds)
        free, _ = torch.cuda.mem_get_info(self._device)
        unused = torch.cuda.memory_reserved(self._device) - torch.cuda.memory_allocated(self._device)
        return max(1, min(self._settings.group_size, int(_MEMORY_SHARE * (free + unused) / max(1.0, each))))

    def _steps(self, generator: Generator, group: GroupSpec) -> Callable[[Sequence[Tensor], int, int], Step]:
        """The function that computes losses and gradients of these images' latents at a step."""
        views = ViewSchedule(group.seeds, self._settings, self._device)
        class_N = torch.tensor(group.class_ids, device=self._device)
        target_ND = group.targets_ND.to(self._device)

        def step_of(latents: Sequence[Tensor], step: int, size: int) -> Step:
            side = math.ceil(size / generator.stride) * generator.stride
            inputs = _Inputs(views.at(step, side), class_N, target_ND)
            return self._look_of(generator).run(partial(gradients_of, latents=latents, inputs=inputs))

        return step_of

    def _look(self, generator: Generator) -> Compiled:
        """The function that decodes latents of a generator and scores the images."""
        settings = self._settings
        tv_weight = settings.tv_weight * generator.tv_factor

        def decode(latents: Sequence[Tensor]) -> Tensor:
            # Autocast would compute GroupNorm in float32.
            with self._autocast(not isinstance(generator, NetworkGenerator)):
                return generator.decode(latents).float()

        def score(x_N3HW: Tensor, inputs: _Inputs) -> Losses:
            feat_NVD, gap = self._see(draw_views(x_N3HW, inputs.draws, settings))
            text_N = spherical_distance(feat_NVD, inputs.target_ND)
            class_loss_N = class_consistency(feat_NVD, self._class_vectors_CD, inputs.class_N, self._scale)
            own_N = settings.text_weight * text_N + settings.class_weight * class_loss_N
            if tv_weight > 0:
                own_N = own_N + tv_weight * total_variation(x_N3HW)
            return Losses(own_N, {"text": text_N, "class": class_loss_N}, gap)

        return Compiled("surrogate", looking(decode, score), self._device)

    def _see(self, views_M3HW: Tensor) -> tuple[Tensor, Tensor | None]:
        """Features of the views (N, V, D), and the weighted distance of their statistics from natural images."""
        settings = self._settings
        gaps = []
        with self._autocast():
            if self._teacher_with_statistics is not None:
                feat_MD, gap = self._teacher_with_statistics.encode_image_with_statistics(views_M3HW)
                gaps.append(settings.bn_weight * gap)
            else:
                feat_MD = self._teacher.encode_image(views_M3HW)
            if self._natural is not None:
                gaps.append(settings.natural_weight * self._natural.gap(views_M3HW))
        return torch.unflatten(feat_MD.float(), 0, (-1, settings.views)), torch.stack(gaps).sum() if gaps else None

    def _autocast(self, wanted: bool = True) -> AbstractContextManager[Any]:
        is_wanted = wanted and self._is_half
        return torch.autocast(self._device.type, torch.bfloat16) if is_wanted else nullcontext()

    @torch.no_grad()
    def _sampled(self, sampler: Sampler, group: GroupSpec, watch: Watch | None) -> SynthesisedGroup:
        """Images that a model draws without inversion; losses and scores are computed in the same way."""
        x_N3HW = sampler.sample(group.texts, group.seeds, self._settings.image_size).to(self._device)
        if watch is not None:
            watch(x_N3HW)
        pixels_N3HW = _to_pixels(x_N3HW)
        feat_ND = self._features(pixels_N3HW)
        class_N = torch.tensor(group.class_ids, device=self._device)
        text_N = spherical_distance(feat_ND[:, None], group.targets_ND.to(self._device))
        class_loss_N = class_consistency(feat_ND[:, None], self._class_vectors_CD, class_N, self._scale)
        loss_N = self._settings.text_weight * text_N + self._settings.class_weight * class_loss_N
        return SynthesisedGroup(
            generator=sampler.name,
            members=list(range(len(group.seeds))),
            pixels_NHW3=_to_numpy(pixels_N3HW),
            losses=[round(value, 6) for value in loss_N.tolist()],
            scores=self._scores(feat_ND, group.class_ids),
            features_ND=feat_ND.half().cpu().numpy(),
        )

    @torch.no_grad()
    def _features(self, pixels_N3HW: Tensor) -> Tensor:
        """The teacher's unit vectors of the images as stored, after rounding."""
        parts = torch.split(pixels_N3HW, self._at_once)
        return torch.cat([self._teacher.encode_image(part.float() / 255) for part in parts])

    def _scores(self, feat_ND: Tensor, class_ids: Sequence[int]) -> list[float]:
        share_NC = logits(feat_ND, self._class_vectors_CD, self._scale).softmax(1)
        return [round(float(share_C[class_id]), 6) for share_C, class_id in zip(share_NC, class_ids, strict=True)]


def _to_pixels(x_N3HW: Tensor) -> Tensor:
    return (x_N3HW * 255).round().clamp(0, 255).to(torch.uint8)


def _to_numpy(pixels_N3HW: Tensor) -> NDArray[np.uint8]:
    pixels_NHW3: NDArray[np.uint8] = pixels_N3HW.permute(0, 2, 3, 1).contiguous().cpu().numpy()
    return pixels_NHW3
