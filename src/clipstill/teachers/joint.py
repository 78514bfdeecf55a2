"""Several vectors as one: how heads become a teacher, and teachers an ensemble."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor


def join(vectors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Unit vectors -> one unit vector, so that cosines become the parts' cosines, each by its share.

    Args:
        vectors: (N, D1), (N, D2) and so on.
        shares: one a part; they sum to 1.

    Returns:
        (N, D1 + D2 + ...).
    """
    parts = [math.sqrt(share) * vector for vector, share in zip(vectors, shares, strict=True)]
    return torch.cat(parts, dim=-1)
