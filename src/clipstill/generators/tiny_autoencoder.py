"""Tiny autoencoders (TAESD and its relatives) as generators, with statistics of natural latents as their prior.

``tiny-autoencoder:/path/to/taesd_decoder.safetensors`` names a decoder, ``tiny-autoencoder:/path/to/folder`` a folder
that holds one, or that diffusers saved; ``tiny-autoencoder:OWNER/REPO`` names a model of the hub, and plain
``tiny-autoencoder`` the one that began the family. Which way the layers are named is read from the file.

What the optimiser moves is not the latent, but the whitened coefficients that ``latent_prior`` makes it of: an
autoencoder decodes every latent, and inverting it plainly gives texture without objects.

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

from clipstill.core.errors import DataError, ResourceError
from clipstill.core.files import read_json, sha256_file
from clipstill.core.progress import say
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.generators.latent_prior import LatentPrior, from_frequencies, to_frequencies
from clipstill.generators.model_licence import licence_of
from clipstill.generators.vqgan import OneSidedClamp

FIRST_OF_ITS_KIND = "madebyollin/taesd"
PRIOR = Path(__file__).parents[1] / "assets" / "latent-prior.safetensors"
# Where a user's own statistics are looked for, beside the decoder.
PRIOR_FILE = "latent-prior.safetensors"
CONFIG_FILE = "config.json"
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
# About one whitened coefficient of pictures in a thousand lies beyond this many deviations.
BOX = 5.0
_UPSTREAM_NAME = re.compile(r"(\d+)\.(.+)")
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


@dataclass(frozen=True)
class AutoencoderFiles:
    """Where an autoencoder lies.

    Attributes:
        decoder: its file; one that diffusers wrote holds the encoder too.
        source: what a licence ledger says of it.
    """

    decoder: Path
    source: str

    @property
    def encoder(self) -> Path:
        """The file that holds the encoder: named alike, or the same one; it may be absent."""
        return self.decoder.with_name(self.decoder.name.replace("decoder", "encoder"))


def find_autoencoder(rest: str) -> AutoencoderFiles:
    """The files behind a name.

    Args:
        rest: what follows ``tiny-autoencoder:``: a file, a folder, or a repository of the hub; empty for the first one.

    Raises:
        DataError: there is no such file, or no decoder in the folder.
        ResourceError: the hub cannot be reached.
    """
    path = Path(rest).expanduser()
    if rest and path.is_file():
        return AutoencoderFiles(path, str(path))
    if rest and path.is_dir():
        return AutoencoderFiles(_decoder_in(path), str(path))
    repository = rest or FIRST_OF_ITS_KIND
    if not _REPOSITORY.fullmatch(repository) or path.suffix == ".safetensors":
        raise DataError(
            f"there is no file or folder {rest} for the generator tiny-autoencoder. Check the path, or name a "
            f"repository: tiny-autoencoder:{FIRST_OF_ITS_KIND}"
        )
    return AutoencoderFiles(_decoder_in(_download(repository)), repository)


def _decoder_in(folder: Path) -> Path:
    found = [folder / DIFFUSERS_FILE] if (folder / DIFFUSERS_FILE).is_file() else sorted(folder.glob("*.safetensors"))
    decoders = found if len(found) == 1 else [path for path in found if "decoder" in path.name]
    if len(decoders) != 1:
        names = ", ".join(path.name for path in decoders or found) or "no .safetensors file"
        raise DataError(
            f"{folder} holds {names}, of which the generator tiny-autoencoder cannot choose a decoder. Name its file: "
            f"tiny-autoencoder:{folder}/NAME.safetensors"
        )
    return decoders[0]


def _download(repository: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(repository, allow_patterns=[CONFIG_FILE, DIFFUSERS_FILE, "README.md", "LICENSE"]))
    except Exception as error:  # of the network, the hub's client or the disk
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ResourceError(
            f"cannot get tiny-autoencoder {repository} from the model hub ({reason}). Check the name and the "
            f"connection, or name a local copy: tiny-autoencoder:/path/to/taesd_decoder.safetensors"
        ) from None


def diffusers_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict in diffusers' names, from them or from the numbers of the published sequential modules.

    The published decoder counts its clamp as layer 0, which diffusers computes outside the layers; the published
    encoder counts alike.

    Raises:
        KeyError: a name of neither kind.
    """
    if all(name.startswith(("decoder.", "encoder.")) for name in state):
        return dict(state)
    part, before = ("encoder", 0) if "0.weight" in state else ("decoder", 1)
    named = {}
    for name, tensor in state.items():
        match = _UPSTREAM_NAME.fullmatch(name)
        if match is None:
            raise KeyError(name)
        named[f"{part}.layers.{int(match.group(1)) - before}.{match.group(2)}"] = tensor
    return named


def load_part(files: AutoencoderFiles, part: str) -> Any:
    """The decoder or the encoder as diffusers' module, float32, frozen.

    Args:
        files: where it lies.
        part: ``"decoder"`` or ``"encoder"``.

    Raises:
        DataError: the file cannot be read, or holds another network.
        ResourceError: diffusers is not installed.
    """
    network_class = _autoencoder_class()
    path = files.decoder if part == "decoder" else files.encoder
    try:
        stored = diffusers_names(load_file(path))
    except (OSError, SafetensorError, KeyError) as error:
        raise DataError(
            f"{path} cannot be read as the {part} of a tiny autoencoder ({error}). Give one in safetensors, in the "
            f"layer numbers of TAESD or in diffusers' names."
        ) from None
    state = {name.removeprefix(f"{part}."): value.float() for name, value in stored.items() if name.startswith(part)}
    config_file = files.decoder.parent / CONFIG_FILE
    config = read_json(config_file) if config_file.is_file() else {}
    try:
        network: Any = network_class.from_config({"latent_channels": _latent_channels(state, part), **config})
        module = getattr(network, part)
        module.load_state_dict(state)
    except (RuntimeError, ValueError, TypeError, KeyError) as error:
        reason = " ".join(str(error).split())[:160]
        raise DataError(
            f"{path} holds no {part} of a tiny autoencoder: {reason}. Give the {part} of TAESD or of a relative with "
            f"the same layers."
        ) from None
    return module.eval().requires_grad_(False)


