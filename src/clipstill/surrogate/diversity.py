"""How many different images a class has for its teacher, and which images are nearly the same.

Vectors are centred at the mean over the class means: in CLIP's space all images lie in one narrow cone, whose axis
would hide their differences. Centred at its own mean, a class of look-alikes would seem as diverse as any other.

Shapes: N images, M of one class, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Vectors are stored in float16: those closer than this to the centre differ from it only by rounding.
_ROUNDING = 1e-3
# Eigenvalues below this add nothing to the entropy.
_NOTHING = 1e-12


def by_class(feat_ND: Tensor, class_id_N: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The images class by class, so that there is no second copy of all vectors.

    Yields:
        Class, positions (M,) of its images, and their centred unit vectors (M, D), float64. A single class is not
        centred, as its own mean is all there is.
    """
    present = torch.unique(class_id_N).tolist()
    middle_D = torch.zeros(feat_ND.shape[1], dtype=torch.float64)
    if len(present) > 1:
        for class_id in present:
            middle_D += feat_ND[class_id_N == class_id].double().mean(0) / len(present)
    for class_id in present:
        places_M = (class_id_N == class_id).nonzero().flatten()
        feat_MD = feat_ND[places_M].double()
        moved_MD = feat_MD - middle_D
        # An image at the centre has no direction from there, so its own vector is used.
        away_M1 = moved_MD.norm(dim=1, keepdim=True) > _ROUNDING
        yield class_id, places_M, normalize(torch.where(away_M1, moved_MD, feat_MD), dim=1)


def effective_number(unit_MD: Tensor) -> float:
    """The Vendi score: how many entirely different images would be as diverse as these.

    It is the exponential of the Shannon entropy of the eigenvalues of K / M, where K holds the cosines of all pairs.

    Args:
        unit_MD: Unit vectors, at least one.

    Returns:
        A number from 1, if all are the same, to M, if all are orthogonal.

    Source: Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", TMLR 2023.

    Example:
        >>> round(effective_number(torch.eye(4)), 6)
        4.0
    """
    unit_MD = unit_MD.double()
    # Both products have the same eigenvalues except zeros; use the smaller one.
    product = unit_MD @ unit_MD.T if len(unit_MD) <= unit_MD.shape[1] else unit_MD.T @ unit_MD
    share = torch.linalg.eigvalsh(product / len(unit_MD))
    share = share[share > _NOTHING]
    return float(torch.exp(-(share * share.log()).sum()))


def effective_numbers(feat_ND: Tensor, class_id_N: Tensor) -> dict[int, float]:
    """The effective number of images of each class that has some."""
    return {class_id: effective_number(unit_MD) for class_id, _, unit_MD in by_class(feat_ND, class_id_N)}


def near_duplicates(unit_MD: Tensor, cosine: float) -> Tensor:
    """The pairs of images whose cosine is at least ``cosine``: bool (M, M), symmetric, false on the diagonal."""
    return (unit_MD @ unit_MD.T >= cosine).fill_diagonal_(False)
