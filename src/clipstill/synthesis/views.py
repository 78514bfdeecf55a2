"""Views of a synthetic image for the teacher: random crops, rotations, perspective, flips, tones, boxes and noise.

Each image draws from its own seed, so its views do not depend on other images or on the batch size.

Shapes: N images, V views per image (M = N V), T steps, H x W pixels, F = H W, K numbers per view.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

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


class ViewDraws(NamedTuple):
    """What the views of one step are made with, on the device; ``noise`` is a strength and two shifts."""

    maps_MR3: Tensor
    tones_M3: Tensor
    boxes_M4: Tensor | None
    noise_M3: Tensor | None
    fields_N3HW: Tensor | None


class ViewSchedule:
    """All views of some images, one seed per image, drawn beforehand: a draw at each step took fifty kernels."""

    def __init__(self, seeds: Sequence[int], settings: SynthesisSettings, device: torch.device) -> None:
        self._seeds, self._settings, self._steps, self._device = list(seeds), settings, settings.steps, device
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
        self._fields_N3HW: Tensor | None = None
        if settings.erasing > 0:
            self._boxes_TNV4 = _boxes(self._draw("erasing", 5), settings.erasing).to(device)
        if settings.noise > 0:
            self._noise_TNV3 = self._draw("noise", 3).to(device)

    def _draw(self, name: str, numbers: int) -> Tensor:
        shape = self._steps, self._settings.views, numbers
        return torch.stack([torch.rand(shape, generator=generator_for(seed, name)) for seed in self._seeds], dim=1)

    def at(self, step: int, side: int) -> ViewDraws:
        """The draws of one step, from 0, for images of ``side`` x ``side`` pixels."""

        def of(drawn: Tensor | None) -> Tensor | None:
            return None if drawn is None else drawn[step].flatten(0, 1)

        if self._noise_TNV3 is not None and (self._fields_N3HW is None or self._fields_N3HW.shape[-1] != side):
            shape = 3, side, side
            fields = [torch.randn(shape, generator=generator_for(seed, "noise field")) for seed in self._seeds]
            self._fields_N3HW = torch.stack(fields).to(self._device)
        maps_MR3, tones_M3 = (drawn[step].flatten(0, 1) for drawn in (self._maps_TNVR3, self._tones_TNV3))
        return ViewDraws(maps_MR3, tones_M3, of(self._boxes_TNV4), of(self._noise_TNV3), self._fields_N3HW)

    def __call__(self, x_N3HW: Tensor, step: int) -> Tensor:
        """The views of a step of images in [0, 1], see ``draw_views``."""
        return draw_views(x_N3HW, self.at(step, x_N3HW.shape[-1]), self._settings)


def draw_views(x_N3HW: Tensor, draws: ViewDraws, settings: SynthesisSettings) -> Tensor:
    """Images in [0, 1] -> views (M, 3, H, W) in [0, 1], image by image."""
    x_M3HW = x_N3HW if settings.views == 1 else x_N3HW.repeat_interleave(settings.views, dim=0)
    grid_MHW2 = _grid(draws.maps_MR3, *x_N3HW.shape[-2:])
    x_M3HW = grid_sample(x_M3HW, grid_MHW2, padding_mode="reflection", align_corners=False)
    own, grey, mean = draws.tones_M3[..., None, None, None].unbind(1)
    grey_M1HW = x_M3HW.mean(1, keepdim=True)
    rest_M1HW = grey * grey_M1HW + mean * grey_M1HW.mean((2, 3), keepdim=True)
    x_M3HW = one_sided_clamp(torch.addcmul(rest_M1HW, own, x_M3HW))
    if draws.boxes_M4 is not None:
        x_M3HW = x_M3HW.masked_fill(_within(draws.boxes_M4, *x_N3HW.shape[-2:]), 0.0)
    if draws.noise_M3 is None or draws.fields_N3HW is None:
        return x_M3HW
    strength_M111 = settings.noise * draws.noise_M3[:, 0].view(-1, 1, 1, 1)
    return torch.addcmul(x_M3HW, strength_M111, _shifted(draws.fields_N3HW, draws.noise_M3[:, 1:], settings.views))


def _shifted(fields_N3HW: Tensor, shifts_M2: Tensor, views: int) -> Tensor:
    """Noise of each view: the one field of its image, shifted by the view's own random amounts.

    Drawing a new field for every view and step would be slow; an index of every pixel would be twice as large as the
    noise itself.
    """
    side, device = fields_N3HW.shape[-1], fields_N3HW.device
    place_L = torch.arange(side, device=device)
    rows_ML, columns_ML = ((place_L + (shifts_M2[:, k, None] * side).long()) % side for k in (0, 1))
    images_M111 = torch.arange(len(shifts_M2), device=device).view(-1, 1, 1, 1) // views
    channels_311 = torch.arange(3, device=device).view(3, 1, 1)
    return fields_N3HW[images_M111, channels_311, rows_ML[:, None, :, None], columns_ML[:, None, None, :]]


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
