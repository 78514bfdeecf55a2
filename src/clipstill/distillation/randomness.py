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


def batch_rows(step: int, count: int, batch: int, seed_parts: tuple[int | str, ...]) -> Tensor:
    """Numbers (batch,) of a step's samples: one permutation of ``count`` samples after another, cut into full batches.

    ``step`` counts from 0, and any step can come first. A batch larger than ``count`` holds samples twice.
    """
    first = step * batch
    epochs = range(first // count, (first + batch - 1) // count + 1)
    walk = torch.cat([_permutation(count, *seed_parts, "epoch", epoch) for epoch in epochs])
    start = first - epochs.start * count
    return walk[start : start + batch]


# A batch spans a few epochs at most.
@lru_cache(maxsize=8)
def _permutation(count: int, *seed_parts: int | str) -> Tensor:
    return torch.randperm(count, generator=generator_for(*seed_parts))
