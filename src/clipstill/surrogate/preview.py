"""A picture of the images that are being made, for people who watch a run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from clipstill.core.files import atomic_path
from clipstill.core.synthetic_mark import save_marked

MOST_IMAGES = 64
_GAP = 2
_EVERY_S = 5.0


class Preview:
    """Writes a grid of the images that are being made to a PNG file every few seconds.

    ``submit`` runs the writing job, so that the synthesis does not wait for the disk.
    """

    def __init__(self, path: Path, submit: Callable[[Callable[[], None]], None]) -> None:
        self._path, self._submit = path, submit
        self._next = time.monotonic() + _EVERY_S

    def __call__(self, x_N3HW: Tensor) -> None:
        """Show the images of a step, in [0, 1], if the last picture is old enough."""
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _EVERY_S
        shown_NHW3 = (x_N3HW[:MOST_IMAGES] * 255).round().clamp(0, 255).byte().permute(0, 2, 3, 1).cpu().numpy()
        self._submit(partial(write_grid, self._path, shown_NHW3))


def write_grid(path: Path, pixels_NHW3: NDArray[np.uint8]) -> None:
    """Write images as a PNG grid on white, with about as many rows as columns."""
    images, height, width, _ = pixels_NHW3.shape
    columns = math.ceil(math.sqrt(images))
    rows = math.ceil(images / columns)
    cells = np.full((rows * columns, height + _GAP, width + _GAP, 3), 255, np.uint8)
    cells[:images, :height, :width] = pixels_NHW3
    table = cells.reshape(rows, columns, *cells.shape[1:]).swapaxes(1, 2)
    grid_HW3 = table.reshape(rows * (height + _GAP), columns * (width + _GAP), 3)[:-_GAP, :-_GAP]
    with atomic_path(path) as temporary:
        save_marked(Image.fromarray(np.ascontiguousarray(grid_HW3)), temporary, "PNG")
