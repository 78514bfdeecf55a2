"""The optimisation of the latents of a group's images, from a coarse size to the final one.

On a GPU, the processor only puts work into the queue: whether an image broke is read every few steps, and the steps
since the last reading are taken again, one by one, in the rare case that one did. The result does not depend on it.

Shapes: N images, H x W pixels, T steps, P terms of the loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

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


class Losses(NamedTuple):
    """Losses of one step.

    Attributes:
        own_N: Objective of each image.
        terms: Terms of ``own_N`` by name, for the history.
        gap: Weighted distance of the images' common statistics from natural ones; None without such a term.
    """

    own_N: Tensor
    terms: dict[str, Tensor]
    gap: Tensor | None


class Seen(NamedTuple):
    """Images of one step, which of them are finite, their losses, and the sum that is minimised."""

    x_N3HW: Tensor
    finite_N: Tensor
    losses: Losses
    total: Tensor


# Images and the tensors of a step (views, targets) -> losses.
Score = Callable[[Tensor, Any], Losses]
# Latents and the tensors of a step -> what is seen. It reads nothing else that changes, so that it can be compiled.
Look = Callable[[Sequence[Tensor], Any], Seen]


class Step(NamedTuple):
    """What an optimiser's step needs: losses, images, which of them are finite, and a gradient for each latent."""

    seen: Seen
    finite_N: Tensor
    gradients: list[Tensor]


def looking(decode: Decode, score: Score) -> Look:
    """Decode latents and score the images."""

    def look(latents: Sequence[Tensor], inputs: Any) -> Seen:
        x_N3HW = decode(latents)
        # Grey replaces a broken image, which would spoil the statistics that it shares with the others.
        finite_N = _are_finite(x_N3HW)
        x_N3HW = torch.where(_per_image(finite_N, x_N3HW), x_N3HW, 0.5)
        losses = score(x_N3HW, inputs)
        # A sum, not a mean, so that an image's step does not depend on the number of images.
        total = losses.own_N.sum()
        if losses.gap is not None:
            total = total + len(x_N3HW) * losses.gap
        return Seen(x_N3HW, finite_N, losses, total)

    return look


def gradients_of(look: Look, latents: Sequence[Tensor], inputs: Any) -> Step:
    """Look at images and find the gradients of their latents, zeros for those that are not finite."""
    leaves = [latent.detach().requires_grad_() for latent in latents]
    seen = look(leaves, inputs)
    gradients = torch.autograd.grad(seen.total, leaves)
    finite_N = seen.finite_N
    for value in (seen.losses.own_N[:, None], *gradients):
        finite_N = finite_N & _are_finite(value)
    return Step(seen, finite_N, [torch.where(_per_image(finite_N, each), each, 0.0) for each in gradients])


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
        """Set one step from the images that are finite; what fills the batch up after them does not count."""
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
        count = len(self.restarts)
        self.sums_PT[:, step] = torch.where(finite_N, value_PN, 0.0)[:, :count].sum(1)

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


class Inversion:
    """The latents of some images, one per seed, on their way.

    Args:
        generator: Generator of the latents.
        seeds: One seed per image.
        settings: Settings of the synthesis.
        step_of: Losses and gradients of latents at a step, of images of a side in pixels.
        count: Number of images that are wanted; more seeds fill the batch up to a shape.
        read_every: Steps between two readings of which images are finite.
        watch: Called at each step with the images.
    """

    def __init__(
        self,
        generator: Generator,
        seeds: Sequence[int],
        settings: SynthesisSettings,
        *,
        step_of: Callable[[Sequence[Tensor], int, int], Step],
        count: int,
        read_every: int,
        watch: Watch | None = None,
    ) -> None:
        self._generator, self._seeds, self._settings = generator, seeds, settings
        self._step_of, self._count, self._read_every, self._watch = step_of, count, read_every, watch
        self.history = History([], [0] * count)
        self._latents: list[Tensor] = []
        self._own_N = torch.full((len(seeds),), math.nan)

    def run(self) -> tuple[list[Tensor], History]:
        """Take all steps.

        Returns:
            The final latents, first dimension N, and the history, whose ``finished`` names the images that did not
            fail.
        """
        generator, settings = self._generator, self._settings
        for size, start, stop in settings.resolutions(generator.stride):
            self._size = size
            if self._latents:
                self._latents = generator.resize(self._latents, size)
                generator.project_(self._latents)
            else:
                self._latents = generator.init(self._seeds, size)
            self._adam = _Adam(self._latents, settings.betas)
            self._lr_T = learning_rates(settings, generator.lr_factor).to(self._latents[0].device)
            self._advance(start, stop, self._read_every)
        self.history.losses = self._own_N[: self._count].float().tolist()
        return [latent[: self._count] for latent in self._latents], self.history

    def _advance(self, start: int, stop: int, read_every: int) -> None:
        for first in range(start, stop, read_every):
            end = min(first + read_every, stop)
            changing = [*self._latents, *self._adam.state]
            kept = [each.clone() for each in changing] if end - first > 1 else []
            finite = torch.stack([self._take_step(step) for step in range(first, end)])[:, : self._count].all(0)
            # Only here does the processor wait for the device.
            broken = [n for n, is_finite in enumerate(finite.tolist()) if not is_finite]
            if broken and kept:
                for each, before in zip(changing, kept, strict=True):
                    each.copy_(before)
                self._advance(first, end, read_every=1)
            elif broken:
                self._restart(broken)

    def _take_step(self, step: int) -> Tensor:
        """Take one step; returns which images are finite."""
        taken = self._step_of(self._latents, step, self._size)
        self._adam.step_(self._latents, taken.gradients, self._lr_T[step])
        self._generator.project_(self._latents)
        self.history.record(taken.seen.losses, taken.finite_N, step, self._settings.steps)
        self._own_N = taken.seen.losses.own_N.detach()
        if self._watch is not None:
            self._watch(taken.seen.x_N3HW[: self._count].detach())
        return taken.finite_N

    def _restart(self, broken: Sequence[int]) -> None:
        """Begin some images again, each from another seed."""
        for n in broken:
            self.history.restarts[n] += 1
            fresh = self._generator.init([seed_for(self._seeds[n], "again", self.history.restarts[n])], self._size)
            for latent, new in zip(self._latents, fresh, strict=True):
                latent[n] = new[0]
            self._adam.restart(n)


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

    @property
    def state(self) -> list[Tensor]:
        """All that a step changes besides the latents."""
        return [*self._first, *self._second, self._age_N, self._slowness_N]

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
