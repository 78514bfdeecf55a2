"""VQGAN: images as a grid of codes from a codebook that was learned on photographs.

The latent is rounded to its nearest codes on the way to the image, so that every image is one that the decoder was
trained to draw. Three published tricks make that optimisable: the gradient passes the rounding, the clamp of the image
stops only gradients that push further out, and after each step the latent is clipped to the codebook's box.

Names: ``vqgan`` is the imported one, ``vqgan:NAME`` one of several, ``vqgan:PATH`` a folder or safetensors file,
``vqgan:hub:OWNER/REPO`` (or ``hub:FOLDER``) a ``VQModel`` in diffusers' layout. All of them run in diffusers.

The published weights were trained on photographs, mostly ImageNet: for tasks like it, whether images made with them are
data-free is debatable. ``provenance`` states the training pictures where they are known.

Shapes: N images, E channels of a code, K codes, h x w cells, H x W pixels, M = N h w.

Source: Crowson et al., ECCV 2022 (VQGAN-CLIP); Esser et al., CVPR 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.errors import ConfigError, DataError, ResourceError, UnknownNameError, did_you_mean, reason_of
from clipstill.core.files import sha256_file
from clipstill.core.names import plain
from clipstill.core.paths import user_path
from clipstill.core.protocols import Provenance
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import one_sided_clamp, through
from clipstill.core.weights_store import (
    CONFIG_FILE,
    UNKNOWN,
    WEIGHTS_FILE,
    WeightsFacts,
    open_weights,
    stored_weights,
    weights_folder,
)
from clipstill.generators.model_files import DIFFUSERS_FILE, download_diffusers_model, import_diffusers, licence_of
from clipstill.generators.vqgan_checkpoint import KIND, build_model, read_vqgan_tensors, select_tensors, shape_of

# The variant that public VQGAN-CLIP tools use, and the default where several are imported.
USUAL = "vqgan-f16-16384"
HUB = "hub:"
# Distances held at once: 128 MiB of float32, whatever the batch and the codebook.
_DISTANCES = 2**25


def nearest_codes(z_NEhw: Tensor, codebook_KE: Tensor, square_K: Tensor) -> Tensor:
    """Index of the code nearest to each cell by squared Euclidean distance.

    Computed as ``|e|^2 - 2 e z`` (``|z|^2`` is the same for all codes), some cells at a time, in the codebook's
    precision even under autocast: rounded products would choose wrong codes.

    Args:
        z_NEhw: Latents.
        codebook_KE: Codes.
        square_K: Squared lengths of the codes.

    Returns:
        Integers (N, h, w) in [0, K).
    """
    images, _, height, width = z_NEhw.shape
    with torch.no_grad(), torch.autocast(z_NEhw.device.type, enabled=False):
        cell_ME = z_NEhw.permute(0, 2, 3, 1).flatten(0, 2).to(codebook_KE.dtype)
        parts = torch.split(cell_ME, max(1, _DISTANCES // len(codebook_KE)))
        index_M = torch.cat([torch.addmm(square_K, part, codebook_KE.T, alpha=-2).argmin(1) for part in parts])
    return index_M.view(images, height, width)


class _Decoder(nn.Module):
    """What a ``VQModel`` of diffusers does after its codebook."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.enter, self.decoder = model.post_quant_conv, model.decoder
        # Decoders with spatial normalisation see the codes a second time, at every layer.
        self._spatial = model.config.norm_type == "spatial"

    def forward(self, quantised_NEhw: Tensor) -> Tensor:
        """Quantised latents -> images."""
        x_N3HW: Tensor = self.decoder(self.enter(quantised_NEhw), quantised_NEhw if self._spatial else None)
        return x_N3HW


class Vqgan:
    """A decoder with its codebook as a generator.

    Args:
        network: Quantised latents (N, E, h, w) -> images (N, 3, H, W), about in [-1, 1]; a frozen module.
        codebook_KE: Codes, on the decoder's device.
        stride: Pixels per cell.
    """

    name = "vqgan"
    # The published step (Adam, 0.1) is of the size that plain pixels take too.
    lr_factor = 1.0
    # Rounding to codes of photographs leaves no room for noise, and no published loop smooths: it would only blur.
    tv_factor = 0.0

    def __init__(self, network: nn.Module, codebook_KE: Tensor, stride: int, provenance: Sequence[Provenance]) -> None:
        self.stride = stride
        self.provenance = tuple(provenance)
        self.network = network
        self._codebook_KE = codebook_KE.detach()
        self._square_K = self._codebook_KE.square().sum(1)
        self._low_E11 = self._codebook_KE.amin(0)[:, None, None]
        self._high_E11 = self._codebook_KE.amax(0)[:, None, None]

    @classmethod
    def of_model(cls, model: Any, provenance: Sequence[Provenance] = ()) -> Vqgan:
        """Generator of a ``VQModel`` of diffusers that is frozen and on its device."""
        stride = 2 ** (len(model.config.block_out_channels) - 1)
        return cls(_Decoder(model), model.quantize.embedding.weight, stride, provenance)

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """A random code in each cell: one latent (N, E, size / stride, size / stride)."""
        side = math.ceil(size / self.stride)
        draws = [generator_for(seed, "latent") for seed in seeds]
        codes = [torch.randint(len(self._codebook_KE), (side, side), generator=draw) for draw in draws]
        return [self.embed(torch.stack(codes))]

    def embed(self, codes_Nhw: Tensor) -> Tensor:
        """Codebook indices (N, h, w) -> the latents (N, E, h, w) that are exactly these codes."""
        # Gathered by index: a one-hot matrix would take gigabytes for nothing.
        return self._codebook_KE[codes_Nhw.to(self._codebook_KE.device)].permute(0, 3, 1, 2).contiguous()

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents -> images (N, 3, H, W) in [0, 1], differentiable."""
        (z_NEhw,) = latents
        # The sum is exactly the codes, and its gradient passes the rounding to the latent as it is.
        x_N3HW = through(self.network, self.embed(self.codes(latents)) + (z_NEhw - z_NEhw.detach()))
        return one_sided_clamp((x_N3HW + 1) / 2)

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip each channel to its least and greatest value in the codebook, in place."""
        with torch.no_grad():
            latents[0].clamp_(self._low_E11, self._high_E11)

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """Cells are repeated or left out: a mean of two codes is near neither, and often near an unused one."""
        side = math.ceil(size / self.stride)
        return [F.interpolate(latents[0], (side, side), mode="nearest-exact")]

    def codes(self, latents: Sequence[Tensor]) -> Tensor:
        """Index of the nearest code of each cell, integers (N, h, w): all that the image is."""
        return nearest_codes(latents[0], self._codebook_KE, self._square_K)


