"""Random numbers of training: every step has its own seed, so that a resumed run needs no stored generator state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

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
    """An endless walk over samples: one permutation after another, cut into batches that are always full.

    Any step can be asked for; nothing is carried from step to step.

    Args:
        count: Number of samples, at least 1.
        batch: Samples per step; a batch larger than ``count`` holds samples twice.
        parts: Seed of the permutations.
    """

    def __init__(self, count: int, batch: int, *parts: int | str) -> None:
        self._count, self._batch = count, batch
        # A batch reaches over a few epochs at most.
        self._permutation = lru_cache(maxsize=8)(
            lambda epoch: torch.randperm(count, generator=generator_for(*parts, "epoch", epoch))
        )

    def indices(self, step: int) -> Tensor:
        """LongTensor (batch,) of the sample numbers of a step, counted from 0."""
        first = step * self._batch
        epochs = range(first // self._count, (first + self._batch - 1) // self._count + 1)
        walk = torch.cat([self._permutation(epoch) for epoch in epochs])
        start = first - epochs.start * self._count
        return walk[start : start + self._batch]
