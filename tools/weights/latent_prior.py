"""Recipe of the latent prior: statistics of openly licensed photographs, encoded by a tiny autoencoder.

Shapes: N crops, Z latent channels, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipstill.core.errors import DataError
from clipstill.core.files import write_text
from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.generators.latent_prior import LatentPrior, Probe
from clipstill.generators.tiny_autoencoder import (
    PRIOR_FILE,
    AutoencoderFiles,
    find_autoencoder,
    load_part,
)
from tools.weights.drawings import load_backgrounds
from tools.weights.packages import PACKAGES, PHOTOGRAPHS, Package, package_table, trained_licence
from tools.weights.pictures import random_square

CROPS = 1000
# Usual side of synthetic images in pixels; spectra of pictures hardly depend on it.
SIDE = 96
LEDGER_FILE = "LICENCES-latent-prior.md"
_BATCH = 32
_PROBES, _PROBE_SIDE = 4, 3


def build_latent_prior(out: Path, cache: Path, autoencoder: str, crops: int = CROPS) -> Path:
    """Get the pictures, encode crops of them, write their statistics and the licence ledger.

    Args:
        out: Folder for ``latent-prior.safetensors`` and its ledger; the generator finds it beside the decoder.
        cache: Folder of packages.
        autoencoder: Name as after ``tiny-autoencoder:`` in the generator's name; its encoder is needed too.
        crops: Number of pictures.

    Returns:
        The file of the statistics.

    Raises:
        ResourceError: A package or the autoencoder cannot be fetched.
        DataError: A package differs from the recipe's, or the encoder is missing.
    """
    files = find_autoencoder(autoencoder)
    if not files.encoder.is_file():
        raise DataError(
            f"there is no encoder {files.encoder}, which is needed to encode pictures. Put it beside the decoder."
        )
    encoder, decoder = load_part(files, "encoder"), load_part(files, "decoder")
    encoder.to(memory_format=torch.channels_last)  # twice as quick on a CPU
    prior = LatentPrior.measure(encoded(encoder, load_backgrounds(cache), crops))
    probe_latent = torch.randn(
        _PROBES, prior.channels, _PROBE_SIDE, _PROBE_SIDE, generator=generator_for("latent prior", "probe")
    )
    packages = [PACKAGES[name] for name in PHOTOGRAPHS]
    target = out / PRIOR_FILE
    prior.save(target, trained_licence(packages), Probe.take(decoder, probe_latent))
    write_text(out / LEDGER_FILE, _ledger(packages, files, crops))
    return target


@torch.no_grad()
def encoded(encoder: Any, photos_B3HW: Tensor, crops: int) -> Tensor:
    """Latents (N, Z, h, h) of random square crops of photographs.

    Args:
        encoder: Encoder that takes images in [-1, 1].
        photos_B3HW: Photographs, uint8.
        crops: N.
    """
    latents = []
    with Progress("encoding photographs", total=crops, unit="img") as bar:
        for start in range(0, crops, _BATCH):
            numbers = range(start, min(start + _BATCH, crops))
            images = torch.stack([_crop(photos_B3HW, number) for number in numbers])
            latents.append(encoder(images * 2 - 1))
            bar.advance(len(numbers))
    return torch.cat(latents)


def _crop(photos_B3HW: Tensor, number: int) -> Tensor:
    """Crop ``number``, which does not depend on the others: (3, SIDE, SIDE) in [0, 1]."""
    generator = generator_for("latent prior", number)
    photo = photos_B3HW[int(torch.randint(len(photos_B3HW), (1,), generator=generator))]
    crop = random_square(photo.float() / 255, SIDE, generator)
    return crop.flip(-1) if int(torch.randint(2, (1,), generator=generator)) else crop


def _ledger(packages: list[Package], files: AutoencoderFiles, crops: int) -> str:
    lines = [
        "# What the latent prior was measured on",
        "",
        f"{crops} random crops of the photographs in these packages, encoded by {files.encoder.name}.",
        "",
        *package_table(packages),
        "",
        "Neither the pictures nor the autoencoder are part of the file or of this repository.",
        "",
    ]
    return "\n".join(lines)
