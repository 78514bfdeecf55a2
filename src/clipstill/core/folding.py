"""A frozen network rearranged so that its passes take less time on the CPU.

Shapes: N images, K channels, H x W pixels.
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, pad, relu6

from clipstill.core.lite_network import SameConvolution


def folded(network: nn.Module) -> nn.Module:
    """A frozen copy of a network with the affine maps of its BatchNorm layers in the weights of its convolutions.

    Features and statistics are equal up to rounding. The network is in evaluation mode and in float32 (a rounded shift
    would move the mean of a channel); each BatchNorm layer follows the convolution that is before it among the modules,
    and multiplies no channel by zero.
    """
    network = copy.deepcopy(network).requires_grad_(False)
    convolution: Any = None
    for name, layer in list(network.named_modules()):
        if isinstance(layer, nn.Conv2d):
            convolution, place = layer, name
        elif isinstance(layer, nn.BatchNorm2d):
            left = FoldedNorm(layer)
            bias = 0.0 if convolution.bias is None else convolution.bias
            convolution.weight.mul_(left.scale.view(-1, 1, 1, 1))
            convolution.bias = nn.Parameter(left.bias + (bias - left.running_mean) * left.scale, requires_grad=False)
            network.set_submodule(name, left)
            if isinstance(convolution, SameConvolution) and _Halving.takes(convolution):
                network.set_submodule(place, _Halving(convolution))
    return network


class FoldedNorm(nn.Module):
    """The activation and the statistics of a BatchNorm layer whose affine map is in the convolution before it."""

    running_mean: Tensor
    running_var: Tensor
    bias: Tensor
    scale: Tensor

    def __init__(self, layer: nn.BatchNorm2d) -> None:
        super().__init__()
        for name in ("running_mean", "running_var", "bias"):
            self.register_buffer(name, getattr(layer, name).detach())
        self.eps = layer.eps
        self.register_buffer("scale", layer.weight.detach() / (self.running_var + layer.eps).sqrt())
        self.activation = getattr(layer, "act", nn.Identity())

    def forward(self, x_NKHW: Tensor) -> Tensor:
        """The activation."""
        if isinstance(self.activation, nn.ReLU6):
            # The gradient of statistics needs the input.
            return relu6(x_NKHW, inplace=not torch.is_grad_enabled())
        y_NKHW: Tensor = self.activation(x_NKHW)
        return y_NKHW

    def before(self, mean_K: Tensor, variance_K: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and variance before the affine map, from those after it."""
        return (mean_K - self.bias) / self.scale + self.running_mean, variance_K / self.scale.square()


class _Halving(nn.Module):
    """A depthwise convolution that halves the sides of its input, padded as TensorFlow does.

    Even sides are padded by one less above and on the left than below and on the right, for which the input is
    copied. A kernel with a first row and column of zeros needs the same padding all round, which is free: the same
    bits in half the time.
    """

    kernel: Tensor

    def __init__(self, convolution: Any) -> None:
        super().__init__()
        self.convolution, self.padding = convolution, convolution.kernel_size[0] // 2
        kernel = pad(convolution.weight, (1, 0, 1, 0)).contiguous(memory_format=torch.channels_last)
        self.register_buffer("kernel", kernel)

    @staticmethod
    def takes(convolution: nn.Conv2d) -> bool:
        """Whether a convolution is such a one."""
        (side, _), channels = convolution.kernel_size, convolution.in_channels
        is_plain = convolution.stride == (2, 2) and convolution.dilation == (1, 1) and convolution.groups == channels
        return is_plain and convolution.kernel_size == (side, side) and side % 2 == 1

    def forward(self, x_NKHW: Tensor) -> Tensor:
        """The convolution's output (N, K, H / 2, W / 2), rounded up."""
        if x_NKHW.shape[-1] % 2 or x_NKHW.shape[-2] % 2:
            y_NKHW: Tensor = self.convolution(x_NKHW)
            return y_NKHW
        layer = self.convolution
        return conv2d(x_NKHW, self.kernel, layer.bias, stride=2, padding=self.padding, groups=layer.groups)
