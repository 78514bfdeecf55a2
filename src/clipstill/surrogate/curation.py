"""Which synthetic images are worth teaching with.

Shapes: N images.
"""

from __future__ import annotations

from collections import defaultdict
from statistics import median
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError
from clipstill.surrogate.dataset import SurrogateSet

if TYPE_CHECKING:
    from torch import Tensor


def keep_mask(surrogate: SurrogateSet, min_score: float = 0.5) -> Tensor:
    """Drop the images that the teacher likes far less than the others of their class.

    An image stays when its score is at least ``min_score`` times the median score of its class. The measure is
    relative, since a class that its teacher finds hard has low scores throughout; at least half of each class stays.

    Args:
        min_score: in [0, 1]; 0 keeps everything.

    Returns:
        mask_N: bool, true for the images that stay.

    Raises:
        ConfigError: ``min_score`` is outside [0, 1].
    """
    import torch

    if not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is {min_score}; it must lie between 0 and 1.")
    scores: dict[int, list[float]] = defaultdict(list)
    for record in surrogate.records:
        scores[record.class_id].append(record.score)
    threshold = {class_id: min_score * median(of_class) for class_id, of_class in scores.items()}
    return torch.tensor([record.score >= threshold[record.class_id] for record in surrogate.records], dtype=torch.bool)
