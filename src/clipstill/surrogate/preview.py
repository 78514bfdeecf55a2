"""A picture of the images at work, for whoever watches a run.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipstill.core.files import atomic_path
from clipstill.core.synthetic_mark import save_marked

MOST_IMAGES = 64
_GAP = 2


class Preview:
    """Keeps a grid of the images at work in a file, renewed every few seconds.

    Args:
        path: of the PNG file.
        submit: takes a job that writes; so the work does not wait for the disk.
        every_s: seconds between two pictures.
    """

    def __init__(self, path: Path, submit: Callable[..., None], every_s: float = 5.0) -> None:
        self._path, self._submit, self._every_s = path, submit, every_s
        self._next = time.monotonic() + every_s

    def __call__(self, x_N3HW: Tensor) -> None:
        """Take the images of a step, in [0, 1]; most of the time it is too soon for another picture."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + self._every_s
        shown_NHW3 = (x_N3HW[:MOST_IMAGES] * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        self._submit(write_grid, self._path, shown_NHW3)


def write_grid(path: Path, images_NHW3: NDArray[np.uint8]) -> None:
    """Write images side by side, about as many rows as columns, on white.

    Raises:
        ResourceError: the disk is full or not writable.
    """
    images, height, width, _ = images_NHW3.shape
    columns = math.ceil(math.sqrt(images))
    rows = math.ceil(images / columns)
    shape = (rows * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    grid_HW3 = np.full(shape, 255, np.uint8)
    for number, image_HW3 in enumerate(images_NHW3):
        top, left = (number // columns) * (height + _GAP), (number % columns) * (width + _GAP)
        grid_HW3[top : top + height, left : left + width] = image_HW3
    with atomic_path(path) as temporary:
        save_marked(Image.fromarray(grid_HW3), temporary, "PNG")
