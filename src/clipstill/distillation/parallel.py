"""Several processes train one student: each takes its share of every batch, and all take the same step.

Within ``together``, these are the processes of the ``torch.distributed`` group; outside it, there is one process.
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
    """Sum gradients over all processes, in one message."""
    if share()[1] == 1:
        return gradients
    flat = torch.cat([value.flatten() for value in gradients.values()])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [value.numel() for value in gradients.values()])
    return {name: part.view_as(value) for (name, value), part in zip(gradients.items(), parts, strict=True)}


def total(value: Tensor) -> Tensor:
    """The sum of a double over all processes; only with several does anybody wait for it."""
    if share()[1] == 1:
        return value
    number = value.cpu()
    distributed.all_reduce(number)
    return number


def least(value: int) -> int:
    """The smallest of all processes' numbers."""
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
    """Wait until all processes have come this far."""
    if share()[1] > 1:
        distributed.barrier()
