"""The numbers that stand for a view mean a crop, a turn, a flip, and a change of light, contrast and colour."""

import math

import pytest
import torch
from torchvision.transforms.functional import _get_perspective_coeffs

from clipstill.core.seeds import generator_for
from clipstill.synthesis.views import _boxes, _maps, _perspectives, _tones

CROP, DEGREES, LIGHT = 0.6, 25.0, 0.3


def test_a_map_leads_back_what_crop_turn_and_flip_did() -> None:
    draw = generator_for("maps")
    draws = torch.rand(2, 3, 4, 5, generator=draw)
    back = _maps(draws, CROP, math.radians(DEGREES))
    for index in torch.cartesian_prod(*(torch.arange(size) for size in draws.shape[:-1])).tolist():
        zoom, across, down, turn, flip = draws[tuple(index)].tolist()
        share = CROP + (1 - CROP) * zoom
        angle = math.radians(DEGREES) * (2 * turn - 1)
        place = torch.rand(2, generator=draw) * 2 - 1
        # One after another: the crop's centre to the origin, enlarged, turned, flipped.
        x, y = ((place - (1 - share) * torch.tensor([2 * across - 1, 2 * down - 1])) / share).tolist()
        x, y = x * math.cos(angle) - y * math.sin(angle), x * math.sin(angle) + y * math.cos(angle)
        seen = torch.tensor([-x if flip < 0.5 else x, y, 1.0])
        torch.testing.assert_close(back[tuple(index)] @ seen, place, rtol=0, atol=1e-5)


def test_tones_are_colour_light_and_contrast_one_after_another() -> None:
    draw = generator_for("tones")
    draws, x = torch.rand(1, 5, 1, 3, generator=draw), torch.rand(5, 3, 6, 6, generator=draw)
    own, grey, mean = _tones(draws, LIGHT)[0, :, 0].T.view(3, 5, 1, 1, 1)
    grey_of_x = x.mean(1, keepdim=True)
    summed = own * x + grey * grey_of_x + mean * x.mean((1, 2, 3), keepdim=True)
    light, contrast, colour = (1 + LIGHT * (2 * draws[0, :, 0] - 1)).T.view(3, 5, 1, 1, 1)
    changed = (grey_of_x + (x - grey_of_x) * colour) * light
    middle = changed.mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(summed, middle + (changed - middle) * contrast, rtol=0, atol=1e-6)


def test_a_perspective_is_torchvisions_of_the_same_corners() -> None:
    draws = torch.rand(1, 6, 1, 8, generator=generator_for("perspective"))
    ours = _perspectives(draws, 0.7)[0, :, 0]
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    for back, moves in zip(ours, draws[0, :, 0], strict=True):
        moved = corners * (1 - 0.7 * moves.view(4, 2))
        a, b, c, d, e, f, g, h = _get_perspective_coeffs(corners.tolist(), moved.tolist())
        torch.testing.assert_close(back, torch.tensor([[a, b, c], [d, e, f], [g, h, 1.0]]), rtol=1e-4, atol=1e-4)


def test_boxes_have_a_tenth_to_four_tenths_of_the_area_and_lie_in_as_many_views_as_asked() -> None:
    left, right, top, bottom = _boxes(torch.rand(1, 1, 4000, 5, generator=generator_for("boxes")), 0.7).unbind(-1)
    area = (right - left) * (bottom - top)
    assert float((area > 0).float().mean()) == pytest.approx(0.7, abs=0.03)
    assert 0.08 < float(area[area > 0].min()) < float(area.max()) < 0.4001
    assert 0 <= float(torch.minimum(left, top).min()) <= float(torch.maximum(right, bottom).max()) <= 1
