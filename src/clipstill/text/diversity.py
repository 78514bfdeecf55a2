"""Measures how different the prompts of a class are, and whether they still mean their class.

Shapes: N prompts, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.progress import percent


@dataclass(frozen=True)
class Diversity:
    """Angles between prompt vectors in degrees, and the share of prompts that are nearest to their class."""

    # Mean angle of all pairs of prompts of one class, averaged over classes; None without a pair.
    within_class: float | None
    across_styles: float | None  # The same over pairs of different styles only.
    class_accuracy: float  # Share of prompts whose nearest class vector is that of their class, in [0, 1].
    within_class_each: tuple[float | None, ...]  # ``within_class`` of each class.
    across_styles_each: tuple[float | None, ...]  # ``across_styles`` of each class.
    class_accuracy_each: tuple[float | None, ...]  # ``class_accuracy`` of each class; None without prompts.

    def line(self) -> str:
        """A summary."""
        within, across = (
            "no pair" if angle is None else f"{angle:.1f} degrees" for angle in (self.within_class, self.across_styles)
        )
        share = f"{percent(self.class_accuracy)} nearest to their own class"
        return f"mean angle {within} within a class, {across} across its styles, {share}"


def diversity(
    targets_ND: Tensor, class_ids: Sequence[int], style_ids: Sequence[int], class_vectors_CD: Tensor
) -> Diversity:
    """Measure at least one prompt; all vectors are unit vectors."""
    class_N, style_N = torch.tensor(class_ids), torch.tensor(style_ids)
    is_right_N = (targets_ND @ class_vectors_CD.T).argmax(-1) == class_N
    of_class = [class_N == class_id for class_id in range(len(class_vectors_CD))]
    pairs = [_pairs(targets_ND[mine_N], style_N[mine_N]) for mine_N in of_class]
    within = tuple(_mean(angles) for angles, _ in pairs)
    across = tuple(_mean(angles[differ]) for angles, differ in pairs)
    return Diversity(
        within_class=_mean_known(within),
        across_styles=_mean_known(across),
        class_accuracy=float(is_right_N.double().mean()),
        within_class_each=within,
        across_styles_each=across,
        class_accuracy_each=tuple(_mean(is_right_N[mine_N]) for mine_N in of_class),
    )


def _pairs(vectors_MD: Tensor, style_M: Tensor) -> tuple[Tensor, Tensor]:
    """The angle of each pair in degrees, and whether their styles differ."""
    # The cosine of a small angle needs double precision.
    unit_MD = normalize(vectors_MD.double(), dim=-1)
    first, second = torch.triu_indices(len(vectors_MD), len(vectors_MD), offset=1)
    cosine = (unit_MD @ unit_MD.T)[first, second].clamp(-1, 1)
    return cosine.acos().rad2deg(), style_M[first] != style_M[second]


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
