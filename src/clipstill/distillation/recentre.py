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

from clipstill.distillation.views import plain_view, to_unit

if TYPE_CHECKING:
    from clipstill.distillation.settings import DistilSettings
    from clipstill.students.student import Student

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


def fit_recentre(
    student: Student,
    feat_NF: Tensor,
    images_N3HW: Tensor,
    group_N: Tensor,
    settings: DistilSettings,
    device: torch.device,
) -> Recentre:
    """Scale and shift such that each group's mean is the predicted natural mean, and its spread too where asked for.

    The natural spread of pooled features is not known, only that over positions; the ratio of the spreads over
    positions, natural to synthetic, is taken for both.

    Args:
        student: with the backbone that gave the features.
        feat_NF: pooled features of the training pictures.
        images_N3HW: the pictures, uint8.
        group_N: group of each picture.
        settings: of which ``feature_recentre`` is ``"mean"`` or ``"mean_std"``.
        device: that the student is on.

    Raises:
        ConfigError: the backbone does not tell.
    """
    natural_mean_F, natural_std_F = (value.cpu() for value in student.natural_feature_statistics())
    scale_GF = torch.ones(GROUPS, feat_NF.shape[1])
    shift_GF = torch.zeros(GROUPS, feat_NF.shape[1])
    for group in range(GROUPS):
        members = (group_N == group).nonzero().flatten()
        if len(members) == 0:
            continue
        if settings.feature_recentre == "mean_std":
            std_F = _spread_over_positions(student, images_N3HW[members], settings.batch, device)
            ratio_F = (natural_std_F / std_F.clamp_min(_SILENT)).clamp(_LEAST_RATIO, _MOST_RATIO)
            scale_GF[group] = torch.where(std_F > _SILENT, ratio_F, torch.ones_like(ratio_F))
        shift_GF[group] = natural_mean_F - feat_NF[members].mean(dim=0) * scale_GF[group]
    return Recentre(scale_GF, shift_GF)


@torch.no_grad()
def _spread_over_positions(student: Student, images_N3HW: Tensor, batch: int, device: torch.device) -> Tensor:
    student.eval()
    every = max(1, len(images_N3HW) // _SAMPLE)
    chosen = images_N3HW[::every][:_SAMPLE]
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    for start in range(0, len(chosen), batch):
        x_N3HW = plain_view(to_unit(chosen[start : start + batch], device), student.preprocess.size)
        map_NFHW = student.feature_map(x_N3HW).cpu().double()
        total = total + map_NFHW.sum(dim=(0, 2, 3))
        square = square + map_NFHW.square().sum(dim=(0, 2, 3))
        count += map_NFHW.shape[0] * map_NFHW.shape[2] * map_NFHW.shape[3]
    mean_F = total / count
    return (square / count - mean_F**2).clamp_min(0).sqrt().float()
