"""The gradient of one training step, in parts that go through memory one after the other."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.distillation import parallel

if TYPE_CHECKING:
    from clipstill.distillation.phases import Phase

Weights = dict[str, Tensor]
# Weights by name -> a part's share of its batch's mean loss: its images' losses over the number of the whole batch's.
Loss = Callable[[Weights], Tensor]


@dataclass(frozen=True)
class Gradient:
    """Direction of one step.

    Attributes:
        loss: Mean loss, over all processes.
        values: Gradient by name of the weight, over all processes.
        alignment: Mean cosine between the gradients of different styles; None without meta distillation.
    """

    loss: float
    values: Weights
    alignment: float | None = None


# Weights that are trained, step counted from 0, and learning rate as a share of its peak -> gradient.
FindGradient = Callable[[Mapping[str, Tensor], int, float], Gradient]


def plain_gradient(phase: Phase, weights: Mapping[str, Tensor], step: int, lr_share: float) -> Gradient:
    """The gradient of the mean loss of a batch; a ``FindGradient`` for one phase. It does not use ``lr_share``."""
    loss, values = summed_gradient(phase.losses(*phase.rows(step)), detached(weights))
    return Gradient(parallel.total(loss), parallel.summed(values))


def detached(weights: Mapping[str, Tensor]) -> Weights:
    """The same values as leaves of a new graph."""
    return {name: value.detach().requires_grad_() for name, value in weights.items()}


def summed_gradient(parts: Sequence[Loss], weights: Weights) -> tuple[float, Weights]:
    """Value and gradient of the sum of some losses, part by part."""
    values, gradients = [], []
    for part in parts:
        loss = part(weights)
        values.append(float(loss.detach()))
        gradients.append(gradient_of(loss, weights))
    return sum(values), sum_of(gradients)


def gradient_of(loss: Tensor, weights: Weights, create_graph: bool = False) -> Weights:
    """Gradient by name; zero for weights that the loss does not depend on."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(weights.items(), found, strict=True)
    }


def sum_of(gradients: Sequence[Weights]) -> Weights:
    """Sum by name."""
    if len(gradients) == 1:
        return gradients[0]
    return {name: torch.stack([each[name] for each in gradients]).sum(0) for name in gradients[0]}
