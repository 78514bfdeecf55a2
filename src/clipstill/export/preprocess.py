"""What ``preprocess.json`` says: how a photo becomes the model's input, in enough detail to write it in any language.

The runtime does these steps by ``core.images``; a test writes them a second time from this description alone.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from clipstill.core.images import WIDEST
from clipstill.core.protocols import Preprocess


def preprocess_json(preprocess: Preprocess) -> dict[str, Any]:
    """The numbers, and the steps in their order. ``//`` is floor division; a half rounds to the even neighbour."""
    size = preprocess.size
    side = max(size, round(size / preprocess.crop_fraction))
    return {
        **asdict(preprocess),
        "channels": "RGB",
        "resize": "short side to round(size / crop_fraction), bicubic with antialias; then cut the centre square",
        "model_input": "float32 N3HW in [0, 1]; (x - mean) / std is inside the model",
        "steps": [
            {
                "step": "decode",
                "how": "first frame; turn as the EXIF orientation says; composite transparency on white; 16-bit grey "
                "to 8 bits by dropping the low byte (where no value is above 255, keep the values); grey to three "
                "equal channels; uint8 RGB",
            },
            {
                "step": "cut",
                "how": f"only where the long side is over {WIDEST} times the short side: keep {WIDEST} * short of it, "
                f"from (long - {WIDEST} * short) // 2 on",
            },
            {
                "step": "resize",
                "short_side": side,
                "how": "width * short_side // short by height * short_side // short pixels; nothing is done where both "
                "are as before",
                "kernel": {
                    "name": "bicubic",
                    "a": -0.5,
                    "near": "(a + 2) |t|^3 - (a + 3) |t|^2 + 1 for |t| < 1",
                    "far": "a |t|^3 - 5 a |t|^2 + 8 a |t| - 4 a for 1 <= |t| < 2",
                    "antialias": "the kernel is as many times wider as the side shrinks: scale = old / new, "
                    "stretch = max(1, scale)",
                    "pixel_centres": "new pixel i lies at c = (i + 0.5) * scale; old pixel j, at j + 0.5, weighs "
                    "kernel((j + 0.5 - c) / stretch)",
                    "bounds": "j from floor(c - 2 stretch + 0.5) to floor(c + 2 stretch + 0.5), without the latter, "
                    "within the image",
                    "weights": "divided by their sum; then round(w * 2^22), a half away from zero, as integers",
                },
                "passes": "all rows first, then all columns, each pass only where that side changes; after each pass "
                "(sum + 2^21) >> 22, clipped to 0..255",
            },
            {
                "step": "crop",
                "size": size,
                "how": "from left = round((width - size) / 2) and top = round((height - size) / 2) on",
            },
            {"step": "scale", "how": "divide by 255 as float32; channels first"},
        ],
        "same_by": {
            "torchvision": f"on a decoded PIL image up to {WIDEST}:1: Resize({side}, InterpolationMode.BICUBIC), "
            f"CenterCrop({size}), then PILToTensor() / 255; equal to the pixel",
        },
    }
