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
    """Angles between prompt vectors, in degrees, and how many stay nearest their class.

    Attributes:
        within_class: mean angle of all pairs of prompts of one class, mean over the classes with a pair; None without.
        across_styles: the same over pairs of different styles only.
        class_accuracy: share of prompts whose nearest class vector is that of their class, in [0, 1].
        within_class_each: one value a class; None where it has fewer than two prompts.
        across_styles_each: the same; None where all its prompts have one style.
        class_accuracy_each: the same; None where it has no prompt.
    """

    within_class: float | None
    across_styles: float | None
    class_accuracy: float
    within_class_each: tuple[float | None, ...]
    across_styles_each: tuple[float | None, ...]
    class_accuracy_each: tuple[float | None, ...]

    def line(self) -> str:
        """The same for people, in one line."""
        return (
            f"{_degrees(self.within_class)} apart within a class, {_degrees(self.across_styles)} across its styles, "
            f"{100 * self.class_accuracy:.1f} % nearest their own class"
        )


def diversity(
    targets_ND: Tensor, class_ids: Sequence[int], style_ids: Sequence[int], class_vectors_CD: Tensor
) -> Diversity:
    """Measure a set of prompts.

    Args:
        targets_ND: unit vectors, at least one.
        class_ids: of each prompt, below C.
        style_ids: of each prompt.
        class_vectors_CD: unit vectors.
    """
    class_N, style_N = torch.tensor(class_ids), torch.tensor(style_ids)
    right_N = (targets_ND @ class_vectors_CD.T).argmax(-1) == class_N
    within: list[float | None] = []
    across: list[float | None] = []
    accuracy: list[float | None] = []
    for class_id in range(len(class_vectors_CD)):
        mine_N = class_N == class_id
        angles, differ = _pairs(targets_ND[mine_N], style_N[mine_N])
        within.append(_mean(angles))
        across.append(_mean(angles[differ]))
        accuracy.append(_mean(right_N[mine_N]))
    return Diversity(
        within_class=_mean_known(within),
        across_styles=_mean_known(across),
        class_accuracy=float(right_N.double().mean()),
        within_class_each=tuple(within),
        across_styles_each=tuple(across),
        class_accuracy_each=tuple(accuracy),
    )


def _pairs(vectors_MD: Tensor, style_M: Tensor) -> tuple[Tensor, Tensor]:
    """The angle of each pair in degrees, and whether their styles differ."""
    # In double precision: the cosine of a small angle leaves few digits of it.
    unit_MD = normalize(vectors_MD.double(), dim=-1)
    first, second = torch.triu_indices(len(vectors_MD), len(vectors_MD), offset=1)
    cosine = (unit_MD @ unit_MD.T)[first, second].clamp(-1, 1)
    return cosine.acos().rad2deg(), style_M[first] != style_M[second]


def _mean(values: Tensor) -> float | None:
    return float(values.double().mean()) if len(values) else None


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _degrees(value: float | None) -> str:
    return "no pair" if value is None else f"{value:.1f} degrees"
