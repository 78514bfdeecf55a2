"""Which synthetic images are worth teaching with.

Shapes: N images, M of one class.
"""

from __future__ import annotations

import math
from collections import defaultdict
from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from clipstill.surrogate.dataset import SurrogateSet

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Curation:
    """Bool masks of the images that teach, and of those that are left out for either reason.

    ``pairs`` counts the near-duplicate pairs of each class that has some, images with low scores included.
    """

    keep_N: Tensor
    low_score_N: Tensor
    duplicate_N: Tensor
    pairs: dict[int, int]


def curate(surrogate: SurrogateSet, min_score: float = 0.5, duplicate_cosine: float = 1.0) -> Curation:
    """Leave out images whose score is far below that of their class, and near-duplicates.

    An image stays if its score is at least ``min_score`` times the median score of its class. The measure is relative
    because all scores are low in a class that is hard for the teacher. Then, from the best score down, each image goes
    that is nearly the same as a better one that stays. The best half of each class stays even if all are duplicates.

    Args:
        surrogate: Synthetic images.
        min_score: Share of the median score, in [0, 1]; 0 keeps every score.
        duplicate_cosine: Least cosine of two near-duplicates, from the centre of the set, in (0, 1]; 1 keeps all.
    """
    import torch

    scores: dict[int, list[float]] = defaultdict(list)
    for record in surrogate.records:
        scores[record.class_id].append(record.score)
    least = {class_id: min_score * median(of_class) for class_id, of_class in scores.items()}
    low_score_N = torch.tensor([record.score < least[record.class_id] for record in surrogate.records]).bool()
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
    for class_id, places_M, unit_MD in by_class(surrogate.features_ND, surrogate.class_id_N):
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
        duplicate_N[[places[row] for row in dropped[spared:]]] = True
    return duplicate_N, pairs
