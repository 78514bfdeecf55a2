"""How far a batch of images is from the images that a network was trained on, told by its BatchNorm layers.

Shapes: N images, K channels, H x W positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.linalg import vector_norm

# Keeps the relative gap finite for a layer whose stored means are all zero.
_SMALLEST_NORM = 1e-6


@contextmanager
def statistics_gaps(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect each BatchNorm layer's gap during the forward passes inside the ``with`` block.

    The gap of a layer is ``|m - m'| / |m'| + |s - s'| / |s'|``: m and s are the means and standard deviations of the
    layer's input over batch and positions, m' and s' the stored ones, and the norms run over channels. It couples the
    images of the batch, and it has a gradient to the pixels.

    Source: Yin et al., CVPR 2020 (DeepInversion), made relative so that layers of any scale weigh alike.
    """
    gaps: list[Tensor] = []

    def collect(layer: Any, inputs: tuple[Any, ...]) -> None:
        x_NKHW = inputs[0].float()
        stored_mean = layer.running_mean.float()
        stored_std = (layer.running_var.float() + layer.eps).sqrt()
        mean = x_NKHW.mean(dim=(0, 2, 3))
        std = (x_NKHW.var(dim=(0, 2, 3), unbiased=False) + layer.eps).sqrt()
        gaps.append(_relative(mean, stored_mean) + _relative(std, stored_std))

    layers = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats]
    handles = [layer.register_forward_pre_hook(collect) for layer in layers]
    try:
        yield gaps
    finally:
        for handle in handles:
            handle.remove()


def _relative(value_K: Tensor, stored_K: Tensor) -> Tensor:
    gap: Tensor = vector_norm(value_K - stored_K) / vector_norm(stored_K).clamp_min(_SMALLEST_NORM)
    return gap
