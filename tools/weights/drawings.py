"""Drawings and emoji with random backgrounds, turned, sketched, faded, blurred or noisy.

Shapes: N images, B backgrounds, H x W pixels. Images are RGB float in [0, 1]; ``premultiplied_N4HW`` is RGB
times alpha, and alpha.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.files import atomic_path
from tools.weights.pictures import photographs, random_square

BACKGROUND_WIDTH, BACKGROUND_HEIGHT = 480, 320
# Shares of white and of plain backgrounds; the others are photographs.
_WHITE, _PLAIN = 0.4, 0.25
# Share of grey pictures.
_GREY = 0.08


class _Dice:
    """Draws of a generator."""

    def __init__(self, generator: torch.Generator) -> None:
        self.generator = generator

    def share(self, *shape: int) -> Tensor:
        return torch.rand(*shape, generator=self.generator)

    def between(self, n: int, low: float, high: float) -> Tensor:
        return low + (high - low) * self.share(n)

    def whole(self, low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=self.generator))

    def normal(self, *shape: int) -> Tensor:
        return torch.randn(*shape, generator=self.generator)


@dataclass(frozen=True)
class Drawings:
    """Pictures with alpha, and how they are shown."""

    rgba: NDArray[np.uint8]  # Pictures, uint8 (N, H, W, 4).
    backgrounds: Tensor  # Photographs, uint8 (B, 3, 320, 480).
    size: int  # Side of the shown images.
    lines: float  # Share that is shown as line drawings.
    seed: int = 0  # Seed of all draws.

    def batches(self, batch: int = 32) -> Iterator[tuple[NDArray[np.int64], Tensor]]:
        """Each picture once, in random order: (ascending indices, images_N3HW)."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.randperm(len(self.rgba), generator=generator).numpy()
        for start in range(0, len(order), batch):
            indices = np.sort(order[start : start + batch])
            rgba_N4HW = torch.from_numpy(np.ascontiguousarray(self.rgba[indices])).permute(0, 3, 1, 2).float() / 255
            yield indices, self._show(rgba_N4HW, generator)

    def _show(self, rgba_N4HW: Tensor, generator: torch.Generator) -> Tensor:
        """Pictures in [0, 1], each shown in a random way: images_N3HW in [0, 1]."""
        dice = _Dice(generator)
        moved_N4HW = _move(rgba_N4HW, self.size, dice)
        rgb, alpha = moved_N4HW[:, :3], moved_N4HW[:, 3:].clamp(0, 1)
        x_N3HW = rgb + (1 - alpha) * _backgrounds(len(rgb), self.backgrounds, self.size, dice)
        kind_N = dice.share(len(rgb))
        lines_N = kind_N < self.lines
        grey_N = ~lines_N & (kind_N < self.lines + _GREY)
        x_N3HW = torch.where(_wide(grey_N), _luminance(x_N3HW), x_N3HW)
        if lines_N.any():
            x_N3HW[lines_N] = _line_drawing(rgb[lines_N], alpha[lines_N], dice)
        jittered_N3HW = _jitter(x_N3HW, dice)
        x_N3HW = torch.where(_wide(~lines_N & (dice.share(len(rgb)) < 0.6)), jittered_N3HW, x_N3HW)
        return _roughen(x_N3HW, dice).clamp(0, 1)


def load_backgrounds(cache: Path) -> Tensor:
    """The photographs and their quarters, uint8 (B, 3, 320, 480); decoded once and kept in the cache."""
    path = cache / "backgrounds.npy"
    if not path.exists():
        photos = []
        for photo in photographs(cache):
            with Image.open(photo) as opened:
                image = opened.convert("RGB")
            x, y = image.width // 2, image.height // 2
            whole = (0, 0, *image.size)
            for box in (whole, (0, 0, x, y), (x, 0, 2 * x, y), (0, y, x, 2 * y), (x, y, 2 * x, 2 * y)):
                size = (BACKGROUND_WIDTH, BACKGROUND_HEIGHT)
                photos.append(np.asarray(image.resize(size, Image.Resampling.LANCZOS, box)))
        with atomic_path(path) as temporary:
            np.save(temporary, np.stack(photos))
    return torch.from_numpy(np.load(path)).permute(0, 3, 1, 2)


