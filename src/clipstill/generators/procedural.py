"""Pictures without a class, drawn from a seed alone: a baseline that synthetic images must exceed.

Shapes: N images, H x W pixels, h x w pixels around a leaf.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from clipstill.core.protocols import Provenance
from clipstill.core.seeds import seed_for

# Limits of a leaf's radius, as shares of the image's side.
_SMALLEST, _LARGEST = 0.03, 0.5
_LEAVES = 250
_CORNERS = (3, 4, 5, 6)


class DeadLeaves:
    """Flat and textured shapes that cover each other, as leaves do on the ground.

    Sizes follow the law that makes a picture look the same at every scale, which gives it edges, occlusions and the
    spectrum of photos.

    Source: Lee, Mumford and Huang, IJCV 2001; for teaching: Baradad et al., NeurIPS 2021. Shapes and textures are ours.
    """

    name = "dead-leaves"
    provenance: tuple[Provenance, ...] = ()

    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] for each seed; texts are ignored."""
        return torch.stack([torch.from_numpy(_leaves(seed, size)) for seed in seeds])


class Noise:
    """Independent pixels, uniform in [0, 1]."""

    name = "noise"
    provenance: tuple[Provenance, ...] = ()

    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] for each seed; texts are ignored."""
        drawn = [np.random.default_rng(seed).random((3, size, size), dtype=np.float32) for seed in seeds]
        return torch.from_numpy(np.stack(drawn))


def load_dead_leaves(rest: str, device: torch.device) -> DeadLeaves:
    """Factory of the registry."""
    return DeadLeaves()


def load_noise(rest: str, device: torch.device) -> Noise:
    """Factory of the registry."""
    return Noise()


def pictures(sampler: DeadLeaves | Noise, count: int, size: int, seed: int) -> Tensor:
    """Pictures, uint8 (N, 3, size, size); the first ones do not depend on how many there are."""
    seeds = [seed_for(seed, sampler.name, number) for number in range(count)]
    return (sampler.sample([""] * count, seeds, size) * 255).round().to(torch.uint8)


def _leaves(seed: int, size: int) -> NDArray[np.float32]:
    """One picture, from the leaf at the bottom to the one on top: float32 (3, size, size)."""
    random = np.random.default_rng(seed)
    picture_3HW = np.empty((3, size, size), dtype=np.float32)
    picture_3HW[:] = random.random(3, dtype=np.float32)[:, None, None]
    # The density falls as the cube of the radius: uniform in 1 / radius ** 2.
    for radius in random.uniform(_LARGEST**-2, _SMALLEST**-2, _LEAVES) ** -0.5:
        _lay_leaf(picture_3HW, radius, random)
    return picture_3HW


def _lay_leaf(picture_3HW: NDArray[np.float32], radius: float, random: np.random.Generator) -> None:
    """Draw a disc or a regular polygon on top of the picture, in place; its radius is a share of the side."""
    size = picture_3HW.shape[1]
    (y, x), colour_3 = random.random(2), random.random(3)
    corners, turn = random.choice(_CORNERS), random.uniform(0, 2 * np.pi)
    slope, wave, angle = random.normal(0, 0.15), random.uniform(4, 40), random.uniform(0, np.pi)
    is_disc, has_stripes = random.random(2) < 0.5
    # Only the square around the leaf is computed: most leaves are small.
    top, left = (max(0, int((middle - radius) * size)) for middle in (y, x))
    bottom, right = (min(size, int((middle + radius) * size) + 1) for middle in (y, x))
    rows_hw, columns_hw = np.mgrid[top:bottom, left:right]
    down_hw, right_hw = rows_hw / size - y, columns_hw / size - x
    if is_disc:
        inside_hw = down_hw**2 + right_hw**2 < radius**2
    else:
        # Points inside a polygon are nearer to the middle than all of its sides are.
        around_hw = (np.arctan2(down_hw, right_hw) - turn) % (2 * np.pi / corners) - np.pi / corners
        inside_hw = np.hypot(down_hw, right_hw) * np.cos(around_hw) < radius * np.cos(np.pi / corners)
    along_hw = np.cos(angle) * right_hw + np.sin(angle) * down_hw
    # A change of light over the leaf, and stripes on every other one.
    light_hw = slope * along_hw / radius + has_stripes * 0.12 * np.sin(2 * np.pi * wave * along_hw)
    part_3hw = picture_3HW[:, top:bottom, left:right]
    part_3hw[:] = np.where(inside_hw, (colour_3[:, None, None] + light_hw).clip(0, 1), part_3hw)
