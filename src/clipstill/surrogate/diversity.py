"""How many different images a class holds, as its teacher sees them, and which of them are nearly the same.

Cosines are taken from the middle of the set, the mean over its classes' means. In CLIP's space all images lie in one
narrow cone, whose axis would hide how they differ; teachers whose vectors are centred already lose next to nothing. A
class's own mean must stay: without it a class of look-alikes is as spread in direction as any other.

Shapes: N images, M of one class, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn.functional import normalize

# Vectors are stored in float16: nearer to the middle than this, they differ from it by rounding alone.
_ROUNDING = 1e-3
# Eigenvalues below this add nothing to the entropy.
_NOTHING = 1e-12


def by_class(feat_ND: Tensor, class_id_N: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The images class by class, so that no second copy of all vectors is held.

    Args:
        feat_ND: Unit vectors.
        class_id_N: Class of each image, int64.

    Yields:
        Class, places_M of its images, and their unit vectors (M, D) as seen from the middle of the set, float64. With
        one class only, its mean is no middle of a set, and the vectors stay as they are.
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
        # An image in the middle has no direction from there; its own is as good as any, and the same for equal images.
        away_M1 = moved_MD.norm(dim=1, keepdim=True) > _ROUNDING
        yield class_id, places_M, normalize(torch.where(away_M1, moved_MD, feat_MD), dim=1)


def effective_number(unit_MD: Tensor) -> float:
    """The Vendi score: how many entirely different images would be as diverse as these are.

    The exponential of the Shannon entropy of the eigenvalues of K / M, where K holds the cosines of all pairs.

    Args:
        unit_MD: Unit vectors, at least one.

    Returns:
        1 if all are the same, M if all are orthogonal.

    Source: Friedman and Dieng, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning", TMLR 2023.

    Example:
        >>> round(effective_number(torch.eye(4)), 6)
        4.0
    """
    unit_MD = unit_MD.double()
    # The same eigenvalues, zeros aside, from the smaller of the two products.
    product = unit_MD @ unit_MD.T if len(unit_MD) <= unit_MD.shape[1] else unit_MD.T @ unit_MD
    share = torch.linalg.eigvalsh(product / len(unit_MD))
    share = share[share > _NOTHING]
    return float(torch.exp(-(share * share.log()).sum()))


def effective_numbers(feat_ND: Tensor, class_id_N: Tensor, classes: int) -> list[float]:
    """The effective number of images of each class, 0 for a class without an image.

    Args:
        feat_ND: Unit vectors.
        class_id_N: Class of each image, int64.
        classes: Number of classes.
    """
    numbers = [0.0] * classes
    for class_id, _, unit_MD in by_class(feat_ND, class_id_N):
        numbers[class_id] = effective_number(unit_MD)
    return numbers


def near_duplicates(unit_MD: Tensor, cosine: float) -> Tensor:
    """The pairs of images that are nearly the same: bool (M, M), symmetric, false on the diagonal.

    Args:
        unit_MD: Unit vectors, see ``by_class``.
        cosine: Least cosine of two images that are nearly the same; 1 finds none.
    """
    if cosine >= 1:
        return torch.zeros(len(unit_MD), len(unit_MD), dtype=torch.bool)
    return (unit_MD @ unit_MD.T >= cosine).fill_diagonal_(False)