def blur(x_NCHW: Tensor, sigma: float) -> Tensor:
    """Gaussian blur with reflected borders."""
    radius = max(1, int(2.5 * sigma))
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).float() ** 2) / (2 * sigma * sigma))
    kernel = kernel / kernel.sum()
    channels = x_NCHW.shape[1]
    across = F.pad(x_NCHW, (radius, radius, 0, 0), mode="reflect")
    x_NCHW = F.conv2d(across, kernel.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    down = F.pad(x_NCHW, (0, 0, radius, radius), mode="reflect")
    return F.conv2d(down, kernel.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def _move(rgba_N4HW: Tensor, size: int, dice: _Dice) -> Tensor:
    """Scale, turn, flip, stretch and shift: premultiplied_N4HW, so that edges have no foreign colour."""
    n = len(rgba_N4HW)
    rgb, alpha = rgba_N4HW[:, :3], rgba_N4HW[:, 3:]
    scale, angle = dice.between(n, 0.95, 1.8), dice.between(n, -0.26, 0.26)
    flip = torch.where(dice.share(n) < 0.5, -1.0, 1.0)
    stretch = torch.exp(dice.between(n, -0.2, 0.2))
    theta = torch.zeros(n, 2, 3)
    theta[:, 0, 0] = scale * torch.cos(angle) * flip * stretch
    theta[:, 0, 1] = -scale * torch.sin(angle)
    theta[:, 1, 0] = scale * torch.sin(angle) * flip
    theta[:, 1, 1] = scale * torch.cos(angle) / stretch
    theta[:, :, 2] = dice.between(2 * n, -0.25, 0.25).view(n, 2)
    grid = F.affine_grid(theta, [n, 4, size, size], align_corners=False)
    return F.grid_sample(torch.cat([rgb * alpha, alpha], dim=1), grid, align_corners=False)


def _backgrounds(n: int, photos_B3HW: Tensor, size: int, dice: _Dice) -> Tensor:
    """White, a plain colour, or a square of a photograph for each image: (N, 3, size, size)."""
    kind_N = dice.share(n)
    colours = dice.share(n, 3, 1, 1).expand(n, 3, size, size)
    chosen = torch.where(_wide(kind_N > _WHITE), colours, torch.ones(n, 3, size, size))
    for i in (kind_N > _WHITE + _PLAIN).nonzero().flatten().tolist():
        photo = photos_B3HW[dice.whole(0, len(photos_B3HW))]
        chosen[i] = random_square(photo.float() / 255, size, dice.generator)
    return chosen


def _line_drawing(rgb_N3HW: Tensor, alpha_N1HW: Tensor, dice: _Dice) -> Tensor:
    """Pencil (colour dodge) or ink (XDoG, Winnemoeller, 2011) on white, with or without an outline."""
    n = len(rgb_N3HW)
    grey = _luminance(rgb_N3HW + (1 - alpha_N1HW))
    width = dice.between(1, 0.5, 1.4).item()
    pencil = (grey / (blur(grey, width * 2.5) + 1e-3)).clamp(0, 1) ** dice.between(n, 1.5, 5).view(-1, 1, 1, 1)
    difference = blur(grey, width) - 0.98 * blur(grey, width * 1.6)
    ink = torch.where(difference > 0.005, 1.0, 1 + torch.tanh(60 * (difference - 0.005))).clamp(0, 1)
    shape = blur(alpha_N1HW, 0.7)
    outline = (1 - (blur(shape, 1) - blur(shape, 2)).abs() * 6).clamp(0, 1)
    lines = torch.where(_wide(dice.share(n) < 0.5), pencil, ink)
    return (lines * torch.where(_wide(dice.share(n) < 0.5), outline, 1.0)).expand(-1, 3, -1, -1)


def _jitter(x_N3HW: Tensor, dice: _Dice) -> Tensor:
    """Other brightness, contrast, saturation and tint."""
    n = len(x_N3HW)
    brightness, contrast, saturation = (
        dice.between(n, low, high).view(-1, 1, 1, 1) for low, high in ((0.7, 1.3), (0.6, 1.4), (0.4, 1.5))
    )
    tint = dice.between(3 * n, 0.85, 1.15).view(n, 3, 1, 1)
    grey = _luminance(x_N3HW)
    x_N3HW = (grey + (x_N3HW - grey) * saturation) * tint * brightness
    mean = x_N3HW.mean((1, 2, 3), keepdim=True)
    return (mean + (x_N3HW - mean) * contrast).clamp(0, 1)


def _roughen(x_N3HW: Tensor, dice: _Dice) -> Tensor:
    """Some blurred, some grainy, a few inverted."""
    n, size = len(x_N3HW), x_N3HW.shape[-1]
    soft_N = dice.share(n) < 0.15
    if soft_N.any():
        x_N3HW[soft_N] = blur(x_N3HW[soft_N], dice.between(1, 0.6, 1.6).item())
    grainy_N = dice.share(n) < 0.15
    coarse = F.interpolate(dice.normal(n, 3, size // 4, size // 4), (size, size), mode="bicubic")
    grain = coarse * 0.1 + dice.normal(n, 3, size, size) * 0.05
    x_N3HW = torch.where(_wide(grainy_N), x_N3HW + grain, x_N3HW)
    return torch.where(_wide(dice.share(n) < 0.03), 1 - x_N3HW, x_N3HW)


def _luminance(x_N3HW: Tensor) -> Tensor:
    return (x_N3HW * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _wide(mask_N: Tensor) -> Tensor:
    return mask_N.view(-1, 1, 1, 1)
