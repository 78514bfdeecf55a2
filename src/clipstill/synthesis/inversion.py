"""The optimisation of the latents of a group's images, from a coarse size to the final one.

Shapes: N images, H x W pixels, T steps, P terms of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from clipstill.core.protocols import Generator
from clipstill.core.seeds import seed_for
from clipstill.synthesis.settings import SynthesisSettings

# An image with NaN or infinite values restarts from another seed with half the step size, at most this many times.
RESTARTS = 2
# History entries per group: enough for a smooth curve.
_HISTORY_POINTS = 20
_EPS = 1e-8

# Called at each step with the images (N, 3, H, W).
Watch = Callable[[Tensor], None]
Decode = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True)
class Losses:
    """Losses of one step.

    Attributes:
        own_N: Objective of each image.
        terms: Terms of ``own_N`` by name, for the history.
        gap: Weighted distance of the images' common statistics from natural ones; None without such a term.
    """

    own_N: Tensor
    terms: dict[str, Tensor]
    gap: Tensor | None


# Images and step (from 0) -> losses.
Score = Callable[[Tensor, int], Losses]


@dataclass
class History:
    """Losses and restarts of the images of a group.

    Attributes:
        losses: Last objective of each image.
        restarts: Number of restarts of each image.
        terms: Names of the rows of ``sums_PT`` after the first.
        sums_PT: Number of images in each step, then the sum of each term over them; on the device.
    """

    losses: list[float] = field(default_factory=list)
    restarts: list[int] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)
    sums_PT: Tensor | None = None

    @property
    def finished(self) -> list[int]:
        """Positions of the images that did not fail."""
        pairs = enumerate(zip(self.losses, self.restarts, strict=True))
        return [n for n, (loss, restarts) in pairs if restarts <= RESTARTS and math.isfinite(loss)]

    def record(self, losses: Losses, finite_N: Tensor, step: int, steps: int) -> None:
        """Add one step of the images that are finite."""
        whole_N = losses.own_N
        terms = dict(losses.terms)
        if losses.gap is not None:
            terms["natural"] = losses.gap.expand_as(whole_N)
            whole_N = whole_N + losses.gap
        terms["loss"] = whole_N
        if self.sums_PT is None:
            self.terms = list(terms)
            self.sums_PT = torch.zeros(len(terms) + 1, steps, device=whole_N.device)
        value_PN = torch.stack([torch.ones_like(whole_N), *terms.values()]).detach().float()
        self.sums_PT[:, step] += torch.where(finite_N, value_PN, 0.0).sum(1)

    def extend(self, other: History) -> None:
        """Append the images of another part of the same group."""
        self.losses += other.losses
        self.restarts += other.restarts
        self.terms = other.terms
        self.sums_PT = other.sums_PT if self.sums_PT is None or other.sums_PT is None else self.sums_PT + other.sums_PT

    def means(self) -> list[dict[str, float]]:
        """Mean of each term over the images, for some of the steps."""
        if self.sums_PT is None:
            return []
        counts, *sums = self.sums_PT.tolist()
        taken = [step for step, count in enumerate(counts) if count > 0]
        every = max(1, len(counts) // _HISTORY_POINTS)
        return [
            {"step": step, **{name: total[step] / counts[step] for name, total in zip(self.terms, sums, strict=True)}}
            for step in taken
            if step % every == 0 or step == taken[-1]
        ]


def invert(
    generator: Generator,
    seeds: Sequence[int],
    settings: SynthesisSettings,
    *,
    decode: Decode,
    score: Score,
    watch: Watch | None = None,
) -> tuple[list[Tensor], History]:
    """Optimise the latents of some images, one per seed.

    Args:
        generator: Generator of the latents.
        seeds: One seed per image.
        settings: Settings of the synthesis.
        decode: ``generator.decode``, perhaps in half precision.
        score: Losses of the images at a step.
        watch: Called at each step with the images.

    Returns:
        The final latents, first dimension N, and the history, whose ``finished`` names the images that did not fail.
    """
    history = History([math.nan] * len(seeds), [0] * len(seeds))
    latents: list[Tensor] = []
    for size, start, stop in settings.resolutions(generator.stride):
        if latents:
            latents = generator.resize(latents, size)
            generator.project_(latents)
        else:
            latents = generator.init(seeds, size)
        adam = _Adam(latents, settings.betas)
        lr_T = learning_rates(settings, generator.lr_factor).to(latents[0].device)
        for step in range(start, stop):
            leaves = [latent.detach().requires_grad_() for latent in latents]
            x_N3HW = decode(leaves)
            # Grey replaces a broken image, which would spoil the statistics that it shares with the others.
            finite_N = _are_finite(x_N3HW)
            x_N3HW = torch.where(_per_image(finite_N, x_N3HW), x_N3HW, 0.5)
            losses = score(x_N3HW, step)
            # A sum, not a mean, so that an image's step does not depend on the number of images.
            total = losses.own_N.sum()
            if losses.gap is not None:
                total = total + len(seeds) * losses.gap
            gradients = torch.autograd.grad(total, leaves)
            for value in (losses.own_N[:, None], *gradients):
                finite_N = finite_N & _are_finite(value)
            adam.step_(latents, [torch.where(_per_image(finite_N, each), each, 0.0) for each in gradients], lr_T[step])
            generator.project_(latents)
            history.record(losses, finite_N, step, settings.steps)
            # Only here does the processor wait for the device.
            history.losses, finite = torch.stack([losses.own_N.detach().float(), finite_N.float()]).tolist()
            for n in (n for n, is_finite in enumerate(finite) if not is_finite):
                history.restarts[n] += 1
                fresh = generator.init([seed_for(seeds[n], "again", history.restarts[n])], size)
                for latent, new in zip(latents, fresh, strict=True):
                    latent[n] = new[0]
                adam.restart(n)
            if watch is not None:
                watch(x_N3HW.detach())
    return latents, history


def learning_rates(settings: SynthesisSettings, factor: float) -> Tensor:
    """Learning rate of each step (T,), ``factor`` times that of pixels."""
    lr = settings.lr * factor
    if settings.schedule == "constant":
        return torch.full((settings.steps,), lr)
    share_T = torch.arange(settings.steps) / settings.steps
    return lr * (0.1 + 0.9 * (1 + torch.cos(math.pi * share_T)) / 2)


class _Adam:
    """Adam over stacked latents. Each image has its own age and step size, so that it can restart alone."""

    def __init__(self, latents: Sequence[Tensor], betas: tuple[float, float]) -> None:
        self._betas = betas
        self._first = [torch.zeros_like(latent) for latent in latents]
        self._second = [torch.zeros_like(latent) for latent in latents]
        self._age_N = torch.zeros(len(latents[0]), device=latents[0].device)
        self._slowness_N = torch.ones_like(self._age_N)

    @torch.no_grad()
    def step_(self, latents: Sequence[Tensor], gradients: Sequence[Tensor], lr: Tensor) -> None:
        beta1, beta2 = self._betas
        self._age_N += 1
        rate_N = self._slowness_N * lr / (1 - beta1**self._age_N)
        correction_N = (1 - beta2**self._age_N).sqrt()
        for latent, gradient, first, second in zip(latents, gradients, self._first, self._second, strict=True):
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            size = second.sqrt().div_(_per_image(correction_N, latent)).add_(_EPS)
            latent.addcmul_(first / size, _per_image(rate_N, latent), value=-1)

    def restart(self, n: int) -> None:
        """Reset the state of one image and halve its step size."""
        for state in (*self._first, *self._second, self._age_N):
            state[n] = 0
        self._slowness_N[n] *= 0.5


def _are_finite(value: Tensor) -> Tensor:
    """Whether all values of each image are finite: bool (N,)."""
    return torch.isfinite(value.detach()).flatten(1).all(1)


def _per_image(value_N: Tensor, like: Tensor) -> Tensor:
    return value_N.view(-1, *[1] * (like.ndim - 1))
