"""A student on a teacher's frozen image tower: only prompts and the head are trained.

Source: Li et al., PromptKD, CVPR 2024 (a small CLIP's image tower taught by a larger one).
"""

from __future__ import annotations

from clipstill.students.student import Backbone, Student


class TowerStudent(Student):
    """As ``Student``, but only the prompts of the backbone are trained, and it stays in evaluation mode.

    Args:
        backbone: Image tower of a teacher; those of its parameters that require a gradient are its prompts.
        classes: Number of classes, at least 2.
        seed: Seed of the head's weights.
        trained: Whether the whole tower is trained, except for its BatchNorm statistics.
    """

    def __init__(self, backbone: Backbone, classes: int, seed: int = 0, *, trained: bool = False) -> None:
        self._learned = [value for value in backbone.network.parameters() if value.requires_grad or trained]
        backbone.network.eval()
        super().__init__(backbone, classes, seed)

    def freeze_backbone(self, frozen: bool) -> None:
        """Exclude the trained part of the tower from training, or include it again."""
        for value in self._learned:
            value.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> TowerStudent:
        """As ``nn.Module.train``, but the tower stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self
