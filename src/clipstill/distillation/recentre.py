"""Bring the head's training input to where natural images are.

Inverted pictures are not natural images: a pretrained backbone gives them other feature means and spreads, and a head
trained there is off on photos. What the backbone expects of photos is in its last BatchNorm, so the head is trained on
shifted features and used on plain ones.

Shapes: N images, F features, G groups (pictures with a class, pictures without).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    pass

GROUPS = 2
# Pictures a group that are enough for a spread over positions, and the range in which a ratio of spreads is believed.
_SAMPLE = 256
_LEAST_RATIO, _MOST_RATIO = 0.25, 4.0
_SILENT = 1e-4


@dataclass(frozen=True)
class Recentre:
    """A scale and a shift for each group and feature."""

    scale_GF: Tensor
    shift_GF: Tensor

    def __call__(self, feat_NF: Tensor, group_N: Tensor) -> Tensor:
        """Features as they come -> features where natural images are; same shape."""
        return feat_NF * self.scale_GF[group_N] + self.shift_GF[group_N]

    def to(self, device: torch.device) -> Recentre:
        """The same on another device."""
        return Recentre(self.scale_GF.to(device), self.shift_GF.to(device))
