"""``preprocess.json`` against other ways to the same pixels: torchvision's, open_clip's, its own description."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from open_clip.transform import PreprocessCfg, image_transform_v2
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from clipstill.core.images import fit, load_rgb
from clipstill.core.protocols import INTERPOLATIONS, RESIZE_MODES, Interpolation, Preprocess, ResizeMode, Size
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
    side = json.loads(json.dumps(preprocess_json(Preprocess(size, crop_fraction=crop_fraction))))["steps"][2][
        "short_side"
    ]
    return np.asarray(Compose([Resize(side, InterpolationMode.BICUBIC), CenterCrop(size)])(image))


@pytest.mark.parametrize(("size", "crop_fraction"), FITS)
@pytest.mark.parametrize("shape", SHAPES)
def test_pixels_are_those_of_torchvision(shape: tuple[int, int], size: int, crop_fraction: float) -> None:
    image = noise(*shape)
    np.testing.assert_array_equal(
        fit(image, Preprocess(size, crop_fraction=crop_fraction)), by_torchvision(image, size, crop_fraction)
    )


@pytest.mark.parametrize("shape", [(700, 90), (90, 700), (901, 3), (3, 901), (50, 1)])
def test_pixels_of_a_panorama_are_those_of_torchvision_after_the_cut(shape: tuple[int, int]) -> None:
    (width, height), image = shape, noise(*shape)
    widest = 4 * min(shape)
    left, top = (max(0, (side - widest) // 2) for side in shape)
    cut = image.crop((left, top, left + min(width, widest), top + min(height, widest)))
    np.testing.assert_array_equal(fit(image, Preprocess(32, crop_fraction=0.875)), by_torchvision(cut, 32, 0.875))


def by_open_clip(image: Image.Image, preprocess: Preprocess) -> np.ndarray:
    """open_clip's own preprocessing, up to uint8."""
    config = PreprocessCfg(
        size=preprocess.size,
        mean=(0.0,) * 3,
        std=(1.0,) * 3,
        interpolation=preprocess.interpolation,
        resize_mode=preprocess.resize_mode,
        fill_color=preprocess.fill,
    )
    x_3HW = image_transform_v2(config, is_train=False)(image)
    return (x_3HW * 255).round().byte().permute(1, 2, 0).numpy()


@pytest.mark.parametrize("mode", RESIZE_MODES)
@pytest.mark.parametrize("size", [45, 224, (32, 48), (48, 32)])
@pytest.mark.parametrize("shape", [(640, 360), (360, 640), (500, 500), (45, 45), (33, 47), (48, 32), (7, 5), (101, 99)])
def test_pixels_of_each_resize_mode_are_those_of_open_clip(
    shape: tuple[int, int], size: Size, mode: ResizeMode
) -> None:
    image = noise(*shape)
    for kernel in INTERPOLATIONS:
        # open_clip resizes to a shape that is not square by bicubic in any case.
        if mode == "shortest" and isinstance(size, tuple) and kernel != "bicubic":
            continue
        preprocess = Preprocess(size, interpolation=kernel, resize_mode=mode, fill=100)
        np.testing.assert_array_equal(fit(image, preprocess), by_open_clip(image, preprocess))


def test_a_strip_of_one_pixel_is_padded_not_refused() -> None:
    assert fit(noise(900, 1), Preprocess(32, resize_mode="longest")).shape == (32, 32, 3)


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
    found = fit(load_rgb(path), Preprocess(32, crop_fraction=0.875))
    np.testing.assert_array_equal(found, by_torchvision(decoded(path), 32, 0.875))


def resized_once(pixels_HWC: np.ndarray, new_width: int, kernel: dict[str, Any]) -> np.ndarray:
    """One pass along the rows, in integers, from the description alone."""
    old_width = pixels_HWC.shape[1]
    if new_width == old_width:
        return pixels_HWC
    support = kernel["support"]

    def weight(t: float) -> float:
        t = abs(t)
        if kernel["name"] == "bilinear":
            return max(0.0, 1 - t)
        a = kernel["a"]
        if t < 1:
            return (a + 2) * t**3 - (a + 3) * t**2 + 1
        return a * t**3 - 5 * a * t**2 + 8 * a * t - 4 * a if t < 2 else 0.0

    scale = old_width / new_width
    stretch = max(1.0, scale)
    columns = []
    for i in range(new_width):
        centre = (i + 0.5) * scale
        first = max(0, math.floor(centre - support * stretch + 0.5))
        last = min(old_width, math.floor(centre + support * stretch + 0.5))
        weights = [weight((j + 0.5 - centre) / stretch) for j in range(first, last)]
        whole = sum(weights)
        integers = [math.floor(abs(w / whole) * 2**22 + 0.5) * (1 if w >= 0 else -1) for w in weights]
        summed_HC = sum(
            pixels_HWC[:, j].astype(np.int64) * w for j, w in zip(range(first, last), integers, strict=True)
        )
        columns.append(np.clip((summed_HC + 2**21) >> 22, 0, 255))
    return np.stack(columns, axis=1).astype(np.uint8)


def squashed_by_description(image: Image.Image, told: dict[str, Any]) -> np.ndarray:
    resize = next(step for step in told["steps"] if step["step"] == "resize")
    width, height = map(int, re.findall(r"(\d+) by (\d+) pixels", resize["how"])[0])
    rows_first = resized_once(np.asarray(image), width, resize["kernel"])
    return resized_once(rows_first.transpose(1, 0, 2), height, resize["kernel"]).transpose(1, 0, 2)


@pytest.mark.parametrize("kernel", INTERPOLATIONS)
def test_description_of_squash_gives_the_same_pixels(kernel: Interpolation) -> None:
    preprocess = Preprocess((32, 48), interpolation=kernel, resize_mode="squash")
    told = json.loads(json.dumps(preprocess_json(preprocess)))
    assert [step["step"] for step in told["steps"]] == ["decode", "resize", "scale"]
    image = noise(101, 67)
    np.testing.assert_array_equal(squashed_by_description(image, told), fit(image, preprocess))


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
    told = json.loads(json.dumps(preprocess_json(Preprocess(size, crop_fraction=crop_fraction))))
    np.testing.assert_array_equal(
        by_description(image, told), fit(image, Preprocess(size, crop_fraction=crop_fraction))
    )
