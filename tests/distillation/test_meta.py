"""The meta gradient against finite differences, against autograd through the inner step, and in its limits."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import cross_entropy

from clipstill.core.seeds import generator_for
from clipstill.distillation.losses import kd_loss
from clipstill.distillation.meta import alignment, meta_gradient, split_styles
from clipstill.distillation.optimisation import Loss, detached, loss_and_gradient
from clipstill.distillation.randomness import borrowed_generator
from clipstill.distillation.settings import MetaMode
from golden import golden

ALPHA = 0.3
Two = tuple[nn.Module, dict[str, Tensor], list[Loss]]


def net() -> nn.Module:
    with borrowed_generator("net"):
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()


def loss_on(part: str, module: nn.Module) -> Loss:
    draw = generator_for("meta", part)
    x_N4 = torch.randn((6, 4), generator=draw, dtype=torch.float64)
    teacher_N3 = 3 * torch.randn((6, 3), generator=draw, dtype=torch.float64)
    return lambda weights: kd_loss(functional_call(module, weights, x_N4), teacher_N3, 2.0).mean()


def plain(weights: dict[str, Tensor], loss: Loss) -> dict[str, Tensor]:
    return loss_and_gradient(loss, detached(weights))[1]


@pytest.fixture
def two() -> Two:
    module = net()
    return module, dict(module.named_parameters()), [loss_on("tr", module), loss_on("te", module)]


def outer(weights: dict[str, Tensor], losses: list[Loss], alpha: float) -> Tensor:
    """The outer loss as it is written."""
    tr = losses[0](weights)
    inner = torch.autograd.grad(tr, list(weights.values()), create_graph=True)
    moved = {name: value - alpha * grad for (name, value), grad in zip(weights.items(), inner, strict=True)}
    return tr + losses[1](moved)


def test_exact_equals_finite_differences_of_the_outer_loss(
    two: Two,
) -> None:
    _, weights, losses = two
    found = meta_gradient("exact", weights, losses, ALPHA).values
    step = 1e-5
    for name, value in weights.items():
        for place in range(value.numel()):
            ends = []
            for sign in (1, -1):
                moved = {key: each.detach().clone() for key, each in weights.items()}
                moved[name].view(-1)[place] += sign * step
                ends.append(outer({key: each.requires_grad_() for key, each in moved.items()}, losses, ALPHA).item())
            expected = (ends[0] - ends[1]) / (2 * step)
            assert found[name].view(-1)[place].item() == pytest.approx(expected, abs=1e-8)


def test_exact_equals_autograd_through_the_inner_step(two: Two) -> None:
    _, weights, losses = two
    expected = torch.autograd.grad(outer(weights, losses, ALPHA), list(weights.values()))
    gradient = meta_gradient("exact", weights, losses, ALPHA)
    found = gradient.values
    for name, value in zip(weights, expected, strict=True):
        torch.testing.assert_close(found[name], value)
    assert 2 * gradient.loss == pytest.approx(outer(weights, losses, ALPHA).item())


@pytest.mark.parametrize("mode", ["exact", "first_order", "reptile"])
def test_without_an_inner_step_all_modes_are_plain_distillation(mode: str, two: Two) -> None:
    module, weights, losses = two
    found = meta_gradient(mode, weights, losses, 0.0).values  # type: ignore[arg-type]
    sum(loss(dict(module.named_parameters())) for loss in losses).backward()  # type: ignore[union-attr]
    for name, value in module.named_parameters():
        assert value.grad is not None
        torch.testing.assert_close(found[name], value.grad)


def test_the_first_term_of_the_expansion_rewards_gradients_that_agree(
    two: Two,
) -> None:
    """(exact - plain) / alpha -> -grad(g_tr . g_te)."""
    _, weights, losses = two
    of_both = plain(weights, lambda at: losses[0](at) + losses[1](at))
    first, second = (torch.autograd.grad(loss(weights), list(weights.values()), create_graph=True) for loss in losses)
    dot = torch.stack([(a * b).sum() for a, b in zip(first, second, strict=True)]).sum()
    expected = dict(zip(weights, torch.autograd.grad(dot, list(weights.values())), strict=True))
    small = 1e-5
    exact = meta_gradient("exact", weights, losses, small).values
    for name in weights:
        torch.testing.assert_close((exact[name] - of_both[name]) / small, -expected[name], atol=1e-3, rtol=1e-3)


def test_first_order_is_exact_without_the_hessian(two: Two) -> None:
    _, weights, losses = two
    tr = plain(weights, losses[0])
    moved = {name: (value - ALPHA * tr[name]).detach() for name, value in weights.items()}
    te = plain(moved, losses[1])
    found = meta_gradient("first_order", weights, losses, ALPHA).values
    for name in weights:
        torch.testing.assert_close(found[name], tr[name] + te[name])
    exact = meta_gradient("exact", weights, losses, ALPHA).values
    assert any(not torch.allclose(exact[name], found[name], rtol=1e-3) for name in weights)


@pytest.mark.parametrize("mode", ["exact", "first_order"])
def test_the_gradient_is_that_of_the_code_of_mldgs_authors(mode: MetaMode) -> None:
    """Both are float64, so only the ten digits of the file separate them."""

    def draw(name: str, *shape: int) -> Tensor:
        return torch.randn(shape, generator=generator_for("golden mldg", name), dtype=torch.float64)

    def loss_on(part: str) -> Loss:
        x_N4, label_N = draw(part, 6, 4), torch.arange(6) % 3
        return lambda at: cross_entropy(functional_call(module, at, x_N4), label_N)

    layers = [("fc1", nn.Linear(4, 5)), ("relu", nn.ReLU()), ("fc2", nn.Linear(5, 3))]
    module = nn.Sequential(OrderedDict(layers)).double()
    weights = {name: draw(name, *value.shape) for name, value in module.named_parameters()}
    expected = golden("mldg")[mode]
    found = meta_gradient(mode, weights, [loss_on("train"), loss_on("test")], ALPHA)
    assert 2 * found.loss == pytest.approx(sum(expected["losses"]), rel=1e-9)
    norms = {name: float(value.norm()) for name, value in found.values.items()}
    assert norms == pytest.approx(expected["gradient_norms"], rel=1e-8)
    assert found.values["fc2.bias"].tolist() == pytest.approx(expected["gradient_of_last_bias"], rel=1e-8)


def test_reptile_sums_what_its_steps_went() -> None:
    module = net()
    losses = [loss_on(part, module) for part in "abc"]
    weights = dict(module.named_parameters())
    at = {name: value.detach().clone().requires_grad_() for name, value in weights.items()}
    for loss in losses:
        gradient = torch.autograd.grad(loss(at), list(at.values()))
        at = {
            name: (value - ALPHA * grad).detach().requires_grad_()
            for (name, value), grad in zip(at.items(), gradient, strict=True)
        }
    found = meta_gradient("reptile", weights, losses, ALPHA).values
    for name, value in weights.items():
        torch.testing.assert_close(ALPHA * found[name], (value - at[name]).detach())


def test_alignment_is_the_cosine_between_the_groups() -> None:
    first, second = {"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([1.0, 1.0])}
    assert alignment([first, second]) == pytest.approx(2**-0.5)
    assert alignment([first, first]) == pytest.approx(1.0)
    assert alignment([first, {"w": torch.zeros(2)}]) is None


@pytest.mark.parametrize(("groups", "sizes"), [(2, [12, 4]), (4, [4, 4, 4, 4])])
def test_style_subsets_are_disjoint_whole_and_drawn_anew(groups: int, sizes: list[int]) -> None:
    drawn = [split_styles(range(16), groups, 0.25, 0, "meta", step) for step in range(20)]
    for subsets in drawn:
        assert [len(subset) for subset in subsets] == sizes
        assert sorted(style for subset in subsets for style in subset) == list(range(16))
    assert len({tuple(sorted(subsets[1])) for subsets in drawn}) > 10
    assert split_styles(range(16), groups, 0.25, 0, "meta", 3) == drawn[3]


def test_both_subsets_have_a_style_however_few_there_are() -> None:
    assert [len(subset) for subset in split_styles([3, 5], 2, 0.01, 0)] == [1, 1]
    assert [len(subset) for subset in split_styles([3, 5], 2, 0.99, 0)] == [1, 1]
