"""The gap between a batch and the statistics of BatchNorm layers, against torch's own variances and autograd."""

import pytest
import torch
from torch import Tensor, nn

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.seeds import generator_for


def layer_with_statistics(channels: int) -> nn.BatchNorm2d:
    layer = nn.BatchNorm2d(channels).eval()
    draw = generator_for("statistics", channels)
    layer.running_mean = torch.randn(channels, generator=draw)
    layer.running_var = torch.rand(channels, generator=draw) + 0.2
    return layer


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("batch", *shape)) * 1.3 + 0.4


def reference_gap(layer: nn.BatchNorm2d, x_NKHW: Tensor) -> Tensor:
    """(|m - m'| + |s - s'|) / |s'|, by the library's variance."""
    variance, mean = torch.var_mean(x_NKHW, (0, 2, 3), correction=0)
    assert layer.running_mean is not None
    assert layer.running_var is not None
    stored = (layer.running_var + layer.eps).sqrt()
    spread = (variance + layer.eps).sqrt()
    return ((mean - layer.running_mean).norm() + (spread - stored).norm()) / stored.norm()


def collected(network: nn.Module, x_NKHW: Tensor) -> list[Tensor]:
    with statistics_gaps(network) as gaps:
        network(x_NKHW)
    return gaps


def test_gap_is_the_definition_by_torchs_own_variance() -> None:
    layer, x = layer_with_statistics(5), batch(4, 5, 6, 7)
    assert float(collected(layer, x)[0]) == pytest.approx(float(reference_gap(layer, x)), rel=1e-5)


def test_gradient_to_the_batch_is_that_of_plain_autograd() -> None:
    layer = layer_with_statistics(5)
    ours, plain = batch(4, 5, 6, 7).requires_grad_(), batch(4, 5, 6, 7).requires_grad_()
    collected(layer, ours)[0].backward()
    reference_gap(layer, plain).backward()
    assert ours.grad is not None
    assert plain.grad is not None
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-7)


def test_memory_layout_changes_neither_gap_nor_gradient() -> None:
    layer = layer_with_statistics(5)
    first = batch(4, 5, 6, 7).requires_grad_()
    last = batch(4, 5, 6, 7).contiguous(memory_format=torch.channels_last).requires_grad_()
    gaps = [collected(layer, x)[0] for x in (first, last)]
    assert float(gaps[0].detach()) == pytest.approx(float(gaps[1].detach()), rel=1e-5)
    (gaps[0] + gaps[1]).backward()
    assert first.grad is not None
    assert last.grad is not None
    torch.testing.assert_close(first.grad, last.grad, rtol=1e-4, atol=1e-7)


def test_gap_is_zero_for_the_batch_that_was_stored() -> None:
    x = batch(6, 3, 8, 8)
    layer = nn.BatchNorm2d(3, momentum=1.0)
    layer(x)
    assert layer.running_var is not None
    count = x.numel() / 3
    layer.running_var *= (count - 1) / count  # BatchNorm stores the unbiased variance.
    assert float(collected(layer.eval(), x)[0]) == pytest.approx(0, abs=1e-5)
    assert float(collected(layer, 2 * x)[0]) > 0.5


def test_one_gap_a_layer_and_none_after_the_block() -> None:
    network = nn.Sequential(layer_with_statistics(3), nn.Conv2d(3, 4, 3), layer_with_statistics(4)).eval()
    gaps = collected(network, batch(2, 3, 8, 8))
    network(batch(2, 3, 8, 8))
    assert len(gaps) == 2


def test_a_flat_batch_has_a_finite_gradient() -> None:
    x = torch.full((2, 5, 4, 4), 0.3, requires_grad=True)
    collected(layer_with_statistics(5), x)[0].backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
