"""Training images and batches.

Shapes: N images, B images of a batch, C classes, F student features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from clipstill.core.errors import DataError
from clipstill.core.seeds import generator_for

# One in this many images of each class is held out if there are not enough styles.
_EVERY = 10


@dataclass(frozen=True)
class TrainingData:
    """Images to train on.

    Attributes:
        pixels_N3HW: Synthetic images or photos, uint8.
        class_id_N: Class that an image was made for, -1 for none.
        style_id_N: Style of an image, -1 for none.
    """

    pixels_N3HW: Tensor
    class_id_N: Tensor
    style_id_N: Tensor

    def __post_init__(self) -> None:
        pixels = self.pixels_N3HW
        if pixels.dtype != torch.uint8 or pixels.ndim != 4 or pixels.shape[1] != 3:
            raise DataError(f"training pictures must be uint8 (N, 3, H, W), not {pixels.dtype} {tuple(pixels.shape)}.")
        if not len(pixels) == len(self.class_id_N) == len(self.style_id_N):
            raise DataError(
                f"there are {len(pixels)} training pictures, {len(self.class_id_N)} class ids and "
                f"{len(self.style_id_N)} style ids. Give one of each a picture."
            )

    def __len__(self) -> int:
        return len(self.pixels_N3HW)

    def where(self, mask_N: Tensor) -> TrainingData:
        """The images where a bool mask is true."""
        return TrainingData(self.pixels_N3HW[mask_N], self.class_id_N[mask_N], self.style_id_N[mask_N])


@dataclass(frozen=True)
class Batch:
    """Inputs of a student or its head, and what they teach.

    Attributes:
        inputs: Views (B, 3, S, S) in [0, 1], or cached features (B, F).
        teacher_BC: The teacher's logits.
        class_B: Class that an image was made for, -1 for none.
    """

    inputs: Tensor
    teacher_BC: Tensor
    class_B: Tensor

    def part(self, chosen: slice | Tensor) -> Batch:
        """Some of the images."""
        return Batch(self.inputs[chosen], self.teacher_BC[chosen], self.class_B[chosen])


def held_out_mask(class_id_N: Tensor, style_id_N: Tensor, styles: int, seed: int) -> Tensor:
    """Bool mask (N,) of the images that are not trained on but choose the best weights.

    Whole styles are held out, so that agreement with the teacher is measured on unseen looks. If no style would be left
    to train on, every tenth image of each class is held out instead. Images without a class are held out only if no
    image has one: then every tenth.

    Args:
        class_id_N: Class of each image, -1 for none.
        style_id_N: Style of each image.
        styles: Number of styles to hold out; 0 holds out nothing.
        seed: Seed of the choice of styles.
    """
    mask_N = torch.zeros(len(class_id_N), dtype=torch.bool)
    if styles == 0:
        return mask_N
    has_class_N = class_id_N >= 0
    if not bool(has_class_N.any()):
        mask_N[_EVERY - 1 :: _EVERY] = True
        return mask_N
    present = torch.unique(style_id_N[has_class_N])
    if len(present) > styles:
        order = torch.randperm(len(present), generator=generator_for(seed, "held-out styles"))
        return has_class_N & torch.isin(style_id_N, present[order[:styles]])
    for label in torch.unique(class_id_N[has_class_N]):
        members = (class_id_N == label).nonzero().flatten()
        mask_N[members[_EVERY - 1 :: _EVERY]] = True
    return mask_N
