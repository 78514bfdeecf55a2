"""Recipe of the latent prior: statistics of openly licensed photographs, encoded by a tiny autoencoder.

Shapes: N crops, Z latent channels, h x h cells, H x W pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from clipstill.core.errors import DataError
from clipstill.core.files import atomic_path, write_text
from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.generators.latent_prior import STORED_NAMES, LatentPrior, Probe, cosine_basis, radial_frequency
from clipstill.generators.tiny_autoencoder import (
    PRIOR_FILE,
    AutoencoderFiles,
    find_autoencoder,
    load_part,
)
from tools.weights.drawings import load_backgrounds
from tools.weights.packages import PACKAGES, PHOTOGRAPHS, Package, package_table, training_facts
from tools.weights.pictures import random_square

CROPS = 1000
# Usual side of synthetic images in pixels; spectra of pictures hardly depend on it.
SIDE = 96
LEDGER_FILE = "LICENCES-latent-prior.md"
_BATCH = 32
_PROBES, _PROBE_SIDE = 4, 3
# A spectrum is smooth: powers are averaged over this many steps of 1 / h to both sides.
_SMOOTHING = 0.35
# Least eigenvalue of a covariance, as a share of the largest: no direction is so flat that it cannot be inverted.
_LEAST_SHARE = 1e-4


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
    prior = measured(encoded(encoder, load_backgrounds(cache), crops))
    probe_latent = torch.randn(
        _PROBES, len(prior.mean_Z), _PROBE_SIDE, _PROBE_SIDE, generator=generator_for("latent prior", "probe")
    )
    packages = [PACKAGES[PHOTOGRAPHS]]
    target = out / PRIOR_FILE
    save_prior(target, prior, Probe.take(decoder, probe_latent), training_facts(packages))
    write_text(out / LEDGER_FILE, _ledger(packages, files, crops))
    return target


def to_frequencies(z_NZhh: Tensor) -> Tensor:
    """Latents -> their cosine coefficients; the inverse of ``from_frequencies``."""
    basis = cosine_basis(z_NZhh.shape[-1])
    return basis @ z_NZhh @ basis.T


def measured(z_NZhh: Tensor) -> LatentPrior:
    """Statistics of many encoded pictures, of one side of at least 3 cells."""
    mean_Z = z_NZhh.mean((0, 2, 3))
    side = z_NZhh.shape[-1]
    coefficients = to_frequencies(z_NZhh - mean_Z[:, None, None])
    # The orthonormal basis makes the mean over cells, times the side, the first coefficient.
    levels_NZ = coefficients[:, :, 0, 0] / side
    level_ZZ = _root(levels_NZ.T @ levels_NZ / len(levels_NZ))
    frequency = radial_frequency(side)
    frequencies_K = torch.cat([torch.arange(1, side) / side, frequency.max()[None]])
    powers = []
    for centre in frequencies_K:
        weight = torch.exp(-0.5 * ((frequency - centre) * side / _SMOOTHING).square())
        weight[0, 0] = 0.0
        powers.append(torch.einsum("hw,nchw,ndhw->cd", weight / weight.sum(), coefficients, coefficients))
    return LatentPrior(mean_Z, level_ZZ, frequencies_K, torch.stack([_root(power / len(z_NZhh)) for power in powers]))


def save_prior(path: Path, prior: LatentPrior, probe: Probe, facts: dict[str, str]) -> None:
    """Write the statistics, the probe of their decoder, and facts about their licence."""
    own = (prior.mean_Z, prior.level_ZZ, prior.frequencies_K, prior.roots_KZZ, probe.latent, probe.image)
    stored = {name: tensor.contiguous() for name, tensor in zip(STORED_NAMES, own, strict=True)}
    with atomic_path(path) as temporary:
        save_file(stored, temporary, metadata=facts)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=float(values[-1]) * _LEAST_SHARE)
    root: Tensor = vectors @ torch.diag(values.sqrt()) @ vectors.T
    return root


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
