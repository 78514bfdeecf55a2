"""Random numbers of training: every step has its own seed, so that a resumed run needs no stored generator state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from clipstill.core.seeds import generator_for, seed_for


@contextmanager
def borrowed_generator(*parts: int | str) -> Iterator[None]:
    """Seed torch's global CPU generator by ``seed_for(*parts)`` and give it back as it was.

    For code that can draw from nothing else: kornia, and dropout inside a student.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(*parts))
        yield


class SampleOrder:
    """An endless walk over n samples: one permutation after another, cut into batches that are always full.

    Any step can be asked for; nothing is carried from step to step.

    Args:
        count: number of samples, at least 1.
        batch: samples a step; a batch may hold a sample twice where it is larger than ``count``.
        parts: what the permutations are seeded by.
    """

    def __init__(self, count: int, batch: int, *parts: int | str) -> None:
        self.count = count
        self.batch = batch
        self.parts = parts
        self._epochs: dict[int, Tensor] = {}

    def indices(self, step: int) -> Tensor:
        """LongTensor (batch,) of the sample numbers of a step, counted from 0."""
        first = step * self.batch
        last = first + self.batch - 1
        epochs = range(first // self.count, last // self.count + 1)
        self._epochs = {epoch: self._permutation(epoch) for epoch in epochs}
        walk = torch.cat([self._epochs[epoch] for epoch in epochs])
        start = first - epochs.start * self.count
        return walk[start : start + self.batch]

    def _permutation(self, epoch: int) -> Tensor:
        known = self._epochs.get(epoch)
        if known is not None:
            return known
        return torch.randperm(self.count, generator=generator_for(*self.parts, "epoch", epoch))
