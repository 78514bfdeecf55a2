"""What latents of natural pictures look like: their mean, and how their channels vary together at each frequency.

An autoencoder decodes any latent, and says of none that it is unlikely. Statistics of encoded pictures do: latents are
written as ``mean + inverse cosine transform of (root(frequency) @ w)``, so that a standard normal ``w`` is a latent
with the spectrum and the colours of natural pictures. A step of one size then moves coarse shapes far and fine detail
little; a plain optimiser fills every cell with what the teacher alone sees.

Shapes: N images, Z latent channels, h x h cells, K frequencies; a ``w`` has the shape of its latent.

Source: Olah, Mordvintsev and Schubert, Distill 2017 (Fourier parametrisation of pixels), here of latents, with measured
instead of assumed spectra and the cosine transform, whose borders need not meet.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import ArtifactError
from clipstill.core.files import atomic_path, sha256_file
from clipstill.core.protocols import Provenance

# Frequencies are in half cycles a cell: 0 is the mean of a latent, 1 its finest stripes, sqrt(2) its finest checks.
# A spectrum is smooth: powers are averaged over this many steps of 1 / h to both sides.
_SMOOTHING = 0.35
# Least eigenvalue of a covariance, as a share of the largest: no direction is so flat that it cannot be inverted.
_LEAST_SHARE = 1e-4
# Largest mean difference of colours in [0, 1] at which two decoders count as one, stored in other precisions.
_SAME = 0.03
# Cells a side of an image of 96 pixels.
_USUAL_SIDE = 12
_NAMES = ("mean", "level", "frequencies", "roots", "probe_latent", "probe_image")


@lru_cache(maxsize=32)
def cosine_basis(side: int) -> Tensor:
    """The orthonormal cosine basis (side, side), one frequency a row: ``basis @ basis.T`` is the identity."""
    frequency = torch.arange(side, dtype=torch.float64)[:, None]
    place = torch.arange(side, dtype=torch.float64)[None] + 0.5
    basis = torch.cos(math.pi * place * frequency / side) * math.sqrt(2 / side)
    basis[0] /= math.sqrt(2)
    return basis.float()


def to_frequencies(z: Tensor) -> Tensor:
    """Latents (N, Z, h, h) -> their cosine coefficients, the coarsest at the top left; lengths are kept."""
    basis = cosine_basis(z.shape[-1]).to(z.device)
    return basis @ z @ basis.T


def from_frequencies(coefficients: Tensor) -> Tensor:
    """The inverse of ``to_frequencies``."""
    basis = cosine_basis(coefficients.shape[-1]).to(coefficients.device)
    return basis.T @ coefficients @ basis


def radial_frequency(side: int) -> Tensor:
    """Frequency of each coefficient, (side, side) in [0, sqrt(2))."""
    along = torch.arange(side) / side
    return (along[:, None].square() + along[None].square()).sqrt()


@dataclass(frozen=True)
class Probe:
    """What a decoder is recognised by, whatever the precision and the names of its weights.

    Attributes:
        latent: a few small latents (P, Z, h, h).
        image: the mean colour of each cell that the decoder makes of them, (P, 3, h, h).
    """

    latent: Tensor
    image: Tensor

    @classmethod
    @torch.no_grad()
    def take(cls, decoder: Callable[[Tensor], Tensor], latent: Tensor) -> Probe:
        """Decode some latents with a decoder of images in [-1, 1]."""
        return cls(latent, F.adaptive_avg_pool2d((decoder(latent) + 1) / 2, latent.shape[-1]))

    def fits(self, decoder: Callable[[Tensor], Tensor]) -> bool:
        """Whether a decoder for as many channels makes the same colours."""
        return float((Probe.take(decoder, self.latent).image - self.image).abs().mean()) < _SAME


class LatentPrior:
    """Mean and square roots of covariances, for latents of any side.

    Args:
        mean_Z: of the latents.
        level_ZZ: symmetric square root of the covariance of a latent's mean over its cells.
        frequencies_K: rising, above 0.
        roots_KZZ: symmetric square root of the covariance of cosine coefficients at each frequency.
        provenance: of the statistics; empty for assumed ones.
    """

    def __init__(
        self,
        mean_Z: Tensor,
        level_ZZ: Tensor,
        frequencies_K: Tensor,
        roots_KZZ: Tensor,
        provenance: tuple[Provenance, ...] = (),
    ) -> None:
        self.mean_Z, self.level_ZZ = mean_Z, level_ZZ
        self.frequencies_K, self.roots_KZZ = frequencies_K, roots_KZZ
        self.provenance = provenance

    @property
    def channels(self) -> int:
        """Z."""
        return len(self.mean_Z)

    @classmethod
    def measure(cls, z_NZhh: Tensor) -> LatentPrior:
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
        return cls(mean_Z, level_ZZ, frequencies_K, torch.stack([_root(power / len(z_NZhh)) for power in powers]))

    @classmethod
    def assumed(cls, like: LatentPrior, channels: int) -> LatentPrior:
        """For latents without statistics: the spectrum of others, in channels of deviation 1 that vary independently.

        Autoencoders of diffusion models are scaled to that deviation.
        """
        spread_K = like.roots_KZZ.square().sum((1, 2)).sqrt()
        level, eye = like.level_ZZ.square().sum().sqrt(), torch.eye(channels)
        # Over all cells of a latent of usual size, the coefficients' variance averages to the cells'.
        flat = cls(torch.zeros(channels), level * eye, like.frequencies_K, spread_K[:, None, None] * eye)
        deviation = flat.at(_USUAL_SIDE)[..., 0, 0].square().mean().sqrt()
        return cls(flat.mean_Z, flat.level_ZZ / deviation, flat.frequencies_K, flat.roots_KZZ / deviation)

    def at(self, side: int) -> Tensor:
        """Roots for each coefficient of latents of a side: (side, side, Z, Z).

        Between and beyond the measured frequencies, root times frequency is taken as linear and as constant: amplitudes
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

    def save(self, path: Path, licence: str, probe: Probe) -> None:
        """Write the statistics, and what their decoder is recognised by."""
        own = (self.mean_Z, self.level_ZZ, self.frequencies_K, self.roots_KZZ, probe.latent, probe.image)
        stored = {name: tensor.contiguous() for name, tensor in zip(_NAMES, own, strict=True)}
        with atomic_path(path) as temporary:
            save_file(stored, temporary, metadata={"licence": licence})

    @classmethod
    def load(cls, path: Path) -> tuple[LatentPrior, Probe]:
        """Read statistics, and what their decoder is recognised by.

        Raises:
            ArtifactError: missing or damaged.
        """
        try:
            with safe_open(path, framework="pt") as stored:
                *own, latent, image = (stored.get_tensor(name) for name in _NAMES)
                licence = (stored.metadata() or {}).get("licence", "unknown")
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(
                f"{path} cannot be read ({error}). Reinstall clipstill or run: python -m tools.weights latent-prior"
            ) from None
        source = f"clipstill assets/{path.name}" if path.parent.name == "assets" else str(path)
        provenance = Provenance("latent statistics", licence, source, sha256_file(path))
        return cls(own[0], own[1], own[2], own[3], (provenance,)), Probe(latent, image)


def _root(covariance: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp(min=float(values[-1]) * _LEAST_SHARE)
    root: Tensor = vectors @ torch.diag(values.sqrt()) @ vectors.T
    return root
