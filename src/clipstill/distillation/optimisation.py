"""Optimiser, learning rate and moving average, each with a state that can be stored and put back exactly."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from clipstill.distillation.settings import DistilSettings

# PromptKD's first epoch goes at 1e-5, and its peak is 0.005.
_FIRST_EPOCH = 0.002


def rate(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate at a step: a linear rise over ``warmup`` steps, then a cosine to zero.

    Never zero at the first step, and the rise takes at most half of the phase.
    """
    warmup = min(warmup, steps // 2)
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def epoch_rate(epoch: int, epochs: int, first: float) -> float:
    """Share of the peak learning rate in an epoch, counted from 0: ``first``, then a cosine by whole epochs.

    Of twenty epochs the last has 2.4 % of the peak: the cosine's own count begins after the first epoch, and its period
    does not shrink with that.

    Source: the schedule of Dassl, by which PromptSRC and PromptKD (Li et al., CVPR 2024) are trained.
    """
    if epoch == 0 and epochs > 1:
        return first
    return 0.5 * (1 + math.cos(math.pi * max(0, epoch - 1) / epochs))


class Optimiser:
    """AdamW or SGD over a module's trainable weights, with the head's own rate and no decay of vectors.

    Args:
        module: a student, or a head alone.
        settings: rates, decay, kind.
        steps: of the phase.
    """

    def __init__(self, module: nn.Module, settings: DistilSettings, steps: int) -> None:
        self.settings = settings
        self.steps = steps
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
        """Go one step down a gradient, given by weight's name; ``step`` counts from 0."""
        share = self.rate(step)
        for group in self.torch.param_groups:
            group["lr"] = group["peak"] * share
        for name, value in self.named.items():
            value.grad = gradient[name]
        self.torch.step()
        self.torch.zero_grad(set_to_none=True)

    def rate(self, step: int) -> float:
        """Share of the peak learning rate at a step, as the settings' schedule has it."""
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
        """Put back what ``state`` gave."""
        for key, stored in state.items():
            name, _, field = key.rpartition("/")
            value = self.named[name]
            fields: dict[str, Any] = self.torch.state[value]
            # The same memory layout as a fresh state has; Adam's step counter stays on the CPU.
            fields[field] = stored.clone() if stored.shape != value.shape else torch.empty_like(value).copy_(stored)


def learned_state(module: nn.Module) -> dict[str, Tensor]:
    """Of a module's state dict what training may change: trainable weights, and statistics."""
    frozen = {name for name, value in module.named_parameters() if not value.requires_grad}
    return {name: value for name, value in module.state_dict().items() if name not in frozen}


class MovingAverage:
    """A copy of a module whose weights and statistics follow it slowly.

    The decay starts low, ``(1 + t) / (10 + t)``, so that a short run is not dominated by its first weights.

    Weights that do not train are shared with the module, so that a large frozen tower costs neither time nor memory.

    Args:
        module: what is followed.
        decay: in [0, 1); 0 makes the copy equal to the module.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        shared: dict[int, Any] = {id(value): value for value in module.parameters() if not value.requires_grad}
        self.module = copy.deepcopy(module, shared).requires_grad_(False).eval()

    @torch.no_grad()
    def update(self, source: nn.Module, step: int) -> None:
        """Move towards ``source``; ``step`` counts from 0."""
        decay = min(self.decay, (1 + step) / (10 + step))
        own = self.module.state_dict()
        for name, value in learned_state(source).items():
            if value.is_floating_point():
                own[name].lerp_(value, 1 - decay)
            else:
                own[name].copy_(value)
