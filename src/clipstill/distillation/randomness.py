"""Random numbers of training: every step has its own seed, so a resumed run needs no stored generator state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

import torch
from torch import Tensor

from clipstill.core.seeds import generator_for, seed_for


@contextmanager
def borrowed_generator(*parts: int | str) -> Iterator[None]:
    """Seed torch's global CPU generator with ``seed_for(*parts)``, and restore it at the end.

    This is for code that draws from no other generator: kornia, and dropout inside a student.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_for(*parts))
        yield


class SampleOrder:
    """An endless walk over samples: one permutation after another, cut into full batches.

    A batch larger than ``count`` holds samples twice. No state is kept from step to step.
    """

    def __init__(self, count: int, batch: int, *parts: int | str) -> None:
        self._count, self._batch = count, batch
        # A batch spans a few epochs at most.
        self._permutation = lru_cache(maxsize=8)(
            lambda epoch: torch.randperm(count, generator=generator_for(*parts, "epoch", epoch))
        )

    def indices(self, step: int) -> Tensor:
        """Numbers of the samples of a step, int64; ``step`` counts from 0."""
        first = step * self._batch
        epochs = range(first // self._count, (first + self._batch - 1) // self._count + 1)
        walk = torch.cat([self._permutation(epoch) for epoch in epochs])
        start = first - epochs.start * self._count
        return walk[start : start + self._batch]
