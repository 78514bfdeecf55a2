"""One step of training: gradient, optimiser, learning rate, and moving average of the weights."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from clipstill.distillation import parallel
from clipstill.distillation.settings import DistilSettings

if TYPE_CHECKING:
    from clipstill.distillation.phases import Phase

# PromptKD: a learning rate of 1e-5 in the first epoch, and a peak of 0.005.
_FIRST_EPOCH = 0.002

Weights = dict[str, Tensor]
# Weights by name -> sum of the losses of some images of a batch, divided by the number of images of the whole batch.
Loss = Callable[[Weights], Tensor]


@dataclass(frozen=True)
class Gradient:
    """Mean loss and its gradient by weight name, both over all processes.

    ``loss`` is a double on the device, so that nobody waits for it. ``alignment`` is the mean cosine between the
    gradients of different styles, None without meta distillation.
    """

    loss: Tensor
    values: Weights
    alignment: float | None = None


# Trained weights, step (from 0), and learning rate as a share of its peak -> gradient.
FindGradient = Callable[[Mapping[str, Tensor], int, float], Gradient]


def plain_gradient(phase: Phase, weights: Mapping[str, Tensor], step: int, lr_share: float) -> Gradient:
    """The gradient of a batch's mean loss: the ``FindGradient`` of training without meta distillation."""
    loss, values = phase.work(partial(loss_and_gradient, phase.loss(*phase.rows(step)), detached(weights)))
    return Gradient(parallel.total(loss), parallel.summed(values))


def detached(weights: Mapping[str, Tensor]) -> Weights:
    """Copies that start a new graph, with gradients."""
    return {name: value.detach().requires_grad_() for name, value in weights.items()}


def loss_and_gradient(loss: Loss, weights: Weights) -> tuple[Tensor, Weights]:
    """Value and gradient of a loss."""
    value = loss(weights)
    return value.detach().double(), gradient_of(value, weights)


def gradient_of(loss: Tensor, weights: Weights, create_graph: bool = False) -> Weights:
    """Gradient by name; zero for weights that the loss does not depend on."""
    found = torch.autograd.grad(loss, list(weights.values()), create_graph=create_graph, allow_unused=True)
    return {
        name: torch.zeros_like(value) if gradient is None else gradient
        for (name, value), gradient in zip(weights.items(), found, strict=True)
    }


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: a linear rise over ``warmup`` steps, at most half of all, then a cosine to 0."""
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epoch_rate(epoch: int, epochs: int, first: float) -> float:
    """Share of the peak learning rate in an epoch, counted from 0: ``first``, then a cosine by whole epochs.

    The cosine begins one epoch late with its full period, so the last of twenty epochs still has 2.4 % of the peak.

    Source: The schedule of Dassl, with which PromptSRC and PromptKD (Li et al., CVPR 2024) train.
    """
    if epoch == 0 and epochs > 1:
        return first
    return 0.5 * (1 + math.cos(math.pi * max(0, epoch - 1) / epochs))


class Optimiser:
    """AdamW or SGD over a module's trainable weights for ``steps`` steps, with a state that can be restored exactly.

    The head has its own learning rate. Biases and normalisation weights, which are vectors, do not decay.
    """

    def __init__(self, module: nn.Module, settings: DistilSettings, steps: int) -> None:
        self.settings, self.steps = settings, steps
        self.named = {name: value for name, value in module.named_parameters() if value.requires_grad}
        groups: dict[tuple[bool, bool], list[Tensor]] = {}
        for name, value in self.named.items():
            groups.setdefault((".backbone." not in f".{name}", value.ndim > 1), []).append(value)
        described = [
            {
                "params": values,
                "peak": settings.head_lr if is_head else settings.lr,
                "weight_decay": settings.weight_decay if decays else 0.0,
            }
            for (is_head, decays), values in groups.items()
        ]
        self.torch: torch.optim.Optimizer
        if settings.optimiser == "adamw":
            self.torch = torch.optim.AdamW(described, lr=settings.lr)
        else:
            nesterov = settings.optimiser == "sgd"
            self.torch = torch.optim.SGD(described, lr=settings.lr, momentum=0.9, nesterov=nesterov)

    def step(self, gradient: Mapping[str, Tensor], step: int) -> None:
        """Take one step; ``step`` counts from 0."""
        share = self.rate(step)
        for group in self.torch.param_groups:
            group["lr"] = group["peak"] * share
        for name, value in self.named.items():
            value.grad = gradient[name]
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step, by the settings' schedule."""
        if self.settings.schedule == "epochs":
            epochs = self.settings.epochs
            return epoch_rate(min(step * epochs // self.steps, epochs - 1), epochs, _FIRST_EPOCH)
        return rate(step, self.steps, self.settings.warmup_steps)

    def state(self) -> dict[str, Tensor]:
        """``weight name/field`` -> tensor."""
        return {
            f"{name}/{field}": tensor
            for name, value in self.named.items()
            for field, tensor in self.torch.state.get(value, {}).items()
        }

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Restore what ``state`` returned."""
        for key, stored in state.items():
            name, _, field = key.rpartition("/")
            value = self.named[name]
            fields: dict[str, Any] = self.torch.state[value]
            # Use the memory layout of a fresh state; Adam's step counter stays on the CPU.
            fields[field] = stored.clone() if stored.shape != value.shape else torch.empty_like(value).copy_(stored)


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """The part of a module's state dict that training changes: trainable weights, and BatchNorm's statistics."""
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


class MovingAverage:
    """A copy of a module whose weights and statistics follow it slowly, by ``decay`` in [0, 1).

    The decay starts low, ``(1 + t) / (10 + t)``, so that the first weights do not dominate a short run. Frozen weights
    are shared with the module, so a large frozen tower costs neither time nor memory.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        shared: dict[int, Any] = {id(value): value for value in module.parameters() if not value.requires_grad}
        self.module = copy.deepcopy(module, shared).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Move towards the module's present weights; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own = self.module.state_dict()
        for name, value in learned_state(source).items():
            if value.is_floating_point():
                own[name].lerp_(value, 1 - decay)
            else:
                own[name].copy_(value)