def _latent_channels(state: Mapping[str, Tensor], part: str) -> int:
    """Read from the weights, for files without a configuration: what the first layer takes, or the last one gives."""
    if part == "decoder":
        return int(state["layers.0.weight"].shape[1])
    last = max(int(name.split(".")[1]) for name in state)
    return len(state[f"layers.{last}.bias"])


def _autoencoder_class() -> Any:
    try:
        from diffusers import AutoencoderTiny
    except ImportError:
        raise ResourceError(
            "the generator tiny-autoencoder needs diffusers. Install it: pip install 'clipstill[diffusers]'"
        ) from None
    return AutoencoderTiny


class TinyAutoencoder:
    """A tiny autoencoder's decoder behind whitened latents.

    Args:
        files: of the weights.
        device: where it runs.
        prior: statistics of latents; None looks for them beside the decoder, then among those that come with clipstill.

    Raises:
        DataError: the weights are not those of a tiny autoencoder.
        ArtifactError: statistics are damaged.
        ResourceError: diffusers is not installed.
    """

    name = "tiny-autoencoder"
    # Twice the step of pixels left a lower loss after 60 steps than once or thrice.
    lr_factor = 2.0
    tv_factor = 0.25

    def __init__(self, files: AutoencoderFiles, device: torch.device, prior: LatentPrior | None = None) -> None:
        self._decoder = load_part(files, "decoder")
        self._prior = prior or _prior_of(self._decoder, files)
        self._device = device
        self._decoder.to(device, memory_format=torch.channels_last)
        self.stride = 2 ** sum(isinstance(layer, torch.nn.Upsample) for layer in self._decoder.layers)
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
        shape = (self._prior.channels, side, side)
        rows = [torch.randn(shape, generator=generator_for(seed, "latent")) for seed in seeds]
        return [torch.stack(rows).to(self._device)]

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Coefficients -> images (N, 3, H, W) in [0, 1]; gradients stop only where they would push further out."""
        # AutoencoderTiny gives [-1, 1] and a little beyond.
        image = (self._decoder(self.latent(latents[0])) + 1) / 2
        clamped: Tensor = OneSidedClamp.apply(image)
        return clamped

    def latent(self, coefficients: Tensor) -> Tensor:
        """Whitened coefficients -> what the decoder takes, both (N, Z, h, h)."""
        # Half precision would round coarse coefficients by more than what fine ones amount to.
        with torch.autocast(coefficients.device.type, enabled=False):
            coloured = torch.einsum("hwcd,ndhw->nchw", self._roots_of(coefficients.shape[-1]), coefficients.float())
            return self._mean + from_frequencies(coloured)

    def coefficients(self, latent: Tensor) -> Tensor:
        """The inverse of ``latent``."""
        side = latent.shape[-1]
        coloured = to_frequencies(latent - self._mean).permute(2, 3, 1, 0)
        white: Tensor = torch.linalg.solve(self._roots_of(side), coloured)
        return white.permute(3, 2, 0, 1)

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip to the deviations that pictures have, in place."""
        with torch.no_grad():
            latents[0].clamp_(-BOX, BOX)

    def prior(self, latents: Sequence[Tensor]) -> Tensor:
        """Half the mean square of each image's coefficients: loss_N, the normal prior per dimension."""
        return 0.5 * latents[0].square().mean((1, 2, 3))

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """The same coarse frequencies in a larger or smaller latent; new fine ones are 0, the likeliest value."""
        old = latents[0]
        side = math.ceil(size / self.stride)
        kept = min(side, old.shape[-1])
        with torch.no_grad():
            coloured = torch.einsum("hwcd,ndhw->nchw", self._roots_of(old.shape[-1]), old.float())
            # An orthonormal basis keeps lengths: the same picture on more cells is longer.
            cut = coloured[..., :kept, :kept] * (side / old.shape[-1])
            grown = F.pad(cut, (0, side - kept, 0, side - kept)).permute(2, 3, 1, 0)
            return [torch.linalg.solve(self._roots_of(side), grown).permute(3, 2, 0, 1).contiguous()]

    def codes(self, latents: Sequence[Tensor]) -> None:
        """None: there is no codebook."""

    def _roots_of(self, side: int) -> Tensor:
        if side not in self._roots:
            self._roots[side] = self._prior.at(side).to(self._device)
        return self._roots[side]


def _prior_of(decoder: Any, files: AutoencoderFiles) -> LatentPrior:
    """Statistics of this decoder's latents, or assumed ones where nobody measured them."""
    own = files.decoder.parent / PRIOR_FILE
    prior, probe = LatentPrior.load(own if own.is_file() else PRIOR)
    channels = int(decoder.layers[0].in_channels)
    if channels == prior.channels and probe.fits(decoder):
        return prior
    say(
        f"tiny-autoencoder: there are no statistics of the latents of {files.source}; the spectrum of TAESD's is "
        f"assumed. Measure them: python -m tools.weights latent-prior --autoencoder {files.source} --out DIR"
    )
    return LatentPrior.assumed(prior, channels)


def load_tiny_autoencoder(rest: str, device: torch.device) -> TinyAutoencoder:
    """The factory of the registry."""
    _autoencoder_class()  # before anything is downloaded for it
    return TinyAutoencoder(find_autoencoder(rest), device)
