"""What the teacher sees of a synthetic image at each step: random crops, turns and lights.

Each image draws from its own seed, so that neither its neighbours nor the size of its batch change what it sees.

Shapes: N images, V views, S steps, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from kornia.geometry.transform import warp_affine
from torch import Tensor

from clipstill.core.seeds import generator_for

# Per view: zoom, two shifts, angle, flip, light, contrast, colour.
_DRAWS = 8


class ViewSchedule:
    """All views of a group of images, drawn beforehand.

    Args:
        seeds: one an image.
        steps: of the optimisation.
        views: per image and step, at least 1.
        crop_min: least side of a crop, as a share of the image's side, in (0, 1].
        degrees: largest turn to either side.
        light: largest relative change of brightness, contrast and saturation, in [0, 1).
    """

    def __init__(
        self, seeds: Sequence[int], steps: int, views: int, crop_min: float, degrees: float, light: float
    ) -> None:
        self.views = views
        self._crop_min, self._degrees, self._light = crop_min, degrees, light
        draws = [torch.rand(steps, views, _DRAWS, generator=generator_for(seed, "views")) for seed in seeds]
        self._draws_SNVK = torch.stack(draws, dim=1)

    def __call__(self, x_N3HW: Tensor, step: int) -> Tensor:
        """The views of one step: (N * V, 3, H, W) in [0, 1], image by image, with gradient to ``x_N3HW``."""
        draws_MK = self._draws_SNVK[step].flatten(0, 1).to(x_N3HW.device)
        x_M3HW = x_N3HW.repeat_interleave(self.views, dim=0)
        height, side = x_N3HW.shape[-2:]
        x_M3HW = warp_affine(
            x_M3HW, self._matrices(draws_MK, side), (height, side), padding_mode="reflection", align_corners=False
        )
        light, contrast, colour = ((1 + self._light * (2 * draws_MK[:, k] - 1)).view(-1, 1, 1, 1) for k in (5, 6, 7))
        grey = x_M3HW.mean(1, keepdim=True)
        x_M3HW = (grey + (x_M3HW - grey) * colour) * light
        middle = x_M3HW.mean((1, 2, 3), keepdim=True)
        return (middle + (x_M3HW - middle) * contrast).clamp(0, 1)

    def _matrices(self, draws_MK: Tensor, side: int) -> Tensor:
        """Maps (M, 2, 3) from pixels of the image to pixels of the view: crop, turn, flip."""
        share = self._crop_min + (1 - self._crop_min) * draws_MK[:, 0]
        angle = math.radians(self._degrees) * (2 * draws_MK[:, 3] - 1)
        flip = torch.where(draws_MK[:, 4] < 0.5, -1.0, 1.0)
        cos, sin = torch.cos(angle) / share, torch.sin(angle) / share
        half = (side - 1) / 2
        centre = half + (2 * draws_MK[:, 1:3] - 1) * (side / 2) * (1 - share[:, None])
        linear = torch.stack([torch.stack([cos * flip, -sin * flip], 1), torch.stack([sin, cos], 1)], 1)
        shift = half - torch.einsum("mij,mj->mi", linear, centre)
        return torch.cat([linear, shift[..., None]], dim=2)
