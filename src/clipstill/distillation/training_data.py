"""Training images, what a training is set up with, and batches.

Shapes: N images, B images of a batch, C classes, F student features.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.core.seeds import generator_for

if TYPE_CHECKING:
    from clipstill.distillation.settings import DistilSettings
    from clipstill.distillation.soft_labels import SoftLabels
    from clipstill.students.student import Student

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

    def __len__(self) -> int:
        return len(self.pixels_N3HW)

    def where(self, mask_N: Tensor) -> TrainingData:
        """The images where a bool mask is true."""
        return TrainingData(self.pixels_N3HW[mask_N], self.class_id_N[mask_N], self.style_id_N[mask_N])


@dataclass(frozen=True)
class Setup:
    """What all phases of a training share. ``held_out`` chooses the best weights and may be empty."""

    student: Student
    labels: SoftLabels
    train: TrainingData
    held_out: TrainingData
    settings: DistilSettings
    folder: Path
    seed: int


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
