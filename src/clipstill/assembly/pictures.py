"""Pictures that exported formats are calibrated on, compared on and measured on.

Shapes: N images, S pixels a side.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.assembly.training import read_all
from clipstill.core.image_folder import ImageFolder
from clipstill.core.seeds import generator_for
from clipstill.export.measure import Photos, Pictures
from clipstill.workflow.photos import limited

if TYPE_CHECKING:
    from clipstill.core.protocols import Preprocess

# Ranges need a few dozen pictures, and a share of changed answers a few hundred; all formats see each of them.
_MOST_CALIBRATION = 64
_MOST_HELD_OUT = 256
MOST_PICTURES = _MOST_CALIBRATION + _MOST_HELD_OUT
_MOST_PHOTOS = 1000


def split_pictures(pixels_N3HW: Tensor, seed: int, photos: Mapping[str, Photos] | None = None) -> Pictures:
    """Pictures to calibrate on and others to compare answers on, drawn from uint8 pixels of any one size."""
    order_N = torch.randperm(len(pixels_N3HW), generator=generator_for(seed, "export"))
    first = min(_MOST_CALIBRATION, (len(order_N) + 1) // 2)
    calibration_NHW3, held_out_NHW3 = (
        pixels_N3HW[part_N].permute(0, 2, 3, 1).contiguous().numpy()
        for part_N in (order_N[:first], order_N[first : first + _MOST_HELD_OUT])
    )
    return Pictures(calibration_NHW3, held_out_NHW3, photos or {})


def labelled_photos(folder: ImageFolder, preprocess: Preprocess) -> Photos:
    """A folder's photos as the student sees them; of very many photos, equally many of each class."""
    some = limited(folder, max(1, _MOST_PHOTOS // len(folder.classes)), 0)
    pixels_N3HW, label_N = read_all(some, preprocess)
    return Photos(pixels_N3HW.permute(0, 2, 3, 1).contiguous().numpy(), label_N.numpy())
