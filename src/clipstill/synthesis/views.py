"""What the teacher sees of a synthetic image at each step: random crops, turns and lights.

Each image draws from its own seed, so that neither its neighbours nor the size of its batch change what it sees.

Shapes: N images of a group, S of them at work, V views, T steps, H x W pixels, K random numbers a view.
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
# The same for its noise: how strong, and by how much the image's noise is shifted.
_NOISE_DRAWS = 3


class ViewSchedule:
    """All views of a group of images, drawn beforehand.

    Args:
        seeds: one an image.
        steps: of the optimisation.
        views: per image and step, at least 1.
        crop_min: least side of a crop, as a share of the image's side, in (0, 1].
        degrees: largest turn to either side.
        light: largest relative change of brightness, contrast and saturation, in [0, 1).
        noise: largest standard deviation of the noise that is added last; each view draws its own below it.
        device: where the images are.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        steps: int,
        views: int,
        crop_min: float,
        degrees: float,
        light: float,
        noise: float = 0.0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.views = views
        self._seeds = list(seeds)
        self._crop_min, self._degrees, self._light, self._noise = crop_min, degrees, light, noise
        self._draws_TNVK = self._drawn("views", steps, _DRAWS).to(device)
        self._noise_draws_TNVK = self._drawn("noise", steps, _NOISE_DRAWS).to(device) if noise > 0 else None
        self._fields_N3HW: Tensor | None = None

    def _drawn(self, name: str, steps: int, numbers: int) -> Tensor:
        draws = [torch.rand(steps, self.views, numbers, generator=generator_for(seed, name)) for seed in self._seeds]
        return torch.stack(draws, dim=1)

    def __call__(self, x_S3HW: Tensor, members_S: Tensor, steps_S: Tensor) -> Tensor:
        """The views of one step, with gradient to the images.

        Args:
            x_S3HW: images in [0, 1].
            members_S: which image of the group each is.
            steps_S: how many steps each has behind it.

        Returns:
            (S * V, 3, H, W) in [0, 1], image by image.
        """
        draws_MK = self._draws_TNVK[steps_S, members_S].flatten(0, 1)
        x_M3HW = x_S3HW.repeat_interleave(self.views, dim=0)
        height, side = x_S3HW.shape[-2:]
        x_M3HW = warp_affine(
            x_M3HW, self._matrices(draws_MK, side), (height, side), padding_mode="reflection", align_corners=False
        )
        light, contrast, colour = ((1 + self._light * (2 * draws_MK[:, k] - 1)).view(-1, 1, 1, 1) for k in (5, 6, 7))
        grey = x_M3HW.mean(1, keepdim=True)
        x_M3HW = (grey + (x_M3HW - grey) * colour) * light
        middle = x_M3HW.mean((1, 2, 3), keepdim=True)
        x_M3HW = (middle + (x_M3HW - middle) * contrast).clamp(0, 1)
        return x_M3HW if self._noise_draws_TNVK is None else x_M3HW + self._noise_of(x_M3HW, members_S, steps_S)

    def _noise_of(self, x_M3HW: Tensor, members_S: Tensor, steps_S: Tensor) -> Tensor:
        """Each image has one field of noise, which every view sees shifted by another amount and of another strength.

        So that no batch has to draw as much noise as it has pixels at each step, and still each image's is its own.
        """
        assert self._noise_draws_TNVK is not None
        shape = x_M3HW.shape[1:]
        if self._fields_N3HW is None or self._fields_N3HW.shape[1:] != shape:
            fields = [torch.randn(shape, generator=generator_for(seed, "noise field")) for seed in self._seeds]
            self._fields_N3HW = torch.stack(fields).to(x_M3HW.device)
        draws_MK = self._noise_draws_TNVK[steps_S, members_S].flatten(0, 1)
        fields_M3HW = self._fields_N3HW[members_S].repeat_interleave(self.views, dim=0)
        rows, columns = (
            (torch.arange(side, device=x_M3HW.device) + (draws_MK[:, k, None] * side).long()) % side
            for k, side in ((1, shape[1]), (2, shape[2]))
        )
        view = torch.arange(len(x_M3HW), device=x_M3HW.device)[:, None, None, None]
        channel = torch.arange(shape[0], device=x_M3HW.device)[None, :, None, None]
        shifted = fields_M3HW[view, channel, rows[:, None, :, None], columns[:, None, None, :]]
        return self._noise * draws_MK[:, 0].view(-1, 1, 1, 1) * shifted

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
