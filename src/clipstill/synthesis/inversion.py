"""The loop: latents of a group are optimised at one resolution, as many images at once as there are slots.

Where nothing couples the images, an image leaves its slot when it has settled and the next one enters, so that the
device stays full; each image's path depends on its own seed and steps alone. Where a common statistic couples them, all
members are at work from the first step to the last.

Shapes: G images of the group, S of them at work, V views, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from clipstill.core.protocols import Generator
from clipstill.core.seeds import seed_for
from clipstill.synthesis.adam import SlotAdam
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.synthesis.views import ViewSchedule

# An image that became no number begins again from another seed, each time with half the step, this many times.
RESTARTS = 2
# Weight of the newest step in the running mean by which an image is judged: views make single losses jump.
_NEWEST = 0.2
# The least relative fall of that mean that counts as progress.
_PROGRESS = 0.01


@dataclass(frozen=True)
class Losses:
    """Of the images at work, at one step.

    Attributes:
        own_S: each image's objective.
        parts: the same by term, for the history.
        margin_S: the teacher's probability of the image's class less that of the likeliest other, in [-1, 1].
        gap: weighted distance of their common statistics from natural ones; None where nothing couples them.
    """

    own_S: Tensor
    parts: dict[str, Tensor]
    margin_S: Tensor
    gap: Tensor | None


class Score(Protocol):
    """What the loop asks of the teacher."""

    def __call__(self, views_M3HW: Tensor, x_S3HW: Tensor, latents: Sequence[Tensor], members_S: Tensor) -> Losses:
        """The losses of images at work.

        Args:
            views_M3HW: (S * V, 3, H, W).
            x_S3HW: the images themselves.
            latents: that they were decoded from.
            members_S: which image of the group each is.
        """
        ...


@dataclass
class Story:
    """What happened to the images of a group.

    Attributes:
        losses: last value of each image's own objective; not a number before its first step.
        steps: that each image took.
        restarts: how often each began again.
        dropped: images that could not be made.
        terms: names of what is summed.
        table: images that took each step, and below it the sum of each term over them, by step; on the device.
    """

    losses: list[float]
    steps: list[int]
    restarts: list[int]
    dropped: set[int] = field(default_factory=set)
    terms: list[str] = field(default_factory=list)
    table: Tensor | None = None

    @classmethod
    def of(cls, images: int) -> Story:
        """Nothing has happened yet."""
        return cls([math.nan] * images, [0] * images, [0] * images)


class Inversion:
    """One resolution of one group.

    Args:
        generator: that the latents are of.
        score: the teacher's judgement.
        views: of all members and all steps.
        seeds: one a member.
        settings: of the synthesis.
        decode: the generator's, perhaps compiled or in half precision.
        size: side of the images in pixels.
        start: step that this resolution begins at.
        stop: step that it ends before.
        slots: most members at work at once; all of them where they are coupled.
        coupled: whether a common statistic couples the members.
        watch: told of the members and images at work, once a step.
    """

    def __init__(
        self,
        generator: Generator,
        score: Score,
        views: ViewSchedule,
        seeds: Sequence[int],
        settings: SynthesisSettings,
        decode: Callable[[Sequence[Tensor]], Tensor],
        size: int,
        start: int,
        stop: int,
        slots: int,
        coupled: bool,
        watch: Callable[[Sequence[int], Tensor], None] | None = None,
    ) -> None:
        self._generator, self._score, self._views, self._seeds = generator, score, views, list(seeds)
        self._settings, self._decode = settings, decode
        self._size, self._start, self._stop, self._slots, self._coupled = size, start, stop, slots, coupled
        self._watch = watch
        share_T = torch.arange(settings.steps, device=views.device) / settings.steps
        lr_T = 0.1 + 0.9 * (1 + torch.cos(math.pi * share_T)) / 2
        self._lr_T = settings.lr * generator.lr_factor * lr_T

    def run(self, latents: list[Tensor], story: Story) -> list[Tensor]:
        """Optimise the latents of the whole group; those of dropped members are of no use.

        Args:
            latents: first dimension G; not changed.
            story: what happened at earlier resolutions; added to.

        Returns:
            The latents that came out, in the same order.
        """
        finished = [latent.clone() for latent in latents]
        waiting = [member for member in range(len(self._seeds)) if member not in story.dropped]
        members, waiting = waiting[: self._slots], waiting[self._slots :]
        if not members:
            return finished
        work = _Work(members, [latent[members].clone() for latent in latents], self._start)
        while work.members:
            failed = self._step(work, story)
            self._begin_again(work, story, failed)
            leaving = [slot for slot in range(len(work.members)) if self._is_done(work, slot, story)]
            if leaving:
                for slot in leaving:
                    for latent, at_work in zip(finished, work.latents, strict=True):
                        latent[work.members[slot]] = at_work[slot]
                    story.steps[work.members[slot]] = work.steps[slot]
                entering, waiting = waiting[: len(leaving)], waiting[len(leaving) :]
                work.replace(leaving, entering, latents, self._start)
        return finished

    def _step(self, work: _Work, story: Story) -> list[int]:
        """One step of everything at work; the slots whose image is no number any more."""
        members_S, steps_S = work.members_S, work.steps_S
        latents = [latent.detach().requires_grad_(True) for latent in work.latents]
        x_S3HW = self._decode(latents)
        # A broken image would break the statistics that it shares with its neighbours: they see grey in its place.
        fine_S = torch.isfinite(x_S3HW.detach()).flatten(1).all(1)
        x_S3HW = torch.where(fine_S.view(-1, 1, 1, 1), x_S3HW, 0.5)
        losses = self._score(self._views(x_S3HW, members_S, steps_S), x_S3HW, latents, members_S)
        # Summed, not averaged: an image's step does not depend on how many neighbours it has.
        total = losses.own_S.sum()
        if losses.gap is not None:
            total = total + len(work.members) * losses.gap
        gradients = torch.autograd.grad(total, latents)
        fine_S = fine_S & torch.isfinite(losses.own_S.detach())
        for gradient in gradients:
            fine_S = fine_S & torch.isfinite(gradient).flatten(1).all(1)
        clean = [torch.where(fine_S.view(-1, *[1] * (gradient.ndim - 1)), gradient, 0.0) for gradient in gradients]
        work.adam.step_(work.latents, clean, work.slowness_S * self._lr_T[steps_S])
        self._generator.project_(work.latents)
        self._note(story, losses, steps_S, fine_S)
        work.advance()
        # The one moment of a step at which the processor waits for the device.
        own, margin, fine = torch.stack(
            [losses.own_S.detach().float(), losses.margin_S.float(), fine_S.float()]
        ).tolist()
        for slot, member in enumerate(work.members):
            story.losses[member] = own[slot]
            work.judge(slot, own[slot], margin[slot])
        if self._watch is not None:
            self._watch(work.members, x_S3HW.detach())
        return [slot for slot, is_fine in enumerate(fine) if not is_fine]

    def _note(self, story: Story, losses: Losses, steps_S: Tensor, fine_S: Tensor) -> None:
        parts = dict(losses.parts)
        whole_S = losses.own_S
        if losses.gap is not None:
            parts["natural"] = losses.gap.expand_as(whole_S)
            whole_S = whole_S + losses.gap
        parts["loss"] = whole_S
        if story.table is None:
            story.table = torch.zeros(len(parts) + 1, self._settings.steps, device=steps_S.device)
            story.terms = list(parts)
        value_PS = torch.stack([torch.ones_like(whole_S), *parts.values()]).detach().float()
        story.table.index_add_(1, steps_S, torch.where(fine_S, value_PS, 0.0))

    def _begin_again(self, work: _Work, story: Story, failed: Sequence[int]) -> None:
        for slot in failed:
            member = work.members[slot]
            story.restarts[member] += 1
            if story.restarts[member] > RESTARTS:
                story.dropped.add(member)
            seed = seed_for(self._seeds[member], "again", story.restarts[member])
            fresh = self._generator.init([seed], self._size)
            for latent, new in zip(work.latents, fresh, strict=True):
                latent[slot] = new[0]
            work.slowness_S[slot] *= 0.5
            if not self._coupled:
                work.steps[slot] = self._start
        if failed:
            work.adam.reset_(failed)
            work.upload()

    def _is_done(self, work: _Work, slot: int, story: Story) -> bool:
        return work.steps[slot] >= self._stop or (work.members[slot] in story.dropped and not self._coupled)


class _Work:
    """What is in the slots.

    Attributes:
        members: which image of the group is in each slot.
        latents: of them, first dimension S.
        steps: that each has behind it, coarser resolutions included.
        members_S, steps_S: the same two on the device, sent there only when other images come in.
        slowness_S: factor of the step size, halved by each restart.
        adam: its moments.
    """

    def __init__(self, members: list[int], latents: list[Tensor], start: int) -> None:
        self.members = list(members)
        self.latents = latents
        self.steps = [start] * len(members)
        self.slowness_S = torch.ones(len(members), device=latents[0].device)
        self.adam = SlotAdam(latents)
        self._means = [math.nan] * len(members)
        self._best = [math.inf] * len(members)
        self._since = [0] * len(members)
        self._margins = [-1.0] * len(members)
        self.upload()

    def upload(self) -> None:
        """Send the device what changed by more than a step."""
        self.members_S, self.steps_S = torch.tensor([self.members, self.steps], device=self.latents[0].device)

    def advance(self) -> None:
        """Everything at work has one more step behind it."""
        self.steps = [step + 1 for step in self.steps]
        self.steps_S = self.steps_S + 1

    def judge(self, slot: int, loss: float, margin: float) -> None:
        """Take note of one step of one image."""
        mean = self._means[slot]
        self._means[slot] = loss if math.isnan(mean) else mean + _NEWEST * (loss - mean)
        self._margins[slot] = margin
        if self._means[slot] < self._best[slot] * (1 - _PROGRESS):
            self._best[slot], self._since[slot] = self._means[slot], 0
        else:
            self._since[slot] += 1

    def replace(self, leaving: Sequence[int], entering: Sequence[int], latents: Sequence[Tensor], start: int) -> None:
        """Fill the first of the freed slots with those who wait, and close the others."""
        filled, closed = leaving[: len(entering)], set(leaving[len(entering) :])
        for slot, member in zip(filled, entering, strict=True):
            self.members[slot], self.steps[slot] = member, start
            self.slowness_S[slot] = 1.0
            self._means[slot], self._best[slot], self._since[slot] = math.nan, math.inf, 0
            for at_work, latent in zip(self.latents, latents, strict=True):
                at_work[slot] = latent[member]
        if filled:
            self.adam.reset_(filled)
        if closed:
            kept = [slot for slot in range(len(self.members)) if slot not in closed]
            rows = torch.tensor(kept, dtype=torch.long, device=self.latents[0].device)
            self.latents = [latent[rows] for latent in self.latents]
            self.slowness_S = self.slowness_S[rows]
            self.adam.keep(rows)
            for name in ("members", "steps", "_means", "_best", "_since", "_margins"):
                values = getattr(self, name)
                setattr(self, name, [values[slot] for slot in kept])
        self.upload()
