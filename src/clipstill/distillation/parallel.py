"""Several processes teach one student: each takes its share of every batch, and all take the same step.

They are those of ``torch.distributed``'s group, within ``together``; outside it, everything here does nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, distributed, nn

_together = False


@contextmanager
def together(wanted: bool = True) -> Iterator[None]:
    """Train one student with all processes of the ``torch.distributed`` group, if that is wanted."""
    global _together
    _together = wanted
    try:
        yield
    finally:
        _together = False


def share() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    if _together:
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def summed(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of this process's images -> those of all; in one message."""
    if share()[1] == 1:
        return gradients
    flat = torch.cat([value.flatten() for value in gradients.values()])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [value.numel() for value in gradients.values()])
    return {name: part.view_as(value) for (name, value), part in zip(gradients.items(), parts, strict=True)}


def total(value: float) -> float:
    """The sum of a number over all processes."""
    number = torch.tensor(value, dtype=torch.float64)
    if share()[1] > 1:
        distributed.all_reduce(number)
    return float(number)


def least(value: int) -> int:
    """The smallest number of all processes."""
    number = torch.tensor(value)
    if share()[1] > 1:
        distributed.all_reduce(number, distributed.ReduceOp.MIN)
    return int(number)


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """Replace BatchNorm's running statistics, which each process keeps of its own images, by their mean."""
    processes = share()[1]
    for buffer in module.buffers() if processes > 1 else ():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer.div_(processes)


def wait() -> None:
    """Wait until all processes are here."""
    if share()[1] > 1:
        distributed.barrier()
