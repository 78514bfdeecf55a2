"""``preprocess.json`` against other ways to the same pixels: torchvision's, and its description written once more."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from clipstill.core.images import fit_square, load_rgb
from clipstill.core.protocols import Preprocess
from clipstill.export.bundle import preprocess_json

SHAPES = [
    (1, 1), (2, 3), (3, 2), (31, 33), (32, 32), (33, 47), (47, 33), (64, 64), (37, 148), (148, 37), (101, 99),
    (99, 101), (120, 160), (160, 120), (161, 227), (227, 161), (255, 64), (300, 299), (333, 500), (500, 333),
    (257, 1027), (640, 427),
]  # fmt: skip
FITS = [(32, 1.0), (32, 0.875), (45, 0.9), (128, 1.0), (224, 0.875)]


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """Of all pictures, noise shows a wrong pixel soonest."""
    return Image.fromarray(np.random.default_rng((width, height, seed)).integers(0, 256, (height, width, 3), np.uint8))


def by_torchvision(image: Image.Image, size: int, crop_fraction: float) -> np.ndarray:
    side = json.loads(json.dumps(preprocess_json(fit(size, crop_fraction))))["steps"][2]["short_side"]
    return np.asarray(Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(size)])(image))


def fit(size: int, crop_fraction: float) -> Preprocess:
    return Preprocess(size, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), crop_fraction)


@pytest.mark.parametrize(("size", "crop_fraction"), FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_those_of_torchvision(shape: tuple[int, int], size: int, crop_fraction: float) -> None:
    image = noise(*shape)
    np.testing.assert_array_equal(fit_square(image, size, crop_fraction), by_torchvision(image, size, crop_fraction))


@pytest.mark.parametrize("shape", [(700, 90), (90, 700), (901, 3), (3, 901), (50, 1)])
def test_pixels_of_a_panorama_are_those_of_torchvision_after_the_cut(shape: tuple[int, int]) -> None:
    (width, height), image = shape, noise(*shape)
    widest = 4 * min(shape)
    left, top = (max(0, (side - widest) // 2) for side in shape)
    cut = image.crop((left, top, left + min(width, widest), top + min(height, widest)))
    np.testing.assert_array_equal(fit_square(image, 32, 0.875), by_torchvision(cut, 32, 0.875))


def decoded(path: Path) -> Image.Image:
    """As a user of Pillow would read the step "decode", without clipstill."""
    image = Image.open(path)
    orientation = image.getexif().get(0x0112, 1)
    turned = {2: [0], 3: [3], 4: [1], 5: [5], 6: [4], 7: [6], 8: [2]}.get(orientation, [])
    raw = np.asarray(image)
    if image.mode.startswith("I"):
        raw = raw.astype(np.int64)
        image = Image.fromarray((raw // 256 if raw.max() > 255 else raw).astype(np.uint8))
    if image.mode in ("RGBA", "LA"):
        layered = image.convert("RGBA")
        image = Image.composite(layered, Image.new("RGBA", layered.size, "white"), layered.getchannel("A"))
    image = image.convert("RGB")
    for method in turned:
        image = image.transpose(Image.Transpose(method))
    return image


def _stored(kind: str, path: Path) -> Path:
    plain = noise(61, 47)
    if kind == "grey":
        plain.convert("L").save(path)
    elif kind == "rgba":
        alpha = Image.fromarray(np.random.default_rng(1).choice([0, 255], (47, 61)).astype(np.uint8))
        plain.putalpha(alpha)
        plain.save(path)
    elif kind == "palette":
        plain.quantize(64).save(path)
    elif kind == "16-bit":
        Image.fromarray(np.random.default_rng(2).integers(0, 65536, (47, 61)).astype(np.uint16)).save(path)
    elif kind == "16-bit, dark":
        Image.fromarray(np.random.default_rng(2).integers(0, 256, (47, 61)).astype(np.uint16)).save(path)
    else:
        exif = Image.Exif()
        exif[0x0112] = int(kind.split()[1])
        plain.save(path, exif=exif)
    return path


@pytest.mark.parametrize(
    "kind", ["grey", "rgba", "palette", "16-bit", "16-bit, dark", *(f"exif {turn}" for turn in range(1, 9))]
)
def test_pixels_of_odd_files_are_those_of_torchvision(kind: str, tmp_path: Path) -> None:
    path = _stored(kind, tmp_path / "odd.png")
    found = fit_square(load_rgb(path), 32, 0.875)
    np.testing.assert_array_equal(found, by_torchvision(decoded(path), 32, 0.875))


def resized_once(pixels_HWC: np.ndarray, new_width: int, kernel: dict[str, Any]) -> np.ndarray:
    """One pass along the rows, in integers, from the description alone."""
    old_width = pixels_HWC.shape[1]
    if new_width == old_width:
        return pixels_HWC
    a = kernel["a"]

    def weight(t: float) -> float:
        t = abs(t)
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    scale = old_width / new_width
    stretch = max(1.0, scale)
    columns = []
    for i in range(new_width):
        centre = (i + 0.5) * scale
        first = max(0, math.floor(centre - 2 * stretch + 0.5))
        last = min(old_width, math.floor(centre + 2 * stretch + 0.5))
        weights = [weight((j + 0.5 - centre) / stretch) for j in range(first, last)]
        whole = sum(weights)
        integers = [math.floor(abs(w / whole) * 2**22 + 0.5) * (1 if w >= 0 else -1) for w in weights]
        summed_HC = sum(
            pixels_HWC[:, j].astype(np.int64) * w for j, w in zip(range(first, last), integers, strict=True)
        )
        columns.append(np.clip((summed_HC + 2**21) >> 22, 0, 255))
    return np.stack(columns, axis=1).astype(np.uint8)


def by_description(image: Image.Image, told: dict[str, Any]) -> np.ndarray:
    """Without Pillow's arithmetic: what somebody does who has ``preprocess.json`` and nothing else."""
    pixels_HWC = np.asarray(image)
    height, width = pixels_HWC.shape[:2]
    short, side, size = min(width, height), told["steps"][2]["short_side"], told["size"]
    kernel = told["steps"][2]["kernel"]
    if max(width, height) > 4 * short:
        left, top = max(0, (width - 4 * short) // 2), max(0, (height - 4 * short) // 2)
        pixels_HWC = pixels_HWC[top : top + 4 * short, left : left + 4 * short]
        height, width = pixels_HWC.shape[:2]
    rows_first = resized_once(pixels_HWC, width * side // short, kernel)
    both = resized_once(rows_first.transpose(1, 0, 2), height * side // short, kernel).transpose(1, 0, 2)
    left, top = round((both.shape[1] - size) / 2), round((both.shape[0] - size) / 2)
    return both[top : top + size, left : left + size]


@pytest.mark.parametrize("shape", [(33, 47), (101, 99), (148, 37), (161, 227), (300, 50), (7, 5), (64, 64)])
@pytest.mark.parametrize(("size", "crop_fraction"), [(32, 0.875), (64, 1.0)])
def test_description_alone_gives_the_same_pixels(shape: tuple[int, int], size: int, crop_fraction: float) -> None:
    image = noise(*shape, seed=5)
    told = json.loads(json.dumps(preprocess_json(fit(size, crop_fraction))))
    np.testing.assert_array_equal(by_description(image, told), fit_square(image, size, crop_fraction))
