"""Published VQGAN checkpoints: their sizes, their ``VQModel`` of diffusers, and their import into the weights store.

All sizes are read from the tensors' shapes. A checkpoint carries no licence. The user states it, or states that the
file is its publisher's; then the licence of the publisher's repository counts.

Source: Esser, Rombach and Ommer, CVPR 2021 (taming-transformers, ``VQModel``); the same network in latent-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from clipstill.core.checkpoints import read_state
from clipstill.core.errors import DataError
from clipstill.core.files import sha256_file
from clipstill.core.weights_store import UNKNOWN, StoredWeights, WeightsFacts, store_weights
from clipstill.generators.model_files import import_diffusers

KIND = "vqgan"
GROUPS = 32
CODEBOOK = "quantize.embedding.weight"
# Checkpoints of whole text-to-image systems keep their VQGAN under this prefix.
_FIRST_STAGE = "first_stage_model."
_ENCODER = ("encoder.", "quant_conv.")
_DECODER = ("decoder.", "post_quant_conv.")
# Parts of diffusers' names -> parts of the published names, replaced in this order.
_PUBLISHED_NAMES = {
    "mid_block.resnets.0": "mid.block_1",
    "mid_block.resnets.1": "mid.block_2",
    "mid_block.attentions.0": "mid.attn_1",
    "down_blocks": "down",
    "resnets": "block",
    "attentions": "attn",
    "downsamplers.0": "downsample",
    "upsamplers.0": "upsample",
    "conv_shortcut": "nin_shortcut",
    "conv_norm_out": "norm_out",
    "group_norm": "norm",
    "to_out.0": "proj_out",
    ".to_": ".",
}


@dataclass(frozen=True)
class VqganShape:
    """Sizes of one VQGAN."""

    codes: int
    code_channels: int
    latent_channels: int  # Channels that the decoder takes, after a 1 x 1 convolution of the codes.
    widths: tuple[int, ...]  # Channels of each level, from the image's own resolution down; each level halves the side.
    blocks: int  # Residual blocks per level of the encoder; the decoder has one more.
    attention: tuple[int, ...]  # Levels with attention after each block.
    middle_attention: bool = True  # Whether there is attention between the two middle blocks.

    @property
    def stride(self) -> int:
        """Pixels per cell."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def label(self) -> str:
        """``f16-16384``, with ``-d4`` where codes have 4 channels instead of the usual 256."""
        return f"f{self.stride}-{self.codes}" + (f"-d{self.code_channels}" if self.code_channels != 256 else "")


def build_model(shape: VqganShape, tensors: Mapping[str, Tensor]) -> Any:
    """``VQModel`` of diffusers with a checkpoint's decoder and codebook, frozen, without an encoder."""
    model = _empty_model(shape)
    model.encoder, model.quant_conv = nn.Identity(), nn.Identity()
    own = model.state_dict()
    state = {name: tensors[_published_name(name, shape)].reshape(value.shape) for name, value in own.items()}
    model.load_state_dict(state, assign=True)
    return model.eval().requires_grad_(False)


def checkpoint_shapes(shape: VqganShape) -> dict[str, tuple[int, ...]]:
    """Published name -> shape of each tensor of a complete checkpoint."""
    shapes = {}
    for name, value in _empty_model(shape).state_dict().items():
        # The published attention computes linear layers as 1 x 1 convolutions.
        kernel = (1, 1) if ".attentions." in name and value.ndim == 2 else ()
        shapes[_published_name(name, shape)] = (*value.shape, *kernel)
    return shapes


def _empty_model(shape: VqganShape) -> Any:
    attention = ["Attn" if level in shape.attention else "" for level in range(len(shape.widths))]
    with torch.device("meta"):  # Random weights would be replaced at once.
        return import_diffusers("vqgan").VQModel(
            block_out_channels=shape.widths,
            down_block_types=[f"{kind}DownEncoderBlock2D" for kind in attention],
            up_block_types=[f"{kind}UpDecoderBlock2D" for kind in reversed(attention)],
            layers_per_block=shape.blocks,
            latent_channels=shape.latent_channels,
            num_vq_embeddings=shape.codes,
            vq_embed_dim=shape.code_channels,
            norm_num_groups=GROUPS,
            mid_block_add_attention=shape.middle_attention,
        )


