"""What the teacher sees of each image depends on that image's seed and on nothing else."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.seeds import generator_for
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.synthesis.views import ViewSchedule

STEPS = 3


def images(count: int, side: int = 24) -> Tensor:
    coarse = torch.rand(count, 3, 6, 6, generator=generator_for("images", count))
    return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)


def schedule(
    seeds: list[int], views: int = 2, crop: float = 0.6, degrees: float = 15, light: float = 0.3, **more: Any
) -> ViewSchedule:
    settings = SynthesisSettings(
        steps=STEPS, views=views, crop_min=crop, degrees=degrees, light=light, image_size=32, **more
    )
    return ViewSchedule(seeds, settings, torch.device("cpu"))


def test_views_of_an_image_do_not_depend_on_its_batch() -> None:
    x = images(3)
    together = schedule([11, 12, 13])
    alone = schedule([12])
    for step in range(STEPS):
        torch.testing.assert_close(together(x, step)[2:4], alone(x[1:2], step), rtol=0, atol=1e-6)


def test_a_neighbours_pixels_do_not_reach_a_view() -> None:
    x, other = images(2), images(2)
    other[0] = 1 - other[0]
    views = schedule([1, 2])
    torch.testing.assert_close(views(x, 0)[2:], views(other, 0)[2:], rtol=0, atol=0)


def test_steps_views_and_seeds_all_differ() -> None:
    views = schedule([1, 2])
    x = images(1).expand(2, 3, 24, 24)
    seen = [view for step in range(STEPS) for view in views(x, step)]
    assert all(not torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_without_crop_turn_and_light_a_view_is_the_image_or_its_mirror() -> None:
    x = images(8)
    seen = schedule(list(range(8)), views=1, crop=1, degrees=0, light=0)(x, 0)
    mirrored = [torch.allclose(view, image.flip(-1), atol=1e-4) for view, image in zip(seen, x, strict=True)]
    same = [torch.allclose(view, image, atol=1e-4) for view, image in zip(seen, x, strict=True)]
    assert all(a != b for a, b in zip(same, mirrored, strict=True))
    assert any(same)
    assert any(mirrored)


def test_a_crop_shows_a_part_of_the_image_enlarged() -> None:
    side = 65
    ramp = torch.linspace(0.1, 0.9, side).expand(1, 3, side, side)
    seen = schedule([5], views=6, crop=0.5, degrees=0, light=0)(ramp.contiguous(), 0)
    slopes = (seen[:, 0, 32, 40] - seen[:, 0, 32, 24]).abs() / 16 / (0.8 / (side - 1))
    assert bool((slopes > 0.49).all())
    assert bool((slopes < 1.01).all())
    assert float(slopes.max() - slopes.min()) > 0.05


def test_views_stay_in_range_and_every_step_reaches_the_pixels() -> None:
    x = images(2).requires_grad_()
    seen = schedule([1, 2])(x, 1)
    assert float(seen.detach().min()) >= 0
    assert float(seen.detach().max()) <= 1
    seen.sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert float((x.grad != 0).float().mean()) > 0.3


def test_noise_is_of_each_image_alone_and_differs_between_views() -> None:
    x = torch.full((2, 3, 24, 24), 0.5)

    def noise(seeds: list[int]) -> Tensor:
        noisy = schedule(seeds, views=3, crop=1, degrees=0, light=0, noise=0.1)
        return noisy(x[: len(seeds)], 1) - 0.5

    both, alone = noise([1, 2]), noise([2])
    torch.testing.assert_close(both[3:], alone, rtol=0, atol=1e-6)
    strengths = both.flatten(1).std(1)
    assert float(strengths.max()) < 0.12
    assert len({round(float(strength), 6) for strength in strengths}) == 6
    first, second = (view / view.std() for view in both[:2])
    assert float((first * second).mean().abs()) < 0.1  # the same field, shifted: no view is another's shadow


def test_without_flip_no_view_is_a_mirror_image() -> None:
    x = images(8)
    seen = schedule(list(range(8)), views=1, crop=1, degrees=0, light=0, flip=False)(x, 0)
    torch.testing.assert_close(seen, x, rtol=0, atol=1e-4)


def test_perspective_and_boxes_are_of_each_image_alone_and_reach_the_pixels() -> None:
    x = images(3).requires_grad_()
    both = schedule([11, 12, 13], perspective=0.7, erasing=1.0)(x, 1)
    alone = schedule([12], perspective=0.7, erasing=1.0)(x[1:2], 1)
    torch.testing.assert_close(both[2:4], alone, rtol=0, atol=1e-6)
    assert not torch.allclose(both, schedule([11, 12, 13], erasing=1.0)(x, 1), atol=0.05)
    black = (both.detach() == 0).all(1).float().mean((1, 2))
    assert 0.07 < float(black.min()) < float(black.max()) < 0.42
    assert bool(torch.isfinite(torch.autograd.grad(both.sum(), x)[0]).all())


def test_a_saturated_pixel_of_a_view_can_come_back() -> None:
    x = torch.ones(1, 3, 24, 24, requires_grad=True)
    # Brighter than white in the views of some steps; a loss that wants them darker must reach the image.
    views = schedule([3], views=8, crop=1, degrees=0, light=0.5)
    (gradient,) = torch.autograd.grad(views(x, 0).sum(), x)
    assert float(gradient.sum()) > 0.99 * float((views(x.detach() * 0.1, 0) * 10).sum())
