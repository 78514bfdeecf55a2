"""A student on a frozen image tower: only prompts and the head are trained.

Source: Li et al., PromptKD, CVPR 2024 (a small CLIP's image tower taught by a larger one); Bahng et al., Exploring
Visual Prompts for Adapting Large-Scale Models, 2022 (the frame). The frame in convolutional networks, instead of
PromptKD's tokens, is an extension of clipstill.

Shapes: N images, F features, S side of an image in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError
from clipstill.students.student import Backbone, Student


class FramedBackbone(nn.Module):
    """A backbone with a learned frame around every image, which starts as zero.

    Args:
        backbone: Normalised images (N, 3, S, S) -> features (N, F); its weights are frozen.
        width: Width of the frame in pixels.
        image_size: Side of an image in pixels, S.

    Raises:
        ConfigError: The frame covers the whole image.
    """

    outside_SS: Tensor

    def __init__(self, backbone: nn.Module, width: int, image_size: int) -> None:
        super().__init__()
        if 2 * width >= image_size:
            raise ConfigError(
                f"a frame of {width} pixels leaves nothing of an image of {image_size}. Set student.prompts lower."
            )
        self.backbone = backbone.requires_grad_(False)
        self.prompts = nn.Parameter(torch.zeros(3, image_size, image_size))
        outside_SS = torch.ones(image_size, image_size)
        outside_SS[width : image_size - width, width : image_size - width] = 0
        self.register_buffer("outside_SS", outside_SS, persistent=False)

    def forward(self, x_N3SS: Tensor) -> Tensor:
        """Normalised images -> features (N, F)."""
        feat_NF: Tensor = self.backbone(x_N3SS + self.prompts * self.outside_SS)
        return feat_NF


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
