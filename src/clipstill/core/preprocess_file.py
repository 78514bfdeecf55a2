"""Reads ``preprocess.json`` of a bundle: how a photo becomes the model's input."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_json
from clipstill.core.protocols import INTERPOLATIONS, RESIZE_MODES, Preprocess, Size

PREPROCESS_FILE = "preprocess.json"
# Larger sizes come from damaged files and would take all memory.
_LARGEST_SIZE = 4096


def read_preprocess(path: Path) -> Preprocess:
    """Read and check the file. Without a resize mode it is ``shortest``, bicubic, as in the first bundles.

    Raises:
        ArtifactError: A value is missing or impossible.
    """
    raw = read_json(path)
    try:
        size, crop_fraction, fill = _size(raw["size"]), float(raw["crop_fraction"]), raw.get("fill", 0)
        mean, std = (tuple(float(value) for value in raw[name]) for name in ("mean", "std"))
        interpolation, resize_mode = raw.get("interpolation", "bicubic"), raw.get("resize_mode", "shortest")
        usable = size is not None and len(mean) == len(std) == 3
        # A smaller fraction would enlarge each photo more than tenfold.
        usable = usable and all(map(math.isfinite, (*mean, *std))) and min(std) > 0 and 0.1 <= crop_fraction <= 1
        usable = usable and interpolation in INTERPOLATIONS and resize_mode in RESIZE_MODES
        usable = usable and type(fill) is int and 0 <= fill <= 255
    except (TypeError, KeyError, ValueError, OverflowError, AttributeError):
        usable = False
    if not usable:
        raise ArtifactError(
            f"{path} does not hold a size (a whole number from 1 to {_LARGEST_SIZE}, or two for height and width), "
            f"mean and std (three finite numbers each, std above 0), a crop_fraction from 0.1 to 1, and, where "
            f"they are named, a known interpolation, a known resize_mode and a fill from 0 to 255. Make the bundle "
            f"again."
        )
    assert size is not None
    return Preprocess(
        size,
        mean=(mean[0], mean[1], mean[2]),
        std=(std[0], std[1], std[2]),
        crop_fraction=crop_fraction,
        interpolation=interpolation,
        resize_mode=resize_mode,
        fill=fill,
    )


def _size(raw: Any) -> Size | None:
    sides = raw if isinstance(raw, list) else [raw, raw]
    if len(sides) != 2 or not all(type(side) is int and 1 <= side <= _LARGEST_SIZE for side in sides):
        return None
    return (sides[0], sides[1]) if isinstance(raw, list) else sides[0]
