"""A student that is a teacher's image tower: its weights stay, prompts and a projector learn.

Source: Li et al., PromptKD, CVPR 2024: a small CLIP's image tower taught by a larger one.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.students.student import Student


class TowerStudent(Student):
    """As ``Student``, where ``freeze_backbone(False)`` sets the backbone's prompts free and nothing else of it.

    Args:
        name: ``tower:`` and the teacher's name.
        backbone: what a teacher gives as ``image_backbone``; of its parameters, those that require a gradient are its
            prompts.
        classes: C.
        preprocess: size, mean and standard deviation.
        provenance: of the tower's weights.
        seed: of the head's weights.
        logit_scale: that the tower was trained with; a head of class vectors keeps it.
        trained: let the whole tower learn, its BatchNorm's statistics excepted.
    """

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        classes: int,
        preprocess: Preprocess,
        provenance: Sequence[Provenance] = (),
        seed: int = 0,
        logit_scale: float | None = None,
        trained: bool = False,
    ) -> None:
        if classes < 2:
            raise ConfigError(f"a student needs at least 2 classes, not {classes}. Name more classes.")
        backbone.eval()
        with torch.no_grad():
            features = int(backbone(torch.zeros(1, 3, preprocess.size, preprocess.size)).shape[1])
        self._learned = [value for value in backbone.parameters() if value.requires_grad or trained]
        super().__init__(name, backbone, features, classes, preprocess, provenance, seed)
        self.logit_scale = logit_scale

    def freeze_backbone(self, frozen: bool) -> None:
        """Take what learns out of training, or put it back: prompts, or where the tower is trained all of it."""
        for value in self._learned:
            value.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> TowerStudent:
        """As ``nn.Module.train``, with the tower staying in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self
