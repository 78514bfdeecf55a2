"""Tiny autoencoders (TAESD and its relatives) as generators, with statistics of natural latents as their prior.

``tiny-autoencoder:/path/to/taesd_decoder.safetensors`` names a decoder, ``tiny-autoencoder:/path/to/folder`` a folder
that holds one, or that diffusers saved; ``tiny-autoencoder:OWNER/REPO`` names a model of the hub, and plain
``tiny-autoencoder`` is TAESD from the hub. Layers have their published names or those of diffusers.

The optimiser moves whitened coefficients that ``latent_prior`` turns into a latent: an autoencoder decodes every
latent, and inverting it plainly gives texture without objects.

Shapes: N images, Z latent channels, H x W pixels; a latent is (N, Z, H / stride, W / stride).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import DataError
from clipstill.core.file_names import visible
from clipstill.core.files import read_json, sha256_file
from clipstill.core.names import plain
from clipstill.core.paths import user_path
from clipstill.core.progress import say
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import one_sided_clamp, through
from clipstill.generators.latent_prior import LatentPrior, NormalLatents, from_frequencies
from clipstill.generators.model_files import (
    CONFIG_FILE,
    DIFFUSERS_FILE,
    download_diffusers_model,
    import_diffusers,
    licence_of,
)

TAESD = "madebyollin/taesd"
# Also the name of a user's own statistics, beside the decoder.
PRIOR_FILE = "latent-prior.safetensors"
PRIOR = Path(__file__).parents[1] / "assets" / PRIOR_FILE


@dataclass(frozen=True)
class AutoencoderFiles:
    """Files of an autoencoder."""

    decoder: Path  # One that diffusers wrote holds the encoder too.
    source: str  # Origin, for the licence ledger.

    @property
    def encoder(self) -> Path:
        """File of the encoder, of a like name or the same; it may be absent."""
        return self.decoder.with_name(self.decoder.name.replace("decoder", "encoder"))


def find_autoencoder(rest: str) -> AutoencoderFiles:
    """Files of the autoencoder that the text after ``tiny-autoencoder:`` names; TAESD's if it is empty.

    Raises:
        DataError: There is no such file, or no decoder in the folder.
        ResourceError: The hub cannot be reached.
    """
    path = user_path(rest or TAESD)
    if rest and path.is_file():
        return AutoencoderFiles(path, plain(path))
    if rest and path.is_dir():
        return AutoencoderFiles(_decoder_in(path), plain(path))
    repository = rest or TAESD
    folder = download_diffusers_model("tiny-autoencoder", repository, "/path/to/taesd_decoder.safetensors")
    return AutoencoderFiles(_decoder_in(folder), repository)


def _decoder_in(folder: Path) -> Path:
    found = [folder / DIFFUSERS_FILE] if (folder / DIFFUSERS_FILE).is_file() else visible(folder.glob("*.safetensors"))
    decoders = found if len(found) == 1 else [path for path in found if "decoder" in path.name]
    if len(decoders) != 1:
        names = ", ".join(path.name for path in decoders or found) or "no .safetensors file"
        raise DataError(
            f"{folder} holds {names}, of which the generator tiny-autoencoder cannot choose a decoder. Name its file: "
            f"tiny-autoencoder:{folder}/NAME.safetensors"
        )
    return decoders[0]


def diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """State dict under diffusers' names, from these or from the layer numbers of the published weights.

    The published decoder counts its clamp as layer 0, which diffusers computes outside the layers; the published
    encoder has no such layer.
    """
    part, before = ("encoder", 0) if "0.weight" in state else ("decoder", 1)

    def renamed(number: re.Match[str]) -> str:
        return f"{part}.layers.{int(number[1]) - before}."

    return {re.sub(r"^(\d+)\.", renamed, name): tensor for name, tensor in state.items()}


def load_part(files: AutoencoderFiles, part: str) -> Any:
    """The ``"decoder"`` or the ``"encoder"`` as diffusers' module, float32, frozen.

    Raises:
        DataError: The file cannot be read, or holds another network.
    """
    network_class = import_diffusers("tiny-autoencoder").AutoencoderTiny
    path = files.decoder if part == "decoder" else files.encoder
    try:
        stored = diffusers_names(load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{path} cannot be read as the {part} of a tiny autoencoder ({error}). Give one in safetensors, in the "
            f"layer numbers of TAESD or in diffusers' names."
        ) from None
    state = {name.removeprefix(f"{part}."): value.float() for name, value in stored.items() if name.startswith(part)}
    config_file = files.decoder.parent / CONFIG_FILE
    config = read_json(config_file) if config_file.is_file() else {}
    try:
        # Read from the first layer of the decoder or the last one of the encoder, for files without a configuration.
        last = max(state, key=lambda name: int(name.split(".")[1]))
        channels = state["layers.0.weight"].shape[1] if part == "decoder" else len(state[last])
        network: Any = network_class.from_config({"latent_channels": channels, **config})
        module = getattr(network, part)
        module.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path} holds no {part} of a tiny autoencoder: {reason}. Give the {part} of TAESD or of a relative with "
            f"the same layers."
        ) from None
    return module.eval().requires_grad_(False)


class TinyAutoencoder(NormalLatents):
    """Decoder of a tiny autoencoder behind whitened latents.

    Statistics of the latents are looked for beside the decoder, then among those of clipstill.
    """

    name = "tiny-autoencoder"
    # Twice the step of pixels left a lower loss after 60 steps than once or thrice.
    lr_factor = 2.0
    tv_factor = 0.25
    # About one whitened coefficient of pictures in a thousand lies beyond this many deviations.
    box = 5.0

    def __init__(self, files: AutoencoderFiles, device: torch.device) -> None:
        self.network = load_part(files, "decoder")
        self._prior = _prior_of(self.network, files)
        self._device = device
        self.network.to(device, memory_format=torch.channels_last)
        self.stride = 2 ** sum(isinstance(layer, torch.nn.Upsample) for layer in self.network.layers)
        self._mean = self._prior.mean_Z.to(device)[:, None, None]
        self._roots: dict[int, Tensor] = {}
        licence = licence_of(files.decoder.parent)
        weights = Provenance("tiny autoencoder", licence, files.source, sha256_file(files.decoder))
        self.provenance = (weights, *self._prior.provenance)

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """Standard normal coefficients (N, Z, size / stride, size / stride): the spread that pictures have.

        A smaller spread gave calmer images with clearer things, and students that learned less of them.
        """
        side = math.ceil(size / self.stride)
        shape = (len(self._prior.mean_Z), side, side)
        rows = [torch.randn(shape, generator=generator_for(seed, "latent")) for seed in seeds]
        return [torch.stack(rows).to(self._device)]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Coefficients -> images (N, 3, H, W) in [0, 1]; gradients stop only where they would push further out."""
        # The decoder gives [-1, 1] and a little beyond.
        return one_sided_clamp((through(self.network, self.latent(latents[0])) + 1) / 2)

    def latent(self, coefficients: Tensor) -> Tensor:
        """Whitened coefficients -> input of the decoder, both (N, Z, h, h)."""
        # In half precision, rounding errors of coarse coefficients would exceed the fine ones.
        with torch.autocast(coefficients.device.type, enabled=False):
            return self._mean + from_frequencies(self._coloured(coefficients))

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """The same coarse frequencies in a larger or smaller latent; new fine ones are 0, the likeliest value."""
        side, old = math.ceil(size / self.stride), latents[0].shape[-1]
        kept = min(side, old)
        with torch.no_grad():
            # An orthonormal basis keeps lengths: the same picture on more cells is longer.
            cut = self._coloured(latents[0])[..., :kept, :kept] * (side / old)
            padded = F.pad(cut, (0, side - kept, 0, side - kept)).permute(2, 3, 1, 0)
            return [torch.linalg.solve(self._roots_of(side), padded).permute(3, 2, 0, 1).contiguous()]

    def _coloured(self, coefficients: Tensor) -> Tensor:
        """White coefficients -> those of the latent's cosine transform."""
        return torch.einsum("hwcd,ndhw->nchw", self._roots_of(coefficients.shape[-1]), coefficients.float())

    def _roots_of(self, side: int) -> Tensor:
        if side not in self._roots:
            self._roots[side] = self._prior.at(side).to(self._device)
        return self._roots[side]


def _prior_of(decoder: Any, files: AutoencoderFiles) -> LatentPrior:
    """Statistics of this decoder's latents, or assumed ones where they were not measured."""
    own = files.decoder.parent / PRIOR_FILE
    prior, probe = LatentPrior.load(own if own.is_file() else PRIOR)
    channels = int(decoder.layers[0].in_channels)
    if channels == len(prior.mean_Z) and probe.fits(decoder):
        return prior
    say(
        f"tiny-autoencoder: there are no statistics of the latents of {files.source}; the spectrum of TAESD's is "
        f"assumed. Measure them: python -m tools.weights latent-prior --autoencoder {files.source} --out DIR"
    )
    return LatentPrior.assumed(prior, channels)


def load_tiny_autoencoder(rest: str, device: torch.device) -> TinyAutoencoder:
    """Factory of the registry."""
    import_diffusers("tiny-autoencoder")  # before anything is downloaded for it
    return TinyAutoencoder(find_autoencoder(rest), device)
