"""What the student is taught on: synthetic images, and the examples among them.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from clipstill.core.images import ImageFolder, iterate
from clipstill.surrogate.dataset import SurrogateSet

# Pictures that are no synthetic image of a class: the trainer neither holds them out nor takes their statistics for
# those of the others.
_NO_CLASS = -1
_AT_ONCE = 64


@dataclass(frozen=True)
class TeachingSet:
    """Pictures with what the trainer must know of them.

    Attributes:
        images_N3HW: uint8.
        class_id_N: class of a synthetic image, -1 for an example. No label is taught: the teacher's answer is.
        style_id_N: style of a synthetic image, -1 for an example.
        examples: different examples among the pictures.
        repeats: how often each of them is there.
    """

    images_N3HW: Tensor
    class_id_N: Tensor
    style_id_N: Tensor
    examples: int
    repeats: int

    @classmethod
    def of(
        cls, made: SurrogateSet, folder: ImageFolder | None, share: float, student_size: int, styles: int
    ) -> TeachingSet:
        """Put synthetic images and examples together, where every class has examples.

        Where some have none, examples would teach that all photos show the other classes.

        Args:
            made: synthetic images that teach.
            folder: examples; None where there are none.
            share: of the examples in the whole, in [0, 1).
            student_size: side in pixels that the student sees; examples are not stored below it.
            styles: that all classes have. A style that only some classes have tells little when it is held out: it
                goes with one that all have.
        """
        style_id_N = made.style_id % max(1, styles)
        if folder is None or share == 0 or folder.classes_without_images:
            return cls(made.images, made.class_id, style_id_N, 0, 0)
        size = max(made.images.shape[-1], student_size)
        examples_M3HW = read_all(folder, size)
        repeats = max(1, round(len(made) * share / (1 - share) / len(examples_M3HW)))
        outside_M = torch.full((len(examples_M3HW) * repeats,), _NO_CLASS)
        return cls(
            torch.cat([_resized(made.images, size), examples_M3HW.repeat(repeats, 1, 1, 1)]),
            torch.cat([made.class_id, outside_M]),
            torch.cat([style_id_N, outside_M]),
            len(examples_M3HW),
            repeats,
        )


def read_all(folder: ImageFolder, size: int) -> Tensor:
    """All readable pictures: uint8 (N, 3, size, size). The stage of class vectors told of the others."""
    parts = [images_NHW3 for images_NHW3, _, _ in iterate(folder, size, 1.0, _AT_ONCE, lambda path, reason: None)]
    return torch.from_numpy(np.concatenate(parts)).permute(0, 3, 1, 2).contiguous()


def _resized(images_N3HW: Tensor, size: int) -> Tensor:
    if images_N3HW.shape[-1] == size:
        return images_N3HW
    parts = [
        interpolate(part.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
        for part in torch.split(images_N3HW, _AT_ONCE)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