def load_vqgan(rest: str, device: torch.device) -> Vqgan:
    """Factory of the registry; ``rest`` is the text after ``vqgan:``, empty for ``vqgan`` alone."""
    if rest.startswith(HUB):
        return _load_diffusers_folder(rest, device)
    where, tensors, metadata = _find(rest)
    shape = shape_of(tensors, where)
    model = build_model(shape, select_tensors(tensors, shape, where)).to(device)
    title = f"VQGAN {shape.label} decoder, training pictures: {metadata.trained_on}"
    provenance = Provenance(title, metadata.licence, metadata.source, metadata.sha256)
    return Vqgan.of_model(model.to(memory_format=torch.channels_last), [provenance])


def _find(rest: str) -> tuple[Path, dict[str, Tensor], WeightsFacts]:
    """Place, tensors and metadata of imported weights, of a folder like them, or of a safetensors file."""
    entries = {entry.name: entry for entry in stored_weights(KIND)}
    names = ", ".join(entries) or "none"
    if not rest and not entries:
        raise ResourceError(
            f"no VQGAN is imported into {weights_folder()}. Import a checkpoint: clipstill weights import FILE; or "
            "name a model in diffusers' layout: vqgan:hub:OWNER/REPO"
        )
    if not rest and len(entries) > 1 and USUAL not in entries:
        raise ConfigError(
            f"several VQGANs are imported: {names}. Choose one, such as vqgan:{next(iter(entries))}; another is added "
            "by: clipstill weights import FILE"
        )
    entry = entries.get(rest or (USUAL if USUAL in entries else next(iter(entries))))
    path = user_path(rest or USUAL)
    if entry is None and not path.exists():
        raise UnknownNameError(
            f"no VQGAN is named '{rest}', and there is no such folder or file.{did_you_mean(rest, entries)} Imported: "
            f"{names}. To add one: clipstill weights import FILE"
        )
    if entry is None and (path / DIFFUSERS_FILE).is_file():
        raise ConfigError(f"{path} is in diffusers' layout. Name it as vqgan:{HUB}{rest}")
    if entry is None and (path / WEIGHTS_FILE).is_file():
        path = path / WEIGHTS_FILE
    folder = path.parent if path.name == WEIGHTS_FILE else path
    if entry is None and (path.is_dir() or (folder / CONFIG_FILE).is_file()):
        entry = open_weights(folder)
    if entry is not None:
        return entry.folder, entry.tensors(), entry.facts
    if path.suffix != ".safetensors":
        raise ConfigError(f"{path} is no safetensors file. Import it first: clipstill weights import {path}")
    return path, read_vqgan_tensors(path), WeightsFacts(KIND, {}, source=plain(path), sha256=sha256_file(path))


def _load_diffusers_folder(rest: str, device: torch.device) -> Vqgan:
    """A ``VQModel`` that diffusers saved, in a local folder or, since the user names a remote model, on the hub."""
    diffusers = import_diffusers(f"vqgan:{rest}")
    name = rest.removeprefix(HUB)
    root = folder = user_path(name)
    source = plain(folder)
    if not folder.is_dir():
        owner, _, tail = name.partition("/")
        repository, _, subfolder = tail.partition("/")
        root = download_diffusers_model("vqgan:hub", f"{owner}/{repository}", "/path/to/folder", subfolder)
        folder, source = root / subfolder, f"hub model {name}"
    try:
        model, info = diffusers.VQModel.from_pretrained(
            folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32, output_loading_info=True
        )
    except Exception as error:  # Absent and damaged files give many kinds.
        raise DataError(
            f"{folder} holds no VQModel of diffusers that can be read ({reason_of(error)}). It needs {CONFIG_FILE} "
            f"and {DIFFUSERS_FILE}."
        ) from None
    lost = [key for key in info["missing_keys"] if not key.startswith(("encoder.", "quant_conv."))]
    if model.config.get("_class_name", "VQModel") != "VQModel" or lost or model.config.out_channels != 3:
        raise DataError(
            f"vqgan:{rest} is not a whole VQModel of RGB images{f' (it lacks {lost[0]!r})' if lost else ''}. "
            "Name another model."
        )
    model.encoder = nn.Identity()  # not needed; half of the memory
    title = f"VQModel of {name}, training pictures: {UNKNOWN}"
    provenance = Provenance(title, licence_of(root), source, sha256_file(folder / DIFFUSERS_FILE))
    return Vqgan.of_model(model.eval().requires_grad_(False).to(device), [provenance])
