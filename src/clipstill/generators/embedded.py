"""The embedded generator: a small decoder trained by this repository on openly licensed pictures.

Its latents are whitened codes of picture patches, so that a standard normal latent is a likely one; the decoder knows
edges, shading and textures, and cannot make the high-frequency noise that free pixels invite.

Shapes: N images, Z latent channels, H x W pixels; a latent is (N, Z, H / 8, W / 8).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.checkpoints import own_provenance, read_own_tensors
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import through
from clipstill.generators.latent_prior import NormalLatents

WEIGHTS = Path(__file__).parents[1] / "assets" / "embedded-generator.safetensors"
LATENT_CHANNELS = 16
REDUCTION = 8
# Channels at an eighth, a quarter, a half and the whole of the image's side.
WIDTHS = (64, 48, 24, 12)


class Block(nn.Module):
    """Residual pair of 3 x 3 convolutions."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, H, W) -> the same shape."""
        change: Tensor = self.second(F.silu(self.first(F.silu(x))))
        return x + 0.5 * change


class Decoder(nn.Module):
    """Latents (N, Z, h, w) -> images (N, 3, 8 h, 8 w) in (0, 1)."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(LATENT_CHANNELS, WIDTHS[0], 3, padding=1)
        self.stages = nn.ModuleList()
        for number, (width, narrower) in enumerate(zip(WIDTHS, (*WIDTHS[1:], WIDTHS[-1]), strict=True)):
            blocks = 2 if number < 2 else 1
            self.stages.append(nn.Sequential(*(Block(width) for _ in range(blocks)), nn.Conv2d(width, narrower, 1)))
        self.leave = nn.Conv2d(WIDTHS[-1], 3, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        """Latents -> images."""
        x = self.enter(z)
        for number, stage in enumerate(self.stages):
            x = stage(x)
            if number < len(self.stages) - 1:
                x = F.interpolate(x, scale_factor=2.0, mode="nearest")
        return torch.sigmoid(self.leave(F.silu(x)))


class EmbeddedGenerator(NormalLatents):
    """The decoder as a generator."""

    name = "embedded"
    # A latent stands for a patch: it is moved further than a pixel, and its patch is smooth already.
    lr_factor = 2.0
    tv_factor = 0.25
    stride = REDUCTION
    # Codes of the training pictures are whitened; beyond three deviations the decoder has seen nothing.
    box = 3.0

    def __init__(self, device: torch.device, weights: Path = WEIGHTS) -> None:
        self._device = device
        remedy = "Reinstall clipstill, or make it again: python -m tools.weights embedded-generator"
        tensors, metadata = read_own_tensors(weights, remedy)
        # Square root of the correlation of neighbouring codes; see ``init``.
        self._smoothing = float(tensors.pop("smoothing"))
        self.network = Decoder()
        self.network.load_state_dict(tensors)
        self.network.eval().requires_grad_(False).to(device)
        # The narrow convolutions take two thirds of the time in this layout.
        self.network.to(memory_format=torch.channels_last)
        self.provenance = (own_provenance("embedded generator", weights, metadata),)

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """Standard normal latents (N, Z, size / 8, size / 8), smooth like codes of real pictures."""
        side = math.ceil(size / REDUCTION)
        rows = []
        for seed in seeds:
            random = generator_for(seed, "latent")
            fine = torch.randn(LATENT_CHANNELS, side, side, generator=random)
            coarse = torch.randn(1, LATENT_CHANNELS, max(2, side // 3), max(2, side // 3), generator=random)
            smooth = F.interpolate(coarse, (side, side), mode="bicubic", align_corners=False)[0]
            rows.append(self._smoothing * smooth + math.sqrt(1 - self._smoothing**2) * fine)
        return [torch.stack(rows).to(self._device)]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents -> images (N, 3, H, W) in (0, 1), differentiable."""
        return through(self.network, latents[0])

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """Bilinear: neighbouring codes are alike, so values between them are likely too."""
        side = math.ceil(size / REDUCTION)
        return [F.interpolate(latents[0], (side, side), mode="bilinear", align_corners=False)]


def load_embedded(rest: str, device: torch.device) -> EmbeddedGenerator:
    """Factory of the registry."""
    return EmbeddedGenerator(device)
