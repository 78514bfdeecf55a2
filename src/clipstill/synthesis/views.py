"""Views of a synthetic image for the teacher: random crops, rotations, perspective, flips, tones, boxes and noise.

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
from clipstill.core.tensors import one_sided_clamp
from clipstill.synthesis.settings import SynthesisSettings

# Numbers per view: zoom, two shifts, angle, flip, brightness, contrast, saturation.
_DRAWS = 8
# Area of a black box as a share of the view, and largest ratio of its sides: VQGAN-CLIP's.
_BOX_AREA, _BOX_RATIO = (0.1, 0.4), 1 / 0.3


class ViewSchedule:
    """All views of some images, one seed per image, drawn beforehand: a draw at each step took fifty kernels."""

    def __init__(self, seeds: Sequence[int], settings: SynthesisSettings, device: torch.device) -> None:
        self._seeds, self._settings, self._steps = list(seeds), settings, settings.steps
        draws_TNVK = self._draw("views", _DRAWS)
        if not settings.flip:
            draws_TNVK[..., 4] = 1.0
        maps_TNVR3 = _maps(draws_TNVK[..., :5], settings.crop_min, math.radians(settings.degrees))
        if settings.perspective > 0:
            perspective_TNV33 = _perspectives(self._draw("perspective", 8), settings.perspective)
            maps_TNVR3 = torch.cat([maps_TNVR3 @ perspective_TNV33, perspective_TNV33[..., 2:, :]], -2)
        self._maps_TNVR3 = maps_TNVR3.to(device)
        self._tones_TNV3 = _tones(draws_TNVK[..., 5:], settings.light).to(device)
        self._boxes_TNV4: Tensor | None = None
        self._noise_TNV3: Tensor | None = None
        self._fields_N3F: Tensor | None = None
        if settings.erasing > 0:
            self._boxes_TNV4 = _boxes(self._draw("erasing", 5), settings.erasing).to(device)
        if settings.noise > 0:
            self._noise_TNV3 = self._draw("noise", 3).to(device)
        self._side = 0

    def _draw(self, name: str, numbers: int) -> Tensor:
        shape = self._steps, self._settings.views, numbers
        return torch.stack([torch.rand(shape, generator=generator_for(seed, name)) for seed in self._seeds], dim=1)

    def __call__(self, x_N3HW: Tensor, step: int) -> Tensor:
        """Images in [0, 1] -> views (M, 3, H, W) in [0, 1], image by image; ``step`` counts from 0."""
        views = self._settings.views
        x_M3HW = x_N3HW if views == 1 else x_N3HW.repeat_interleave(views, dim=0)
        grid_MHW2 = _grid(self._maps_TNVR3[step].flatten(0, 1), *x_N3HW.shape[-2:])
        x_M3HW = grid_sample(x_M3HW, grid_MHW2, padding_mode="reflection", align_corners=False)
        own, grey, mean = self._tones_TNV3[step].flatten(0, 1)[..., None, None, None].unbind(1)
        grey_M1HW = x_M3HW.mean(1, keepdim=True)
        rest_M1HW = grey * grey_M1HW + mean * grey_M1HW.mean((2, 3), keepdim=True)
        x_M3HW = one_sided_clamp(torch.addcmul(rest_M1HW, own, x_M3HW))
        if self._boxes_TNV4 is not None:
            x_M3HW = x_M3HW.masked_fill(_within(self._boxes_TNV4[step].flatten(0, 1), *x_N3HW.shape[-2:]), 0.0)
        return x_M3HW if self._noise_TNV3 is None else self._noisy(x_M3HW, self._noise_TNV3[step].flatten(0, 1))

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
        fields_M3F = self._fields_N3F.repeat_interleave(self._settings.views, dim=0)
        shifted_M3HW = fields_M3F.gather(2, place_MF[:, None].expand(-1, shape[0], -1)).view_as(x_M3HW)
        return torch.addcmul(x_M3HW, self._settings.noise * draws_MK[:, 0].view(-1, 1, 1, 1), shifted_M3HW)


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


def _perspectives(draws_TNVK: Tensor, most: float) -> Tensor:
    """Matrices (T, N, V, 3, 3) that put the corners of a view back from where they have moved inwards.

    Each corner has moved by up to ``most`` half sides, across and down.
    """
    corner_42 = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    moved_TNV42 = corner_42 * (1 - most * draws_TNVK.view(*draws_TNVK.shape[:-1], 4, 2))
    place_TNV43 = torch.cat([moved_TNV42, torch.ones_like(moved_TNV42[..., :1])], -1)
    none_TNV43 = torch.zeros_like(place_TNV43)
    # Two equations for each corner, in the eight unknowns of a projective map.
    across, down = (-corner_42[:, k, None] * moved_TNV42 for k in (0, 1))
    equations_TNV88 = torch.cat(
        [torch.cat([place_TNV43, none_TNV43, across], -1), torch.cat([none_TNV43, place_TNV43, down], -1)], -2
    )
    solved_TNV8 = torch.linalg.solve(equations_TNV88, corner_42.T.reshape(8).expand(equations_TNV88.shape[:-1]))
    return torch.cat([solved_TNV8, torch.ones_like(solved_TNV8[..., :1])], -1).view(*solved_TNV8.shape[:-1], 3, 3)


def _tones(draws_TNVK: Tensor, most: float) -> Tensor:
    """Weights (T, N, V, 3) of the pixel itself, of its grey value and of the image's mean in a view.

    Saturation blends each pixel with its grey value, brightness multiplies, and contrast blends with the mean.
    """
    brightness, contrast, saturation = (1 + most * (2 * draws_TNVK - 1)).unbind(-1)
    own, grey = contrast * brightness * saturation, contrast * brightness * (1 - saturation)
    return torch.stack([own, grey, brightness * (1 - contrast)], -1)


def _boxes(draws_TNVK: Tensor, share: float) -> Tensor:
    """First and last column and row (T, N, V, 4) of each view's black box, in [0, 1]; equal where it has none."""
    chance, area, ratio, across, down = draws_TNVK.unbind(-1)
    least, most = _BOX_AREA
    area, ratio = least + (most - least) * area, _BOX_RATIO ** (2 * ratio - 1)
    width, height = (
        torch.where(chance < share, side.sqrt().clamp(max=1), 0.0) for side in (area * ratio, area / ratio)
    )
    left, top = across * (1 - width), down * (1 - height)
    return torch.stack([left, left + width, top, top + height], -1)


def _within(box_M4: Tensor, height: int, width: int) -> Tensor:
    """Whether each pixel lies in the box of its view: bool (M, 1, H, W)."""
    across_W, down_H = ((torch.arange(side, device=box_M4.device) + 0.5) / side for side in (width, height))
    left, right, top, bottom = box_M4[..., None].unbind(1)
    columns_MW, rows_MH = (across_W > left) & (across_W < right), (down_H > top) & (down_H < bottom)
    return (rows_MH[:, :, None] & columns_MW[:, None])[:, None]


def _grid(map_MR3: Tensor, height: int, width: int) -> Tensor:
    """Position in the image of each pixel of a view: (M, H, W, 2). A third row of a map is that of a perspective."""
    across_W, down_H = ((2 * torch.arange(side, device=map_MR3.device) + 1) / side - 1 for side in (width, height))
    by_column_MRW = map_MR3[..., :1] * across_W
    by_row_MRH = map_MR3[..., 1:2] * down_H + map_MR3[..., 2:]
    grid_MHWR = (by_column_MRW[:, :, None] + by_row_MRH[..., None]).permute(0, 2, 3, 1)
    return grid_MHWR if map_MR3.shape[1] == 2 else grid_MHWR[..., :2] / grid_MHWR[..., 2:]