def _published_name(name: str, shape: VqganShape) -> str:
    # diffusers counts the decoder's levels from the smallest resolution, the checkpoints from the largest.
    name = re.sub(r"up_blocks\.(\d+)", lambda match: f"up.{len(shape.widths) - 1 - int(match[1])}", name)
    for part, published in _PUBLISHED_NAMES.items():
        name = name.replace(part, published)
    return name


def shape_of(tensors: Mapping[str, Tensor], where: object) -> VqganShape:
    """Sizes of the VQGAN whose tensors, under their published names, are among these.

    Raises:
        DataError: The tensors are not those of a VQGAN, or one that tells a size is missing; ``where`` is named.
    """
    if not any(name.startswith("decoder.") for name in tensors):
        raise DataError(
            f"{where} is no VQGAN: no tensor's name begins with 'decoder.'. Give a checkpoint of taming-transformers "
            "or of latent-diffusion's VQ models."
        )
    if CODEBOOK not in tensors:
        gumbel = "quantize.embed.weight" in tensors
        raise DataError(
            f"{where} has no tensor '{CODEBOOK}': it is {'a Gumbel VQGAN' if gumbel else 'no VQGAN, or damaged'}. Give "
            "one with a codebook of nearest neighbours, such as vqgan_imagenet_f16_16384."
        )

    def size(name: str, axis: int, dimensions: int) -> int:
        tensor = tensors.get(name)
        if tensor is None:
            raise DataError(f"{where} lacks the tensor '{name}': it is damaged or no VQGAN. Get the file again.")
        if tensor.ndim != dimensions:
            raise DataError(
                f"{where}: tensor '{name}' has {tensor.ndim} dimensions instead of {dimensions}: the file is of "
                "another architecture. Give a VQGAN of taming-transformers or latent-diffusion."
            )
        return int(tensor.shape[axis])

    # Counted, not the highest number: a gap then shows as a missing tensor, and an absurd number costs nothing.
    levels = range(max(1, len(_numbers(r"decoder\.up\.(\d+)\.", tensors))))
    blocks = max(len(_numbers(rf"decoder\.up\.{level}\.block\.(\d+)\.", tensors)) for level in levels)
    widths = tuple(size(f"decoder.up.{level}.block.0.conv1.weight", 0, 4) for level in levels)
    if any(width == 0 or width % GROUPS for width in widths):
        raise DataError(
            f"{where}: its levels have {', '.join(map(str, widths))} channels, which do not divide into {GROUPS} "
            "groups: the file is of another architecture. Give a VQGAN of taming-transformers or latent-diffusion."
        )
    return VqganShape(
        codes=size(CODEBOOK, 0, 2),
        code_channels=size(CODEBOOK, 1, 2),
        latent_channels=size("post_quant_conv.weight", 0, 4),
        widths=widths,
        blocks=max(1, blocks - 1),
        attention=tuple(sorted(_numbers(r"(?:decoder\.up|encoder\.down)\.(\d+)\.attn\.", tensors))),
        middle_attention=any(re.match(r"(de|en)coder\.mid\.attn_1\.", name) for name in tensors),
    )


