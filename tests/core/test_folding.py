"""Folded networks against the networks that they come from."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import Tensor, nn

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.folding import folded
from clipstill.core.lite_network import SameConvolution
from clipstill.core.packaged_weights import lite_backbone
from clipstill.core.seeds import generator_for


def batch(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator_for("batch", *shape))


def normalised(convolution: nn.Conv2d) -> list[nn.Module]:
    """The convolution, and a BatchNorm layer with random weights and statistics behind it."""
    channels = convolution.out_channels
    layer = BatchNormAct2d(channels, act_layer=nn.ReLU6)
    draw = generator_for("folding", channels)
    layer.weight.data = torch.rand(channels, generator=draw) * 2 - 1
    layer.bias.data = torch.randn(channels, generator=draw)
    layer.running_mean = torch.randn(channels, generator=draw)
    layer.running_var = torch.rand(channels, generator=draw) + 0.2
    return [convolution, layer]


@pytest.mark.parametrize("side", [16, 17])
@pytest.mark.parametrize("kernel", [3, 5])
def test_a_folded_network_has_the_same_features_gaps_and_gradients(side: int, kernel: int) -> None:
    network = nn.Sequential(
        *normalised(nn.Conv2d(3, 6, 3, bias=False)),
        *normalised(SameConvolution(6, 6, kernel, stride=2, groups=6)),
        *normalised(nn.Conv2d(6, 4, 1)),
    )
    network.eval().requires_grad_(False)
    found = []
    for each in (network, folded(network)):
        x = batch(4, 3, side, side).requires_grad_()
        with statistics_gaps(each) as gaps:
            y = each(x)
        (torch.stack(gaps).sum() + y.sum()).backward()
        found.append((y, torch.stack(gaps), x.grad))
    assert len(found[1][1]) == 3
    torch.testing.assert_close(found[1], found[0], rtol=1e-4, atol=1e-5)


def test_the_network_that_was_folded_stays_as_it_is() -> None:
    network = nn.Sequential(*normalised(nn.Conv2d(3, 6, 3))).eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    copied, x = folded(network), batch(2, 3, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(copied(x), network(x), rtol=1e-4, atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


def test_the_four_depthwise_convolutions_of_a_lite_that_halve_their_input_pad_it_without_a_copy() -> None:
    network = folded(lite_backbone("lite0").eval())
    kinds = [type(module).__name__ for module in network.modules()]
    assert kinds.count("_Halving") == 4
    with torch.no_grad():
        x = batch(1, 3, 64, 64)
        torch.testing.assert_close(network(x), lite_backbone("lite0").eval()(x), rtol=1e-3, atol=1e-4)
