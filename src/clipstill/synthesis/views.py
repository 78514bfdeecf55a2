"""Views of a synthetic image for the teacher: random crops, rotations, flips, tones and noise.

Each image draws from its own seed, so its views do not depend on other images or on the batch size.

Shapes: N images, V views per image (M = N V), T steps, H x W pixels, F = H W, K numbers per view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from clipstill.core.seeds import generator_for
from clipstill.synthesis.settings import SynthesisSettings

# Numbers per view: zoom, two shifts, angle, flip, brightness, contrast, saturation.
_DRAWS = 8
# Numbers per view for its noise: strength, and two shifts of the image's noise field.
_NOISE_DRAWS = 3


class ViewSchedule:
    """All views of some images, one seed per image, drawn beforehand."""

    def __init__(self, seeds: Sequence[int], settings: SynthesisSettings, device: torch.device) -> None:
        self._seeds, self._views, self._noise = list(seeds), settings.views, settings.noise
        draws_TNVK = self._draw("views", settings.steps, _DRAWS)
        parts = [
            _maps(draws_TNVK[..., :5], settings.crop_min, math.radians(settings.degrees)).flatten(-2),
            _tones(draws_TNVK[..., 5:], settings.light),
        ]
        if self._noise > 0:
            parts.append(self._draw("noise", settings.steps, _NOISE_DRAWS))
        # Drawn before the first step and moved to the device at once: a draw at each step took fifty kernels.
        self._numbers_TNVK = torch.cat(parts, dim=-1).to(device)
        self._fields_N3F: Tensor | None = None
        self._side = 0

    def _draw(self, name: str, steps: int, numbers: int) -> Tensor:
        draws = [torch.rand(steps, self._views, numbers, generator=generator_for(seed, name)) for seed in self._seeds]
        return torch.stack(draws, dim=1)

    def __call__(self, x_N3HW: Tensor, step: int) -> Tensor:
        """Images in [0, 1] -> views (M, 3, H, W) in [0, 1], image by image; ``step`` counts from 0."""
        numbers_MK = self._numbers_TNVK[step].flatten(0, 1)
        x_M3HW = x_N3HW if self._views == 1 else x_N3HW.repeat_interleave(self._views, dim=0)
        grid_MHW2 = _grid(numbers_MK[:, :6].view(-1, 2, 3), *x_N3HW.shape[-2:])
        x_M3HW = grid_sample(x_M3HW, grid_MHW2, padding_mode="reflection", align_corners=False)
        own, grey, mean = (numbers_MK[:, k].view(-1, 1, 1, 1) for k in (6, 7, 8))
        grey_M1HW = x_M3HW.mean(1, keepdim=True)
        rest_M1HW = grey * grey_M1HW + mean * grey_M1HW.mean((2, 3), keepdim=True)
        x_M3HW = torch.addcmul(rest_M1HW, own, x_M3HW).clamp(0, 1)
        return x_M3HW if self._noise == 0 else self._noisy(x_M3HW, numbers_MK[:, 9:])

    def _noisy(self, x_M3HW: Tensor, draws_MK: Tensor) -> Tensor:
        """Add noise. Each image has one noise field, which each view shifts and scales by its own random amounts.

        Drawing a new field for every view and step would be slow.
        """
        shape, side = x_M3HW.shape[1:], x_M3HW.shape[-1]
        if self._fields_N3F is None or side != self._side:
            fields = [torch.randn(shape, generator=generator_for(seed, "noise field")) for seed in self._seeds]
            self._fields_N3F, self._side = torch.stack(fields).flatten(2).to(x_M3HW.device), side
        place_L = torch.arange(side, device=x_M3HW.device)
        rows_ML, columns_ML = ((place_L + (draws_MK[:, k, None] * side).long()) % side for k in (1, 2))
        place_MF = (rows_ML[:, :, None] * side + columns_ML[:, None]).flatten(1)
        fields_M3F = self._fields_N3F.repeat_interleave(self._views, dim=0)
        shifted_M3HW = fields_M3F.gather(2, place_MF[:, None].expand(-1, shape[0], -1)).view_as(x_M3HW)
        return torch.addcmul(x_M3HW, self._noise * draws_MK[:, 0].view(-1, 1, 1, 1), shifted_M3HW)


def _maps(draws_TNVK: Tensor, crop_min: float, most: float) -> Tensor:
    """Matrices (T, N, V, 2, 3) from positions in the view to positions in the image, both in [-1, 1].

    The inverse of a crop, a rotation by up to ``most`` radians and a flip, in closed form: a solver would be slow.
    """
    zoom, across, down, turn, flip = draws_TNVK.unbind(-1)
    share = crop_min + (1 - crop_min) * zoom
    angle = most * (2 * turn - 1)
    cos, sin = share * torch.cos(angle), share * torch.sin(angle)
    mirrored = torch.where(flip < 0.5, -1.0, 1.0)
    horizontal = [mirrored * cos, sin, (2 * across - 1) * (1 - share)]
    vertical = [-mirrored * sin, cos, (2 * down - 1) * (1 - share)]
    return torch.stack([torch.stack(horizontal, -1), torch.stack(vertical, -1)], -2)


def _tones(draws_TNVK: Tensor, most: float) -> Tensor:
    """Weights (T, N, V, 3) of the pixel itself, of its grey value and of the image's mean in a view.

    Saturation blends each pixel with its grey value, brightness multiplies, and contrast blends with the mean.
    """
    brightness, contrast, saturation = (1 + most * (2 * draws_TNVK - 1)).unbind(-1)
    own, grey = contrast * brightness * saturation, contrast * brightness * (1 - saturation)
    return torch.stack([own, grey, brightness * (1 - contrast)], -1)


def _grid(map_M23: Tensor, height: int, width: int) -> Tensor:
    """Position in the image of each pixel of a view: (M, H, W, 2)."""
    across_W, down_H = ((2 * torch.arange(side, device=map_M23.device) + 1) / side - 1 for side in (width, height))
    by_column_M2W = map_M23[..., :1] * across_W
    by_row_M2H = map_M23[..., 1:2] * down_H + map_M23[..., 2:]
    return (by_column_M2W[:, :, None] + by_row_M2H[..., None]).permute(0, 2, 3, 1)