def select_tensors(tensors: Mapping[str, Tensor], shape: VqganShape, where: object) -> dict[str, Tensor]:
    """Decoder and codebook of a checkpoint, as contiguous float32.

    A checkpoint has either all of the encoder or nothing of it. Losses, discriminators and averages are left out.

    Raises:
        DataError: Tensors are missing, of another shape, unknown, or not finite; the message names the first ones.
    """
    known = checkpoint_shapes(shape)
    if not any(name.startswith(_ENCODER) for name in tensors):
        known = {name: size for name, size in known.items() if not name.startswith(_ENCODER)}
    missing = [name for name in known if name not in tensors]
    if missing:
        raise DataError(f"{where} is not complete: it lacks {_listed(missing)}. Get the file again.")
    for name, expected in known.items():
        if tuple(tensors[name].shape) != expected:
            raise DataError(
                f"{where}: tensor '{name}' has the shape {tuple(tensors[name].shape)} instead of {expected}: the file "
                "is damaged or of another architecture. Get it again."
            )
    unknown = [name for name in tensors if name.startswith((*_ENCODER, *_DECODER)) and name not in known]
    if unknown:
        raise DataError(
            f"{where} holds {_listed(unknown)}, which a VQGAN does not have: it is of another architecture, and its "
            "images would come out wrong. Give a VQGAN of taming-transformers or latent-diffusion."
        )
    needed = [name for name in known if not name.startswith(_ENCODER)]
    selected = {name: tensors[name].detach().float().contiguous() for name in needed}
    broken = [name for name, tensor in selected.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise DataError(f"{where} holds numbers that are not finite in {_listed(broken)}. Get the file again.")
    return selected


@dataclass(frozen=True)
class Published:
    """Where weights of one architecture are published."""

    repository: str
    licence: str  # Licence of the repository, which states no other one for the weights.
    trained_on: str  # Training pictures, as the repository says.


_TAMING = Published("CompVis/taming-transformers", "MIT", "ImageNet")
_LATENT_DIFFUSION = Published("CompVis/latent-diffusion", "MIT", "OpenImages")
# By label of the architecture. Others of the same architecture exist: which one a file is, its user must say.
PUBLISHED = {
    "f16-1024": _TAMING,
    "f16-16384": _TAMING,
    "f8-16384-d4": _LATENT_DIFFUSION,
    "f16-16384-d8": _LATENT_DIFFUSION,
}


def possible_publisher(stored: StoredWeights) -> Published | None:
    """Publisher of weights of this architecture, where the user did not say whose these are."""
    return PUBLISHED.get(stored.facts.architecture["label"]) if stored.facts.licence == UNKNOWN else None


def import_vqgan(
    path: Path, name: str | None = None, licence: str | None = None, source: str | None = None
) -> StoredWeights:
    """Copy the decoder and the codebook of a checkpoint into the weights store.

    Args:
        path: Lightning checkpoint or safetensors file, with the names of taming-transformers.
        name: By default ``vqgan-`` and the architecture, such as ``vqgan-f16-16384``.
        licence: Licence of the weights; by default the publisher's if ``source`` names it, otherwise ``"unknown"``.
        source: Where the file came from; by default the file's name.

    Raises:
        DataError: The file is missing, unreadable, damaged or no VQGAN.
        ConfigError: The name is not allowed, or other weights have it.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}. Check the path.")
    tensors = read_vqgan_tensors(path)
    shape = shape_of(tensors, path)
    published = PUBLISHED.get(shape.label)
    if published is not None and published.repository.lower() not in (source or "").lower():
        published = None
    sizes = {**asdict(shape), "widths": list(shape.widths), "attention": list(shape.attention)}
    facts = WeightsFacts(
        kind=KIND,
        architecture={"label": shape.label, **sizes},
        licence=licence or (published.licence if published else UNKNOWN),
        source=source or f"{path.name}, as given by the user",
        trained_on=published.trained_on if published else UNKNOWN,
        foreign_sha256=sha256_file(path),
    )
    return store_weights(name or f"{KIND}-{shape.label}", select_tensors(tensors, shape, path), facts)


def read_vqgan_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint under the names of a VQGAN's own state dict."""
    state = {name: value for name, value in read_state(path).items() if isinstance(value, Tensor)}
    if f"{_FIRST_STAGE}decoder.conv_in.weight" not in state:
        return state
    return {name.removeprefix(_FIRST_STAGE): value for name, value in state.items() if name.startswith(_FIRST_STAGE)}


def _numbers(pattern: str, names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := re.match(pattern, name))}


def _listed(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
