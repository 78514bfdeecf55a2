"""Statistics of the latents of natural pictures: their mean, and how channels vary together at each frequency.

Latents are written as ``mean + inverse cosine transform of (root(frequency) @ w)``, so that a standard normal ``w`` is
a latent with the spectrum and the colours of natural pictures. A step of one size then moves coarse shapes far and fine
detail little; a plain optimiser would fill every cell with noise that only the teacher sees. ``python -m tools.weights
latent-prior`` measures the statistics.

Shapes: N images, Z latent channels, h x h cells, K frequencies; a ``w`` has the shape of its latent.

Source: Olah, Mordvintsev and Schubert, Distill 2017 (Fourier parametrisation of pixels); here of latents, with measured
spectra and the cosine transform.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.checkpoints import own_provenance, read_own_tensors
from clipstill.core.errors import ArtifactError
from clipstill.core.protocols import Provenance

# Tensors of a stored file, in the order of the fields of ``LatentPrior`` and ``Probe``.
STORED_NAMES = ("mean", "level", "frequencies", "roots", "probe_latent", "probe_image")


@lru_cache(maxsize=32)
def cosine_basis(side: int) -> Tensor:
    """Orthonormal cosine basis (side, side) with one frequency per row."""
    frequency = torch.arange(side, dtype=torch.float64)[:, None]
    place = torch.arange(side, dtype=torch.float64)[None] + 0.5
    basis = torch.cos(math.pi * place * frequency / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis.float()


def from_frequencies(coefficients: Tensor) -> Tensor:
    """Cosine coefficients, the coarsest at the top left -> latents (N, Z, h, h); lengths are kept."""
    basis = cosine_basis(coefficients.shape[-1]).to(coefficients.device)
    return basis.T @ coefficients @ basis


def radial_frequency(side: int) -> Tensor:
    """Frequency of each coefficient in half cycles per cell, (side, side) in [0, sqrt(2)).

    0 is the mean of a latent, 1 its finest stripes.
    """
    along = torch.arange(side) / side
    return (along[:, None].square() + along[None].square()).sqrt()


@dataclass(frozen=True)
class Probe:
    """A few latents and their images, which tell a decoder from others."""

    latent: Tensor  # Small latents (P, Z, h, h).
    image: Tensor  # Mean colour in [0, 1] of each cell that the decoder makes of them, (P, 3, h, h).

    @classmethod
    @torch.no_grad()
    def take(cls, decoder: Callable[[Tensor], Tensor], latent: Tensor) -> Probe:
        """Decode some latents with a decoder of images in [-1, 1]."""
        return cls(latent, F.adaptive_avg_pool2d((decoder(latent) + 1) / 2, latent.shape[-1]))

    def fits(self, decoder: Callable[[Tensor], Tensor]) -> bool:
        """Whether a decoder of as many channels makes the same colours, up to the precision of its weights."""
        return float((Probe.take(decoder, self.latent).image - self.image).abs().mean()) < 0.03


@dataclass(frozen=True, eq=False)
class LatentPrior:
    """Mean and symmetric square roots of covariances, for latents of any side."""

    mean_Z: Tensor
    level_ZZ: Tensor  # Root of the covariance of a latent's mean over its cells.
    frequencies_K: Tensor  # Rising, above 0.
    roots_KZZ: Tensor  # Root of the covariance of cosine coefficients at each frequency.
    provenance: tuple[Provenance, ...] = ()  # Empty for assumed statistics.

    @classmethod
    def assumed(cls, like: LatentPrior, channels: int) -> LatentPrior:
        """Statistics for unmeasured latents: another spectrum, in independent channels of standard deviation 1.

        Autoencoders of diffusion models are scaled to that deviation.
        """
        spread_K = like.roots_KZZ.square().sum((1, 2)).sqrt()
        level, eye = like.level_ZZ.square().sum().sqrt(), torch.eye(channels)
        # Over all cells of a latent of usual size, 12 a side, the coefficients' variance averages to the cells'.
        flat = cls(torch.zeros(channels), level * eye, like.frequencies_K, spread_K[:, None, None] * eye)
        deviation = flat.at(12)[..., 0, 0].square().mean().sqrt()
        return cls(flat.mean_Z, flat.level_ZZ / deviation, flat.frequencies_K, flat.roots_KZZ / deviation)

    def at(self, side: int) -> Tensor:
        """Roots for each coefficient of latents of a side: (side, side, Z, Z).

        Between the measured frequencies, root times frequency is linear; beyond them it is constant, since amplitudes
        of natural pictures fall about as 1 / frequency.
        """
        frequency = radial_frequency(side)
        frequency[0, 0] = 1.0  # its root is set below
        scaled_KZZ = self.roots_KZZ * self.frequencies_K[:, None, None]
        within = frequency.clamp(float(self.frequencies_K[0]), float(self.frequencies_K[-1]))
        above = torch.searchsorted(self.frequencies_K, within, right=True).clamp(1, len(self.frequencies_K) - 1)
        low, high = self.frequencies_K[above - 1], self.frequencies_K[above]
        share = ((within - low) / (high - low))[..., None, None]
        roots = torch.lerp(scaled_KZZ[above - 1], scaled_KZZ[above], share) / frequency[..., None, None]
        roots[0, 0] = self.level_ZZ * side
        return roots

    @classmethod
    def load(cls, path: Path) -> tuple[LatentPrior, Probe]:
        """Read statistics, and the probe of their decoder.

        Raises:
            ArtifactError: The file is missing or damaged.
        """
        remedy = "Reinstall clipstill or run: python -m tools.weights latent-prior"
        tensors, metadata = read_own_tensors(path, remedy)
        if missing := [name for name in STORED_NAMES if name not in tensors]:
            raise ArtifactError(f"{path} lacks the tensor '{missing[0]}'. {remedy}")
        mean_Z, level_ZZ, frequencies_K, roots_KZZ, latent, image = (tensors[name] for name in STORED_NAMES)
        provenance = own_provenance("latent statistics", path, metadata)
        return cls(mean_Z, level_ZZ, frequencies_K, roots_KZZ, provenance=(provenance,)), Probe(latent, image)


class NormalLatents:
    """Box and codes of a ``Generator`` whose likely latents are standard normal."""

    box: float  # Standard deviations beyond which a latent is clipped.

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip to the box, in place."""
        with torch.no_grad():
            latents[0].clamp_(-self.box, self.box)

    def codes(self, latents: Sequence[Tensor]) -> None:
        """None: there is no codebook."""
