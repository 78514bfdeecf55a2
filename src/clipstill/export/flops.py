"""How much a network computes for a picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def gflop(network: nn.Module, size: int) -> float:
    """Billions of multiplications and additions for one picture; a multiply-add counts as two.

    Torch counts products and convolutions of tensors; element-wise operations are left out, as usual.

    Args:
        network: Maps (N, 3, size, size) in [0, 1] to logits; on any device.
        size: Side of the picture in pixels.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, size, size, device=device))
    return float(counter.get_total_flops()) / 1e9
