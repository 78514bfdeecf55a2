"""Compares a batch of images with a network's training images by the statistics of its BatchNorm layers.

Shapes: N images, K channels, H x W pixels, M = N H W rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.linalg import vector_norm

from clipstill.core.folding import FoldedNorm

# Attribute of a layer: the list that its gap goes to.
_LIST = "statistics_gaps"


@contextmanager
def statistics_gaps(network: nn.Module) -> Iterator[list[Tensor]]:
    """Collect each BatchNorm layer's gap during the forward passes inside the ``with`` block.

    The gap of a layer is ``(|m - m'| + |s - s'|) / |s'|``: m and s are the means and standard deviations of the layer's
    input over batch and positions, m' and s' the stored ones; the norms run over channels. The gap depends on all
    images of the batch and has a gradient to the pixels.

    Source: Yin et al., CVPR 2020 (DeepInversion), relative to the stored deviations, so that layers of any scale have
    the same weight. Relative to the stored means, layers with means near zero would dominate.
    """
    gaps: list[Tensor] = []
    layers = [
        layer
        for layer in network.modules()
        if isinstance(layer, FoldedNorm) or (isinstance(layer, nn.BatchNorm2d) and layer.track_running_stats)
    ]
    for layer in layers:
        # The hook stays, because a compiled function cannot add one; without a list it does nothing.
        if _collect not in layer._forward_pre_hooks.values():
            layer.register_forward_pre_hook(_collect)
        setattr(layer, _LIST, gaps)
    try:
        yield gaps
    finally:
        for layer in layers:
            setattr(layer, _LIST, None)


def _collect(layer: Any, inputs: tuple[Any, ...]) -> None:
    gaps: list[Tensor] | None = getattr(layer, _LIST, None)
    if gaps is None:
        return
    stored_mean = layer.running_mean.float()
    stored_std = (layer.running_var.float() + layer.eps).sqrt()
    mean, variance = _Moments.apply(inputs[0].float())
    if isinstance(layer, FoldedNorm):
        mean, variance = layer.before(mean, variance)
    std = (variance + layer.eps).sqrt()
    size = vector_norm(stored_std).clamp_min(1e-6)  # Finite gaps even if all stored deviations are zero.
    gaps.append((vector_norm(mean - stored_mean) + vector_norm(std - stored_std)) / size)


class _Moments(torch.autograd.Function):
    """Mean of each of K channels, and its variance around it (divided by M).

    Fewer passes over memory than autograd, whose variance took a quarter of a synthesis step on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, x_NKHW: Tensor) -> tuple[Tensor, Tensor]:
        ctx.rows = x_NKHW.numel() / x_NKHW.shape[1]
        mean_K: Tensor
        variance_K: Tensor
        if x_NKHW.device.type == "cpu":
            # Two passes; a norm over rows takes up to ten times as long.
            mean_K, variance_K = torch.batch_norm_update_stats(x_NKHW, None, None, 0.0)
        else:
            rows_MK = x_NKHW.permute(0, 2, 3, 1).reshape(-1, x_NKHW.shape[1])
            mean_K = rows_MK.mean(0)
            variance_K = (vector_norm(rows_MK, dim=0).square() / ctx.rows - mean_K.square()).clamp_min(0)
        ctx.save_for_backward(x_NKHW, mean_K)
        return mean_K, variance_K

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        x_NKHW, mean_K = ctx.saved_tensors
        of_mean_K, of_variance_K = (grad / ctx.rows for grad in grads)
        slope_K = 2 * of_variance_K
        shift_K = of_mean_K - slope_K * mean_K
        return torch.addcmul(shift_K.view(1, -1, 1, 1), x_NKHW, slope_K.view(1, -1, 1, 1))
