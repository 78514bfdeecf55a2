"""Several processes teach one student: each takes its share of every batch, and all take the same step.

They are those of ``torch.distributed``'s group, where there is one; without it, everything here does nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn


def share() -> tuple[int, int]:
    """Number of this process, and how many there are."""
    if distributed.is_available() and distributed.is_initialized():
        return distributed.get_rank(), distributed.get_world_size()
    return 0, 1


def summed(gradients: dict[str, Tensor]) -> dict[str, Tensor]:
    """Gradients of this process's pictures -> those of all; in one message."""
    if share()[1] == 1:
        return gradients
    flat = torch.cat([value.flatten() for value in gradients.values()])
    distributed.all_reduce(flat)
    parts = torch.split(flat, [value.numel() for value in gradients.values()])
    return {name: part.view_as(value) for (name, value), part in zip(gradients.items(), parts, strict=True)}


def total(value: float) -> float:
    """A process's share of a number -> the number."""
    if share()[1] == 1:
        return value
    told = torch.tensor(value, dtype=torch.float64)
    distributed.all_reduce(told)
    return float(told)


def least(value: int) -> int:
    """The smallest that a process has."""
    if share()[1] == 1:
        return value
    told = torch.tensor(value)
    distributed.all_reduce(told, distributed.ReduceOp.MIN)
    return int(told)


@torch.no_grad()
def average_statistics(module: nn.Module) -> None:
    """BatchNorm's running statistics, which each process keeps of its own pictures -> their mean."""
    processes = share()[1]
    if processes == 1:
        return
    for buffer in module.buffers():
        if buffer.is_floating_point():
            distributed.all_reduce(buffer)
            buffer.div_(processes)


def wait() -> None:
    """Until all processes are here."""
    if share()[1] > 1:
        distributed.barrier()
