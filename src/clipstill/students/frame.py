"""Prompts in input space: a learned frame of pixels around what a frozen network sees.

Source: Bahng et al., Exploring Visual Prompts for Adapting Large-Scale Models, 2022. That it stands for the tokens of
PromptKD, which a convolutional network has no place for, is an extension of clipstill.

Shapes: N images, F features, S side of an image in pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError


class FramedBackbone(nn.Module):
    """A backbone that sees every image through the frame, which starts as no change at all.

    Args:
        backbone: normalised images (N, 3, S, S) -> features (N, F); its weights are frozen.
        width: of the frame in pixels.
        image_size: S.

    Raises:
        ConfigError: the frame leaves nothing of the image.
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
