"""The generator without weights: a pyramid of resolutions in decorrelated colours.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for

# Columns: how a step along each uncorrelated direction (light, blue against yellow, green against magenta) moves the
# logit of R, G, B. Principal axes of the colours of 235 openly licensed photographs, first column scaled to unit
# length.
COLOUR_AXES = ((0.664, 0.336, -0.074), (0.549, -0.044, 0.166), (0.507, -0.391, -0.083))
# Each level has a quarter of the pixels of the next. Eight times coarser than the image is about the size of its parts.
LEVELS = (8, 4, 2, 1)
# Natural images have less of the fine than of the coarse (their spectrum falls as 1 / frequency). Without this, the
# optimiser fills the finest level with noise that only the teacher sees.
AMPLITUDES = (1.0, 0.6, 0.36, 0.2)


class Pixels:
    """Images as a sum of levels of growing resolution, each with its own latent.

    Coarse levels move many pixels at once, so that the optimiser finds shapes before texture; decorrelated colours keep
    it from saturating single channels. There is no prior: noise is as likely as natural images.

    Source: Olah, Mordvintsev and Schubert, Distill 2017 (decorrelated parametrisation), with a pyramid for the Fourier
    basis.
    """

    name = "pixels"
    provenance: tuple[Provenance, ...] = ()
    lr_factor = 1.0
    tv_factor = 1.0
    stride = 1

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._colours = torch.tensor(COLOUR_AXES, device=device)

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """Gaussian latents, one level after another: (N, 3, size / 8, size / 8) to (N, 3, size, size)."""
        levels: list[list[Tensor]] = [[] for _ in LEVELS]
        for seed in seeds:
            random = generator_for(seed, "latent")
            for rows, side in zip(levels, _sides(size), strict=True):
                rows.append(torch.randn(3, side, side, generator=random) * 0.3)
        return [torch.stack(rows).to(self._device) for rows in levels]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Sum of the levels, bilinearly enlarged, in RGB through a sigmoid: (N, 3, H, W) in (0, 1)."""
        finest = latents[-1]
        z_N3HW = finest * AMPLITUDES[-1]
        for level, amplitude in zip(latents[:-1], AMPLITUDES, strict=False):
            z_N3HW = z_N3HW + amplitude * F.interpolate(level, finest.shape[-2:], mode="bilinear", align_corners=False)
        return torch.sigmoid(torch.einsum("rc,nchw->nrhw", self._colours, z_N3HW) * 2)

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Nothing: every latent is valid."""

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """Each level is enlarged by itself."""
        return [
            F.interpolate(level, (side, side), mode="bilinear", align_corners=False)
            for level, side in zip(latents, _sides(size), strict=True)
        ]

    def codes(self, latents: Sequence[Tensor]) -> None:
        """None: there is no codebook."""


def _sides(size: int) -> list[int]:
    """Sides of the levels of an image."""
    return [max(1, math.ceil(size / shrink)) for shrink in LEVELS]


def load_pixels(rest: str, device: torch.device) -> Pixels:
    """Factory of the registry."""
    return Pixels(device)
