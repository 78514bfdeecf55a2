"""What a phase of training trains: a student, or its head alone, and what is only there to teach it.

Shapes: N pictures, C classes, D teacher dimensions, F student features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from clipstill.core.seeds import generator_for
from clipstill.distillation.recentre import Recentre

if TYPE_CHECKING:
    from clipstill.students.student import Student


class Learner(nn.Module):
    """Inputs -> logits, and the features in the teacher's space where they are matched.

    Args:
        whole: a student, which takes views in [0, 1]; or a head, which takes features.
        takes_views: which of the two it is.
        projector: features -> the teacher's space; None where they are not matched.
        recentre: of a whole student's features; a head gets them re-centred.
    """

    def __init__(
        self, whole: nn.Module, takes_views: bool, projector: nn.Linear | None, recentre: Recentre | None
    ) -> None:
        super().__init__()
        self._takes_views = takes_views
        self.whole = whole
        self.projector = projector
        self._recentre = recentre

    def forward(self, inputs: Tensor, group_N: Tensor) -> tuple[Tensor, Tensor | None]:
        """Logits (N, C), and (N, D) or None.

        Args:
            inputs: views (N, 3, S, S), or features (N, F).
            group_N: of each picture, for the re-centring.
        """
        feat_NF, head = inputs, self.whole
        if self._takes_views:
            student = cast("Student", self.whole)
            feat_NF, head = student.features(inputs), student.head
            if self._recentre is not None:
                feat_NF = self._recentre(feat_NF, group_N)
        return head(feat_NF), None if self.projector is None else self.projector(feat_NF)


def new_projector(features: int, dimensions: int, seed: int) -> nn.Linear:
    """F -> D, drawn from its own seed."""
    projector = nn.Linear(features, dimensions, device="meta").to_empty(device="cpu")
    with torch.no_grad():
        projector.weight.normal_(0.0, features**-0.5, generator=generator_for(seed, "projector"))
        projector.bias.zero_()
    return projector


@contextmanager
def statistics_kept(module: nn.Module) -> Iterator[None]:
    """BatchNorm goes on normalising by the batch, and its running statistics stay where they are.

    For passes at weights that the student will never have: those of an inner step.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, nn.modules.batchnorm._BatchNorm)]
    kept = [(layer, layer.momentum) for layer in layers]
    try:
        for layer in layers:
            layer.momentum = 0.0
        yield
    finally:
        for layer, momentum in kept:
            layer.momentum = momentum
