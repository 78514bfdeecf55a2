"""VQGAN: images as a grid of codes from a codebook that was learned on photographs.

The latent is continuous and is rounded to its nearest codes on the way to the image, so that every image is one that
the decoder was trained to draw. Three published tricks make that optimisable: the gradient passes the rounding as if
it were not there, the clamp of the image stops only gradients that push further out, and after each step the latent is
clipped to the codebook's box.

Names: ``vqgan`` is what was imported, ``vqgan:NAME`` one of several, ``vqgan:PATH`` a folder or safetensors file,
``vqgan:hub:OWNER/REPO`` (or ``hub:FOLDER``) a ``VQModel`` in diffusers' layout.

The published weights were trained on photographs, mostly ImageNet: whether images made with them are data-free for a
task that ImageNet covers is debatable. ``provenance`` says what is known.

Shapes: N images, E channels of a code, K codes, h x w cells, H x W pixels, M = N h w.

Source: Crowson et al., ECCV 2022 (VQGAN-CLIP); Esser et al., CVPR 2021.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.errors import ConfigError, DataError, ResourceError, UnknownNameError, did_you_mean
from clipstill.core.files import sha256_file
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.core.weights_store import (
    CONFIG_FILE,
    UNKNOWN,
    WEIGHTS_FILE,
    StoredWeights,
    open_weights,
    stored_weights,
    weights_folder,
)
from clipstill.generators.model_licence import licence_of
from clipstill.generators.vqgan_checkpoint import KIND, vqgan_tensors
from clipstill.generators.vqgan_network import build_network, select_tensors, shape_of

# The variant that public VQGAN-CLIP tools use; what ``vqgan`` means where several are imported.
USUAL = "vqgan-f16-16384"
HUB = "hub:"
_HUB_FILE = "diffusion_pytorch_model.safetensors"
# Distances held at once: 128 MiB of float32, whatever the batch and the codebook.
_DISTANCES = 2**25


class StraightThrough(torch.autograd.Function):
    """Forward: the codes. Backward: the gradient as it is, to the latent that was rounded to them."""

    @staticmethod
    def forward(ctx: Any, z: Tensor, quantised: Tensor) -> Tensor:
        """Return ``quantised``, of the shape of ``z``."""
        return quantised.view_as(quantised)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Pass the gradient on unchanged."""
        return gradients[0], None


class OneSidedClamp(torch.autograd.Function):
    """Forward: clamp to [0, 1]. Backward: stops only what would push a value further out.

    An ordinary clamp stops all gradients of saturated pixels, which then never come back.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Return ``x`` clamped to [0, 1]."""
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """A step goes against the gradient: below 0 a positive one pushes out, above 1 a negative one."""
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        outwards = ((x < 0) & (gradient > 0)) | ((x > 1) & (gradient < 0))
        return gradient.masked_fill(outwards, 0)


