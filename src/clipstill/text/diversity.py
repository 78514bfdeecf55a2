"""How different the prompts of a class are from each other, and whether they still mean their class.

Shapes: N prompts, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class Diversity:
    """Angles between prompt vectors in degrees, and the share of prompts that stay nearest to their class."""

    # Mean angle of all pairs of prompts of one class, averaged over classes; None without a pair.
    within_class: float | None
    across_styles: float | None  # The same over pairs of different styles only.
    class_accuracy: float  # Share of prompts whose nearest class vector is that of their class, in [0, 1].
    within_class_each: tuple[float | None, ...]  # ``within_class`` of each class.
    across_styles_each: tuple[float | None, ...]  # ``across_styles`` of each class.
    class_accuracy_each: tuple[float | None, ...]  # ``class_accuracy`` of each class; None without prompts.

    def line(self) -> str:
        """A summary in one line."""
        within, across = (
            "no pair" if angle is None else f"{angle:.1f} degrees" for angle in (self.within_class, self.across_styles)
        )
        share = f"{100 * self.class_accuracy:.1f} % nearest their own class"
        return f"{within} apart within a class, {across} across its styles, {share}"


def diversity(
    targets_ND: Tensor, class_ids: Sequence[int], style_ids: Sequence[int], class_vectors_CD: Tensor
) -> Diversity:
    """Measure a set of prompts.

    Args:
        targets_ND: Unit vectors of the prompts, at least one.
        class_ids: Class of each prompt, below C.
        style_ids: Style of each prompt.
        class_vectors_CD: Unit vectors of the classes.
    """
    class_N, style_N = torch.tensor(class_ids), torch.tensor(style_ids)
    is_right_N = (targets_ND @ class_vectors_CD.T).argmax(-1) == class_N
    within: list[float | None] = []
    across: list[float | None] = []
    accuracy: list[float | None] = []
    for class_id in range(len(class_vectors_CD)):
        mine_N = class_N == class_id
        angles, differ = _pairs(targets_ND[mine_N], style_N[mine_N])
        within.append(_mean(angles))
        across.append(_mean(angles[differ]))
        accuracy.append(_mean(is_right_N[mine_N]))
    return Diversity(
        within_class=_mean_known(within),
        across_styles=_mean_known(across),
        class_accuracy=float(is_right_N.double().mean()),
        within_class_each=tuple(within),
        across_styles_each=tuple(across),
        class_accuracy_each=tuple(accuracy),
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
