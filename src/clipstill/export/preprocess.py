"""What ``preprocess.json`` says: how a photo becomes the model's input, in enough detail to write it in any language.

The runtime does these steps by ``core.images``; a test writes them a second time from this description alone.
"""

from __future__ import annotations

from dataclasses import asdict
from importlib import resources
from typing import Any

import yaml

from clipstill.core.images import WIDEST
from clipstill.core.protocols import Preprocess


def preprocess_json(preprocess: Preprocess) -> dict[str, Any]:
    """The numbers, and the steps in their order."""
    size = preprocess.size
    side = max(size, round(size / preprocess.crop_fraction))
    text = resources.files("clipstill").joinpath("export", "preprocess.yaml").read_text(encoding="utf-8")
    return {**asdict(preprocess), **yaml.safe_load(text.format(widest=WIDEST, side=side, size=size))}