def nearest_codes(z_NEhw: Tensor, codebook_KE: Tensor, square_K: Tensor) -> Tensor:
    """Index of the code nearest to each cell by squared Euclidean distance.

    Computed as ``|e|^2 - 2 e z`` (``|z|^2`` is the same for all codes), some cells at a time, in the codebook's
    precision even under autocast: rounded products would choose wrong codes.

    Args:
        z_NEhw: latents.
        codebook_KE: codes.
        square_K: their squared lengths.

    Returns:
        integers (N, h, w) in [0, K).
    """
    images, _, height, width = z_NEhw.shape
    with torch.no_grad(), torch.autocast(z_NEhw.device.type, enabled=False):
        cell_ME = z_NEhw.permute(0, 2, 3, 1).flatten(0, 2).to(codebook_KE.dtype)
        parts = torch.split(cell_ME, max(1, _DISTANCES // len(codebook_KE)))
        index_M = torch.cat([torch.addmm(square_K, part, codebook_KE.T, alpha=-2).argmin(1) for part in parts])
    return index_M.view(images, height, width)


class Vqgan:
    """A decoder with its codebook as a generator.

    Args:
        paint: quantised latents (N, E, h, w) -> images (N, 3, H, W), about in [-1, 1]; frozen.
        codebook_KE: codes, on the device where ``paint`` works.
        stride: pixels a cell.
        provenance: of the weights.
    """

    name = "vqgan"
    # The published step (Adam, 0.1) is of the size that plain pixels take too.
    lr_factor = 1.0
    # Rounding to codes of photographs leaves no room for noise, and no published loop smooths: it would only blur.
    tv_factor = 0.0

    def __init__(
        self, paint: Callable[[Tensor], Tensor], codebook_KE: Tensor, stride: int, provenance: Sequence[Provenance]
    ) -> None:
        self.stride = stride
        self.provenance = tuple(provenance)
        self._paint = paint
        self._codebook_KE = codebook_KE.detach()
        self._square_K = self._codebook_KE.square().sum(1)
        self._low_E11 = self._codebook_KE.amin(0)[:, None, None]
        self._high_E11 = self._codebook_KE.amax(0)[:, None, None]

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """A random code in each cell: one latent (N, E, size / stride, size / stride)."""
        side = math.ceil(size / self.stride)
        codes_Nhw = torch.stack(
            [
                torch.randint(len(self._codebook_KE), (side, side), generator=generator_for(seed, "latent"))
                for seed in seeds
            ]
        )
        return [self.embed(codes_Nhw)]

    def embed(self, codes_Nhw: Tensor) -> Tensor:
        """Codebook indices (N, h, w) -> the latents (N, E, h, w) that are exactly these codes."""
        # Gathered by index: a one-hot matrix would take gigabytes for nothing.
        return self._codebook_KE[codes_Nhw.to(self._codebook_KE.device)].permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents -> images (N, 3, H, W) in [0, 1], differentiable."""
        z_NEhw = latents[0]
        quantised_NEhw = self.embed(nearest_codes(z_NEhw, self._codebook_KE, self._square_K))
        through: Any = StraightThrough.apply(z_NEhw, quantised_NEhw)
        image_N3HW = self._paint(through)
        if image_N3HW.dtype in (torch.float16, torch.bfloat16):  # autocast
            image_N3HW = image_N3HW.float()
        clamped: Tensor = OneSidedClamp.apply((image_N3HW + 1) / 2)
        return clamped

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip each channel to its least and greatest value in the codebook, in place."""
        with torch.no_grad():
            latents[0].clamp_(self._low_E11, self._high_E11)

    def prior(self, latents: Sequence[Tensor]) -> Tensor:
        """Mean square of each latent: loss_N.

        Public loops have it as an option whose weight decays as ``1 / (2 i + 1)``; here the weight is a setting, and it
        stays.
        """
        return latents[0].square().mean((1, 2, 3))

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """Cells repeated or left out: what lies between two codes is near neither, often near an unused one."""
        side = math.ceil(size / self.stride)
        return [F.interpolate(latents[0], (side, side), mode="nearest-exact")]

    def codes(self, latents: Sequence[Tensor]) -> Tensor:
        """Index of the nearest code of each cell, integers (N, h, w): all that the image is."""
        return nearest_codes(latents[0], self._codebook_KE, self._square_K)


def load_vqgan(rest: str, device: torch.device) -> Vqgan:
    """The factory of the registry.

    Args:
        rest: what follows ``vqgan:``; empty for ``vqgan`` alone.
        device: where the decoder runs.

    Raises:
        ResourceError: none is imported; or diffusers is not installed, or its model cannot be fetched.
        ConfigError: several are imported, and none was chosen.
        UnknownNameError: no weights of that name, and no such path.
        DataError, ArtifactError: the weights are damaged or of something else.
    """
    if rest.startswith(HUB):
        return _load_hub(rest.removeprefix(HUB), device)
    found = _find(rest)
    if isinstance(found, StoredWeights):
        where, tensors, facts = found.folder, found.tensors(), found.facts
        licence, source, trained_on, digest = facts.licence, facts.source, facts.trained_on, facts.sha256
    else:
        where, tensors, digest = found, vqgan_tensors(found), sha256_file(found)
        licence, source, trained_on = UNKNOWN, str(found), UNKNOWN
    shape = shape_of(tensors, where)
    network = build_network(shape, select_tensors(tensors, shape, where)).to(device)
    network.to(memory_format=torch.channels_last)
    title = f"VQGAN {shape.label} decoder, training pictures: {trained_on}"
    return Vqgan(
        network,
        network.quantize.embedding.weight,
        shape.stride,
        [Provenance(title, licence, source, digest)],
    )


def weights_digest(rest: str) -> str:
    """The identity of the weights behind a name, without loading them: for keys of work that depends on them.

    Args:
        rest: what follows ``vqgan:``; empty for ``vqgan`` alone.

    Returns:
        A sha256; an empty string for a remote model, whose weights are not known before they are fetched.

    Raises:
        ResourceError, ConfigError, UnknownNameError, DataError, ArtifactError: as ``load_vqgan``.
    """
    if rest.startswith(HUB):
        file = Path(rest.removeprefix(HUB)).expanduser() / _HUB_FILE
        return sha256_file(file) if file.is_file() else ""
    found = _find(rest)
    return found.facts.sha256 if isinstance(found, StoredWeights) else sha256_file(found)


def _find(rest: str) -> StoredWeights | Path:
    """An entry of the store or of another folder, or a safetensors file."""
    entries = {entry.name: entry for entry in stored_weights(KIND)}
    if rest in entries:
        return entries[rest]
    names = ", ".join(entries) or "none"
    if not rest:
        if len(entries) == 1:
            return next(iter(entries.values()))
        if USUAL in entries:
            return entries[USUAL]
        if not entries:
            raise ResourceError(
                f"no VQGAN is imported into {weights_folder()}. Import a checkpoint: clipstill weights import FILE; or "
                "name a model in diffusers' layout: vqgan:hub:OWNER/REPO"
            )
        raise ConfigError(
            f"several VQGANs are imported: {names}. Choose one, such as vqgan:{next(iter(entries))}; another is added "
            "by: clipstill weights import FILE"
        )
    path = Path(rest).expanduser()
    if path.is_dir():
        if not (path / CONFIG_FILE).is_file() and (path / WEIGHTS_FILE).is_file():
            return path / WEIGHTS_FILE
        if (path / _HUB_FILE).is_file():
            raise ConfigError(f"{path} is in diffusers' layout. Name it as vqgan:{HUB}{rest}")
        return open_weights(path)
    if path.is_file():
        if path.name == WEIGHTS_FILE and (path.parent / CONFIG_FILE).is_file():
            return open_weights(path.parent)
        if path.suffix != ".safetensors":
            raise ConfigError(f"{path} is no safetensors file. Import it first: clipstill weights import {path}")
        return path
    raise UnknownNameError(
        f"no VQGAN is named '{rest}', and there is no such folder or file.{did_you_mean(rest, entries)} Imported: "
        f"{names}. To add one: clipstill weights import FILE"
    )


def _load_hub(rest: str, device: torch.device) -> Vqgan:
    """A ``VQModel`` by diffusers, from a local folder or, since the user names a remote model, from the hub."""
    try:
        diffusers: Any = importlib.import_module("diffusers")
    except ImportError:
        raise ResourceError(
            f"vqgan:{HUB}{rest} needs the package diffusers. Run: pip install 'clipstill[diffusers]'"
        ) from None
    folder = Path(rest).expanduser()
    local = folder.is_dir()
    owner, _, tail = rest.partition("/")
    repository, _, subfolder = tail.partition("/")
    if not local and not (owner and repository):
        raise ConfigError(
            f"'{rest}' is neither a folder nor a hub repository. Write vqgan:{HUB}OWNER/REPO, "
            f"vqgan:{HUB}OWNER/REPO/SUBFOLDER or vqgan:{HUB}FOLDER."
        )
    try:
        model, info = diffusers.VQModel.from_pretrained(
            str(folder) if local else f"{owner}/{repository}",
            subfolder=None if local else subfolder or None,
            use_safetensors=True,
            local_files_only=local,
            torch_dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:  # connection, HTTP status, absent or damaged files: many kinds
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if local:
            raise DataError(
                f"{folder} holds no VQModel of diffusers that can be read ({reason}). It needs config.json and "
                f"{_HUB_FILE}."
            ) from None
        raise ResourceError(
            f"vqgan:{HUB}{rest} cannot be fetched ({reason}). Check the name and the network, or name a local folder."
        ) from None
    lost = [name for name in info["missing_keys"] if not name.startswith(("encoder.", "quant_conv."))]
    if model.config.get("_class_name", "VQModel") != "VQModel" or lost or model.config.out_channels != 3:
        raise DataError(
            f"vqgan:{HUB}{rest} is not a whole VQModel of RGB images"
            + (f" (it lacks '{lost[0]}')" if lost else "")
            + ". Name another model."
        )
    model.encoder = nn.Identity()  # not needed; half of the memory
    model.eval().requires_grad_(False).to(device)
    spatial = model.config.norm_type == "spatial"

    def paint(quantised_NEhw: Tensor) -> Tensor:
        # Decoders with spatial normalisation see the codes a second time, at every layer.
        image: Tensor = model.decoder(model.post_quant_conv(quantised_NEhw), quantised_NEhw if spatial else None)
        return image

    file = folder / _HUB_FILE if local else _cached(f"{owner}/{repository}", subfolder)
    card = folder if local else _snapshot(file, subfolder)
    return Vqgan(
        paint,
        model.quantize.embedding.weight,
        2 ** (len(model.config.block_out_channels) - 1),
        [
            Provenance(
                f"VQModel of {rest}, training pictures: {UNKNOWN}",
                licence_of(card) if card is not None else UNKNOWN,
                str(folder) if local else f"hub model {rest}",
                sha256_file(file) if file is not None and file.is_file() else "",
            )
        ],
    )


def _cached(repository: str, subfolder: str) -> Path | None:
    """Where the hub's client keeps the file that was just read."""
    hub: Any = importlib.import_module("huggingface_hub")
    found = hub.try_to_load_from_cache(repository, f"{subfolder}/{_HUB_FILE}" if subfolder else _HUB_FILE)
    return Path(found) if isinstance(found, str) else None


def _snapshot(file: Path | None, subfolder: str) -> Path | None:
    """The root of the repository in the hub's cache, where its card lies if it was fetched."""
    return file.parents[len(Path(subfolder).parts)] if file is not None else None
