"""Pictures to train a student on.

Shapes: N pictures, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

# Class and style id of a photo: it is of no class that it was made for.
NO_CLASS = -1


@dataclass(frozen=True)
class TrainingData:
    """Pictures with what the trainer must know of them.

    Attributes:
        pixels_N3HW: uint8 pixels.
        class_id_N: Class that a picture was made for; -1 for a photo. No label is trained on: the teacher's answer is.
        style_id_N: Style of a synthetic image; -1 for a photo.
    """

    pixels_N3HW: Tensor
    class_id_N: Tensor
    style_id_N: Tensor

    @classmethod
    def empty(cls, size: int) -> TrainingData:
        """No picture, of a side in pixels."""
        none_N = torch.zeros(0, dtype=torch.long)
        return cls(torch.zeros(0, 3, size, size, dtype=torch.uint8), none_N, none_N)

    def with_photos(self, pixels_M3HW: Tensor) -> TrainingData:
        """The same pictures, and photos of no known class behind them."""
        outside_M = torch.full((len(pixels_M3HW),), NO_CLASS)
        return TrainingData(
            torch.cat([self.pixels_N3HW, pixels_M3HW]),
            torch.cat([self.class_id_N, outside_M]),
            torch.cat([self.style_id_N, outside_M]),
        )

    def keep(self, mask_N: Tensor) -> TrainingData:
        """Only some of the pictures."""
        return TrainingData(self.pixels_N3HW[mask_N], self.class_id_N[mask_N], self.style_id_N[mask_N])
