"""Losses of inversion, against angles known by construction and torch's own functions."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.seeds import generator_for
from clipstill.synthesis.objectives import class_consistency, spherical_distance, total_variation
from golden import golden


def at_angle(radians: float) -> Tensor:
    """A unit vector at this angle to the first axis."""
    return torch.tensor([math.cos(radians), math.sin(radians), 0.0])


def units(*shape: int) -> Tensor:
    return F.normalize(torch.randn(*shape, generator=generator_for("units", *shape)), dim=-1)


@pytest.mark.parametrize("degrees", [1, 30, 60, 90, 120, 170, 179])
def test_distance_is_half_the_squared_angle(degrees: int) -> None:
    angle = math.radians(degrees)
    loss_N = spherical_distance(at_angle(angle)[None, None], at_angle(0)[None])
    assert float(loss_N) == pytest.approx(angle**2 / 2, rel=2e-3)


@pytest.mark.parametrize("degrees", [0, 180])
def test_distance_has_a_finite_gradient_at_both_ends(degrees: int) -> None:
    feat_NVD = at_angle(math.radians(degrees))[None, None].requires_grad_()
    loss_N = spherical_distance(feat_NVD, at_angle(0)[None])
    loss_N.sum().backward()
    assert float(loss_N.detach()) == pytest.approx(math.radians(degrees) ** 2 / 2, abs=5e-3)
    assert feat_NVD.grad is not None
    assert torch.isfinite(feat_NVD.grad).all()


def test_distance_is_the_mean_over_views_and_knows_no_neighbour() -> None:
    feat_NVD, target_ND = units(3, 4, 8), units(3, 8)
    together = spherical_distance(feat_NVD, target_ND)
    for n in range(3):
        alone = [float(torch.arccos(feat_NVD[n, v] @ target_ND[n])) ** 2 / 2 for v in range(4)]
        assert float(together[n]) == pytest.approx(sum(alone) / 4, rel=1e-4)


def test_distance_and_its_gradient_are_those_of_vqgan_clip() -> None:
    expected = golden("vqgan_clip")["spherical"]
    view_NVD = torch.randn(3, 4, 16, generator=generator_for("golden views"))
    target_ND = torch.randn(3, 16, generator=generator_for("golden targets"))
    target_ND[1:] = 0.3 * target_ND[1:] + torch.stack([view_NVD[1, 0], -view_NVD[2, 0]])
    view_NVD.requires_grad_()
    loss_N = spherical_distance(F.normalize(view_NVD, dim=-1), F.normalize(target_ND, dim=-1))
    loss_N.sum().backward()
    assert view_NVD.grad is not None
    # Both are float32; arcsin loses digits near opposite vectors.
    assert loss_N.tolist() == pytest.approx(expected["losses"], rel=1e-5)
    norms = view_NVD.grad.norm(dim=2).tolist()
    assert norms == [pytest.approx(row, rel=1e-4) for row in expected["gradient_norms"]]


def test_distance_of_opposite_vectors_is_by_design_below_that_of_vqgan_clip() -> None:
    """There the gradient is not a number; here it is finite, at the price of this difference."""
    found = float(spherical_distance(-at_angle(0)[None, None], at_angle(0)[None]))
    assert golden("vqgan_clip")["opposite"] - found == pytest.approx(0.00307, abs=5e-5)


def test_class_consistency_is_the_cross_entropy_of_scaled_cosines() -> None:
    feat_NVD, vectors_CD, class_N = units(3, 2, 8), units(5, 8), torch.tensor([4, 0, 2])
    loss_N = class_consistency(feat_NVD, vectors_CD, class_N, 20.0)
    for n in range(3):
        each = [F.cross_entropy(20.0 * vectors_CD @ feat_NVD[n, v], class_N[n]) for v in range(2)]
        assert float(loss_N[n]) == pytest.approx(float(sum(each) / 2), rel=1e-5)


def test_total_variation_counts_each_step_between_neighbours_once() -> None:
    x_N3HW = torch.zeros(2, 3, 4, 5)
    x_N3HW[1, :, 2:] = 0.6  # one step of 0.6 in three vertical differences, none across
    assert total_variation(x_N3HW).tolist() == pytest.approx([0.0, 0.6 / 3])
