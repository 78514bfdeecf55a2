"""Recipe of the embedded generator: the decoder of an autoencoder on openly licensed pictures.

Codes are whitened per channel and get noise, so that the decoder makes something sensible of every latent near a
standard normal one.

Shapes: N pictures, Z latent channels, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import adjust_hue

from clipstill.core.files import atomic_path, write_text
from clipstill.core.progress import Progress, say
from clipstill.generators.embedded import LATENT_CHANNELS, REDUCTION, WEIGHTS, Decoder
from tools.weights.drawings import load_backgrounds
from tools.weights.packages import TRAINING, package_table, training_facts
from tools.weights.pictures import captioned_pictures, decode_all, random_square

STEPS = 1500
BATCH = 32
CROP = 64
LEARNING_RATE = 2e-3
# Noise on the whitened codes; more gives a smoother decoder and blurrier pictures.
CODE_NOISE = 0.25
# Share of photographs, which are rarer than drawings.
PHOTO_SHARE = 0.7
# Share of pictures with a random hue; otherwise the decoder knows blue skies and orange evenings only.
HUE_SHARE = 0.4
_PICTURES = [package for package in TRAINING if package.name != "wordnet-base"]


class Encoder(nn.Module):
    """Images (N, 3, H, W) -> whitened codes (N, Z, H / 8, W / 8)."""

    def __init__(self, widths: tuple[int, int, int] = (24, 48, 64)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        before = 3
        for width in widths:
            layers += [nn.Conv2d(before, width, 4, stride=2, padding=1), nn.SiLU()]
            layers += [nn.Conv2d(width, width, 3, padding=1), nn.SiLU()]
            before = width
        self.layers = nn.Sequential(*layers, nn.Conv2d(before, LATENT_CHANNELS, 1))
        # Without scale and shift, so that codes have mean 0 and deviation 1.
        self.whiten = nn.BatchNorm2d(LATENT_CHANNELS, affine=False, momentum=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Images in [0, 1] -> codes; see the class."""
        codes: Tensor = self.whiten(self.layers(x * 2 - 1))
        return codes


class Crops:
    """Random crops of photographs and drawings.

    Args:
        photos_N3HW: Photographs, uint8.
        drawings_NHW4: Drawings, uint8 RGBA.
        seed: Seed of all draws.
    """

    def __init__(self, photos_N3HW: Tensor, drawings_NHW4: np.ndarray, seed: int) -> None:
        self._photos, self._drawings = photos_N3HW, drawings_NHW4
        self._random = torch.Generator().manual_seed(seed)

    def batch(self, size: int) -> Tensor:
        """Images (size, 3, CROP, CROP) in [0, 1]."""
        return torch.stack([self._one() for _ in range(size)])

    def _below(self, high: int) -> int:
        return int(torch.randint(high, (1,), generator=self._random))

    def _one(self) -> Tensor:
        if float(torch.rand(1, generator=self._random)) < PHOTO_SHARE:
            source = self._photos[self._below(len(self._photos))].float() / 255
        else:
            rgba = torch.from_numpy(self._drawings[self._below(len(self._drawings))].copy()).permute(2, 0, 1) / 255
            ground = torch.rand(3, 1, 1, generator=self._random)
            source = rgba[:3] * rgba[3:] + ground * (1 - rgba[3:])
        crop = random_square(source, CROP, self._random)
        if float(torch.rand(1, generator=self._random)) < HUE_SHARE:
            crop = adjust_hue(crop.clamp(0, 1), float(torch.rand(1, generator=self._random)) - 0.5)
        return crop.flip(-1) if self._below(2) else crop


def reconstruction_loss(decoded: Tensor, real: Tensor) -> Tensor:
    """Absolute difference of pixels and, at three scales, of their gradients."""
    loss = (decoded - real).abs().mean()
    for _ in range(3):
        for dim in (2, 3):
            loss = loss + (decoded.diff(dim=dim) - real.diff(dim=dim)).abs().mean()
        decoded, real = F.avg_pool2d(decoded, 2), F.avg_pool2d(real, 2)
    return loss


def build_generator(out: Path, cache: Path, steps: int = STEPS) -> Path:
    """Get the pictures, train, write the decoder and its licence ledger.

    Args:
        out: Folder for the weights and the ledger.
        cache: Folder of packages and decoded pictures.
        steps: Optimiser steps.

    Returns:
        The file of the weights.

    Raises:
        ResourceError: A package cannot be fetched.
        DataError: A package differs from the recipe's.
    """
    torch.manual_seed(0)  # noqa: TID251  (layers draw their first weights from the global generator)
    _, drawings = decode_all(captioned_pictures(cache), cache / "pictures.npy")
    crops = Crops(load_backgrounds(cache), drawings, seed=0)
    encoder, decoder = Encoder().train(), Decoder().train()
    parameters = [*encoder.parameters(), *decoder.parameters()]
    optimiser = torch.optim.AdamW(parameters, lr=LEARNING_RATE, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, LEARNING_RATE, total_steps=steps)
    random = torch.Generator().manual_seed(1)
    with Progress("embedded generator", total=steps, unit="step") as bar:
        for _ in range(steps):
            real = crops.batch(BATCH).contiguous(memory_format=torch.channels_last)
            codes = encoder(real)
            noisy = codes + CODE_NOISE * torch.randn(codes.shape, generator=random)
            loss = reconstruction_loss(decoder(noisy), real)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimiser.step()
            schedule.step()
            bar.advance(1, loss=float(loss.detach()))
    smoothing = _neighbour_correlation(encoder.eval(), crops) ** 0.5
    say(f"neighbouring codes correlate by {smoothing**2:.2f}")
    tensors = {name: value.half().contiguous() for name, value in decoder.state_dict().items()}
    target = out / WEIGHTS.name
    with atomic_path(target) as temporary:
        save_file({**tensors, "smoothing": torch.tensor(smoothing)}, temporary, metadata=training_facts(_PICTURES))
    write_text(out / "LICENCES-generator.md", _ledger())
    return target


@torch.no_grad()
def _neighbour_correlation(encoder: Encoder, crops: Crops) -> float:
    """Mean correlation of horizontally neighbouring codes, in [0, 1): the smoothness of first latents."""
    codes = encoder(crops.batch(8 * BATCH))
    assert codes.shape[-1] == CROP // REDUCTION
    left, right = codes[..., :-1].flatten(), codes[..., 1:].flatten()
    return min(0.99, max(0.0, float(torch.corrcoef(torch.stack([left, right]))[0, 1])))


def _ledger() -> str:
    lines = ["# What the embedded generator was trained on", "", *package_table(_PICTURES), ""]
    return "\n".join([*lines, "The pictures are not part of the weights' file or of this repository.", ""])
