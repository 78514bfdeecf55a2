"""Training images, what a training is set up with, and batches.

Shapes: N images, M of them in memory, B images of a batch, C classes, F student features, S x S pixels of a view.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.core.files import sha256_json
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import tensor_digest
from clipstill.distillation.photos import Cut
from clipstill.distillation.views import plain_view, to_unit

if TYPE_CHECKING:
    from clipstill.distillation.photos import PhotoSet, Task
    from clipstill.distillation.settings import DistilSettings
    from clipstill.distillation.soft_labels import SoftLabels
    from clipstill.distillation.views import Views
    from clipstill.students.student import Student

# One in this many images of each class is held out if there are not enough styles.
_EVERY = 10
# Rows of images, and the seed of their views.
Rows = tuple[Tensor, tuple[int | str, ...]]


@dataclass(frozen=True)
class TrainingData:
    """Images to train on: those in memory, and behind them photos in files.

    Attributes:
        pixels_M3HW: Synthetic images, uint8.
        class_id_N: Class that an image was made for, -1 for none.
        style_id_N: Style of an image, -1 for none.
        photos: Photos in files; None where there are none.
    """

    pixels_M3HW: Tensor
    class_id_N: Tensor
    style_id_N: Tensor
    photos: PhotoSet | None = None

    @classmethod
    def of_no_class(cls, pixels_M3HW: Tensor | None = None) -> TrainingData:
        """Images that were made for no class, and of no style; without pixels, no image."""
        if pixels_M3HW is None:
            pixels_M3HW = torch.zeros((0, 3, 1, 1), dtype=torch.uint8)
        none_M = torch.full((len(pixels_M3HW),), -1)
        return cls(pixels_M3HW, none_M, none_M)

    def with_photos(self, photos: PhotoSet, class_id_K: Tensor | None = None) -> TrainingData:
        """These images and K photos, which have no style; without ``class_id_K`` they are of no class."""
        none_K = torch.full((len(photos),), -1)
        classes = none_K if class_id_K is None else class_id_K
        return TrainingData(
            self.pixels_M3HW,
            torch.cat([self.class_id_N, classes]),
            torch.cat([self.style_id_N, none_K]),
            photos,
        )

    def __len__(self) -> int:
        return len(self.class_id_N)

    @cached_property
    def digest(self) -> str:
        """Hash of everything that views are made of, and of classes and styles."""
        tensors = {"pixels": self.pixels_M3HW, "classes": self.class_id_N, "styles": self.style_id_N}
        return sha256_json([tensor_digest(tensors), None if self.photos is None else self.photos.digest])

    def where(self, mask_N: Tensor) -> TrainingData:
        """The images where a bool mask is true."""
        pixels, photos = len(self.pixels_M3HW), self.photos
        return TrainingData(
            self.pixels_M3HW[mask_N[:pixels]],
            self.class_id_N[mask_N],
            self.style_id_N[mask_N],
            None if photos is None else photos.at(mask_N[pixels:].numpy()),
        )

    def on(self, device: torch.device) -> TrainingData:
        """The same with the images in memory on a GPU, where they take at most a quarter of what is free there."""
        if device.type != "cuda" or self.pixels_M3HW.nbytes > torch.cuda.mem_get_info(device)[0] / 4:
            return self
        return replace(self, pixels_M3HW=self.pixels_M3HW.to(device))

    def stop_reading(self) -> None:
        """End the processes that read photos; they start anew where they are needed."""
        if self.photos is not None:
            self.photos.stop()

    def pixels(self, size: int) -> Tensor:
        """All images as they are, uint8: at the size of those in memory, or else as squares of that size."""
        if self.photos is None:
            return self.pixels_M3HW
        if len(self.pixels_M3HW) == 0:
            return self.photos.squares(size)
        return torch.cat([self.pixels_M3HW, self.photos.squares(self.pixels_M3HW.shape[-1])])

    def views(
        self,
        rows: Rows,
        draw: Views,
        device: torch.device,
        *,
        own: slice = slice(None),
        ahead: Iterable[Rows] = (),
    ) -> Tensor:
        """Random views (B, 3, S, S) in [0, 1] of some images.

        Args:
            rows: Positions of the images, and the seed of their views.
            draw: What draws them.
            device: Device of the result.
            own: The part of the rows that is wanted; the views do not depend on it.
            ahead: Rows that are probably asked for next, with the same ``own``.

        Raises:
            DataError: A photo is gone or was changed.
            ResourceError: A process that reads photos was ended.
        """
        row_B, seed = rows
        stored = len(self.pixels_M3HW)
        if self.photos is None:
            return draw(to_unit(self.pixels_M3HW[row_B], device), *seed)[own]
        read = self.photos.read(self._crops(rows, draw, own), (self._crops(each, draw, own) for each in ahead))
        crop_K3SS = to_unit(read, device)
        if len(crop_K3SS) == len(row_B):
            return draw.recoloured(crop_K3SS, *seed)
        photo_B, own_B = row_B >= stored, torch.zeros(len(row_B), dtype=torch.bool)
        own_B[own] = True
        view_B3SS = torch.zeros((len(row_B), 3, draw.size, draw.size), device=device)
        if not bool(photo_B.all()):
            view_B3SS[~photo_B] = draw(to_unit(self.pixels_M3HW[row_B[~photo_B]], device), *seed)
        view_B3SS[photo_B & own_B] = crop_K3SS
        # All of them, so that no draw depends on the share.
        view_B3SS[photo_B] = draw.recoloured(view_B3SS[photo_B], *seed)
        return view_B3SS[own]

    def _crops(self, rows: Rows, draw: Views, own: slice) -> Task:
        assert self.photos is not None
        row_B = rows[0][own] - len(self.pixels_M3HW)
        return self.photos.task(row_B[row_B >= 0], Cut(draw.size, draw.crop_min, draw.kernel, rows[1]))

    def in_order(
        self, at_once: int, look: Views | int, device: torch.device, seed: tuple[int | str, ...] = ()
    ) -> Iterator[Tensor]:
        """All images in turn: random views, or where ``look`` is a number the images as they are at that size.

        Yields:
            At most ``at_once`` images (B, 3, S, S) in [0, 1]; the seed of views is ``seed`` and the first row.
        """
        chunks = [
            (torch.arange(start, min(start + at_once, len(self))), (*seed, start))
            for start in range(0, len(self), at_once)
        ]
        for number, rows in enumerate(chunks, 1):
            if isinstance(look, int):
                yield self._plain(rows, look, device, ahead=itertools.islice(chunks, number, None))
            else:
                yield self.views(rows, look, device, ahead=itertools.islice(chunks, number, None))

    def _plain(self, rows: Rows, size: int, device: torch.device, ahead: Iterable[Rows]) -> Tensor:
        row_B, stored = rows[0], len(self.pixels_M3HW)
        parts = []
        if int(row_B[0]) < stored:
            parts.append(plain_view(to_unit(self.pixels_M3HW[row_B[row_B < stored]], device), size))
        if self.photos is not None and int(row_B[-1]) >= stored:
            tasks = (self._squares(each, size) for each in itertools.chain([rows], ahead))
            parts.append(to_unit(self.photos.read(next(tasks), tasks), device))
        return torch.cat(parts)

    def _squares(self, rows: Rows, size: int) -> Task:
        assert self.photos is not None
        row_B = rows[0] - len(self.pixels_M3HW)
        return self.photos.task(row_B[row_B >= 0], Cut(size))


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
