"""Which synthetic images are worth teaching with.

Shapes: N images, M of one class.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError
from clipstill.surrogate.dataset import SurrogateSet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Curation:
    """What becomes of each image.

    Attributes:
        keep_N: bool, true for the images that teach.
        low_score_N: bool, true for those that are left out since the teacher likes them too little.
        duplicate_N: bool, true for those that are left out since a better one looks the same.
        pairs: class -> how many pairs of its images look the same, low scores among them; classes without are absent.
    """

    keep_N: Tensor
    low_score_N: Tensor
    duplicate_N: Tensor
    pairs: dict[int, int]


def curate(surrogate: SurrogateSet, min_score: float = 0.5, duplicate_cosine: float = 1.0) -> Curation:
    """Leave out the images that the teacher likes far less than the others of their class, and near-duplicates.

    An image stays when its score is at least ``min_score`` times the median score of its class. The measure is
    relative, since a class that its teacher finds hard has low scores throughout. Of those that stay, from the best
    score down, each one goes that is nearly the same as one before it. At least half of each class stays: where there
    are more duplicates than that, the best of them.

    Args:
        surrogate: with features, unless ``duplicate_cosine`` is 1.
        min_score: in [0, 1]; 0 keeps every score.
        duplicate_cosine: in (0, 1]; from this cosine on, seen from the middle of the set, two images of a class are
            nearly the same; 1 keeps them all.

    Raises:
        ConfigError: a share is outside its range.
        ArtifactError: the set has no features, and they are needed.
    """
    import torch

    if not 0 <= min_score <= 1:
        raise ConfigError(f"min_score is {min_score}; it must lie between 0 and 1.")
    if not 0 < duplicate_cosine <= 1:
        raise ConfigError(f"duplicate_cosine is {duplicate_cosine}; it must lie above 0, up to 1.")
    scores: dict[int, list[float]] = defaultdict(list)
    for record in surrogate.records:
        scores[record.class_id].append(record.score)
    threshold = {class_id: min_score * median(of_class) for class_id, of_class in scores.items()}
    low_score_N = torch.tensor(
        [record.score < threshold[record.class_id] for record in surrogate.records], dtype=torch.bool
    )
    duplicate_N = torch.zeros_like(low_score_N)
    pairs: dict[int, int] = {}
    if duplicate_cosine < 1:
        duplicate_N, pairs = _duplicates(surrogate, low_score_N, duplicate_cosine)
    return Curation(~(low_score_N | duplicate_N), low_score_N, duplicate_N, pairs)


def _duplicates(surrogate: SurrogateSet, low_score_N: Tensor, cosine: float) -> tuple[Tensor, dict[int, int]]:
    import torch

    from clipstill.surrogate.diversity import by_class, near_duplicates

    duplicate_N = torch.zeros_like(low_score_N)
    pairs: dict[int, int] = {}
    for class_id, places_M, unit_MD in by_class(surrogate.features_ND, surrogate.class_id):
        same_MM = near_duplicates(unit_MD, cosine)
        if not same_MM.any():
            continue
        pairs[class_id] = int(same_MM.sum()) // 2
        places = places_M.tolist()
        # The sort is stable: of equal scores the earlier image is the better one.
        best_first = sorted(range(len(places)), key=lambda row: -surrogate.records[places[row]].score)
        kept: list[int] = []
        dropped: list[int] = []
        for row in best_first:
            if not low_score_N[places[row]]:
                (dropped if bool(same_MM[row, kept].any()) else kept).append(row)
        spared = max(0, math.ceil(len(places) / 2) - len(kept))
        for row in dropped[spared:]:
            duplicate_N[places[row]] = True
    return duplicate_N, pairs
