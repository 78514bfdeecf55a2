"""The decoder of a VQGAN: codes of a learned codebook -> image. Only what synthesis needs; there is no encoder here.

Modules are named as in the published state dicts (``decoder.up.4.block.0.conv1.weight``), so that weights load without
a table of names. All sizes are read from the tensors' shapes.

Shapes: N images, E channels of a code, h x w cells, H x W pixels.

Source: Esser, Rombach and Ommer, CVPR 2021 (taming-transformers, ``VQModel``); the same network in latent-diffusion.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.errors import DataError

GROUPS = 32
CODEBOOK = "quantize.embedding.weight"
_ENCODER = ("encoder.", "quant_conv.")
_DECODER = ("decoder.", "post_quant_conv.")
_UP = re.compile(r"decoder\.up\.(\d+)\.")
_BLOCK = re.compile(r"decoder\.up\.\d+\.block\.(\d+)\.")
_ATTENTION = re.compile(r"(?:decoder\.up|encoder\.down)\.(\d+)\.attn\.")


@dataclass(frozen=True)
class VqganShape:
    """Sizes of one VQGAN.

    Attributes:
        codes: in the codebook.
        code_channels: E.
        latent_channels: what the 1 x 1 convolution makes of E.
        widths: channels of each level, from the image's own resolution down; each level halves the side.
        blocks: residual blocks a level of the encoder; the decoder has one more.
        attention: levels with attention after each block.
        middle_attention: whether there is attention between the two middle blocks.
    """

    codes: int
    code_channels: int
    latent_channels: int
    widths: tuple[int, ...]
    blocks: int
    attention: tuple[int, ...]
    middle_attention: bool = True

    @property
    def stride(self) -> int:
        """Pixels a cell."""
        return int(2 ** (len(self.widths) - 1))

    @property
    def label(self) -> str:
        """``f16-16384``; with ``-d4`` where codes have 4 channels instead of the usual 256."""
        return f"f{self.stride}-{self.codes}" + (f"-d{self.code_channels}" if self.code_channels != 256 else "")

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()}

    @classmethod
    def from_json(cls, raw: Mapping[str, Any]) -> VqganShape:
        """What ``to_json`` wrote."""
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in raw.items()
        }
        return cls(**values)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions, each after normalisation and swish, beside a shortcut."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.conv1 = nn.Conv2d(width, out, 3, padding=1)
        self.norm2 = nn.GroupNorm(GROUPS, out, eps=1e-6)
        self.conv2 = nn.Conv2d(out, out, 3, padding=1)
        self.nin_shortcut = nn.Conv2d(width, out, 1) if width != out else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, h, w) -> (N, out, h, w)."""
        change = self.conv1(F.silu(self.norm1(x)))
        change = self.conv2(F.silu(self.norm2(change)))
        result: Tensor = self.nin_shortcut(x) + change
        return result


class Attention(nn.Module):
    """Attention of one head among all cells of an image."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(GROUPS, width, eps=1e-6)
        self.q = nn.Conv2d(width, width, 1)
        self.k = nn.Conv2d(width, width, 1)
        self.v = nn.Conv2d(width, width, 1)
        self.proj_out = nn.Conv2d(width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, h, w) -> the same shape."""
        normed = self.norm(x)
        # (N, 1 head, h * w, width); scaled by 1 / sqrt(width) inside.
        q, k, v = (layer(normed).flatten(2).transpose(1, 2)[:, None] for layer in (self.q, self.k, self.v))
        seen = F.scaled_dot_product_attention(q, k, v)
        change: Tensor = self.proj_out(seen[:, 0].transpose(1, 2).reshape(x.shape))
        return x + change


class Upsample(nn.Module):
    """Twice the side: each cell four times, then a 3 x 3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, h, w) -> (N, width, 2 h, 2 w)."""
        enlarged: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return enlarged


class Middle(nn.Module):
    """Block, attention, block at the smallest resolution."""

    def __init__(self, width: int, attention: bool) -> None:
        super().__init__()
        self.block_1 = ResidualBlock(width, width)
        self.attn_1 = Attention(width) if attention else nn.Identity()
        self.block_2 = ResidualBlock(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, h, w) -> the same shape."""
        result: Tensor = self.block_2(self.attn_1(self.block_1(x)))
        return result


class Level(nn.Module):
    """The blocks of one resolution, and the way to the next larger one."""

    def __init__(self, width: int, out: int, blocks: int, attention: bool, upsample: bool) -> None:
        super().__init__()
        self.block = nn.ModuleList(ResidualBlock(width if number == 0 else out, out) for number in range(blocks))
        self.attn = nn.ModuleList(Attention(out) for _ in range(blocks if attention else 0))
        self.upsample = Upsample(out) if upsample else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Features (N, width, h, w) -> (N, out, h, w), or twice the side."""
        for number, block in enumerate(self.block):
            x = block(x)
            if len(self.attn):
                x = self.attn[number](x)
        result: Tensor = self.upsample(x)
        return result


class Decoder(nn.Module):
    """Latents (N, latent_channels, h, w) -> images (N, 3, H, W), about in [-1, 1]."""

    def __init__(self, shape: VqganShape) -> None:
        super().__init__()
        widths = shape.widths
        self.conv_in = nn.Conv2d(shape.latent_channels, widths[-1], 3, padding=1)
        self.mid = Middle(widths[-1], shape.middle_attention)
        # Level 0 is the image's own resolution and comes last; it takes what the coarser level above it gives.
        self.up = nn.ModuleList(
            Level(coarser, width, shape.blocks + 1, level in shape.attention, upsample=level > 0)
            for level, (width, coarser) in enumerate(zip(widths, (*widths[1:], widths[-1]), strict=True))
        )
        self.norm_out = nn.GroupNorm(GROUPS, widths[0], eps=1e-6)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Latents -> images; see the class."""
        x = self.mid(self.conv_in(x))
        for level in reversed(self.up):
            x = level(x)
        image: Tensor = self.conv_out(F.silu(self.norm_out(x)))
        return image


class Codebook(nn.Module):
    """Holds the codes under their published name."""

    def __init__(self, codes: int, channels: int) -> None:
        super().__init__()
        # Empty, as it is filled from a file: for random numbers on the meta device, which nobody uses, torch would load
        # its rules for that device first, which takes seconds.
        self.embedding = nn.Embedding(codes, channels, _weight=torch.empty(codes, channels))


class VqganNetwork(nn.Module):
    """Quantised latents (N, E, h, w) -> images (N, 3, H, W), about in [-1, 1].

    Args:
        shape: its sizes.
    """

    def __init__(self, shape: VqganShape) -> None:
        super().__init__()
        self.decoder = Decoder(shape)
        self.quantize = Codebook(shape.codes, shape.code_channels)
        # Left out, images are grey: the decoder never saw a code as it is.
        self.post_quant_conv = nn.Conv2d(shape.code_channels, shape.latent_channels, 1)

    def forward(self, quantised_NEhw: Tensor) -> Tensor:
        """Codes -> images; see the class."""
        image: Tensor = self.decoder(self.post_quant_conv(quantised_NEhw))
        return image


def build_network(shape: VqganShape, tensors: Mapping[str, Tensor]) -> VqganNetwork:
    """The network with these weights, frozen, in evaluation mode."""
    with torch.device("meta"):  # no time spent on random weights that are replaced at once
        network = VqganNetwork(shape)
    network.load_state_dict(dict(tensors), strict=True, assign=True)
    return network.eval().requires_grad_(False)


def needed_shapes(shape: VqganShape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor that synthesis needs."""
    with torch.device("meta"):
        return {name: tuple(tensor.shape) for name, tensor in VqganNetwork(shape).state_dict().items()}


def encoder_shapes(shape: VqganShape) -> dict[str, tuple[int, ...]]:
    """Name -> shape of each tensor that complete checkpoints have besides, and synthesis does not need."""
    found: dict[str, tuple[int, ...]] = {}

    def convolution(name: str, width: int, out: int, side: int) -> None:
        found.update({f"{name}.weight": (out, width, side, side), f"{name}.bias": (out,)})

    def norm(name: str, width: int) -> None:
        found.update({f"{name}.weight": (width,), f"{name}.bias": (width,)})

    def block(name: str, width: int, out: int) -> None:
        norm(f"{name}.norm1", width)
        convolution(f"{name}.conv1", width, out, 3)
        norm(f"{name}.norm2", out)
        convolution(f"{name}.conv2", out, out, 3)
        if width != out:
            convolution(f"{name}.nin_shortcut", width, out, 1)

    def attention(name: str, width: int) -> None:
        norm(f"{name}.norm", width)
        for part in ("q", "k", "v", "proj_out"):
            convolution(f"{name}.{part}", width, width, 1)

    width = shape.widths[0]
    convolution("encoder.conv_in", 3, width, 3)
    for level, out in enumerate(shape.widths):
        for number in range(shape.blocks):
            block(f"encoder.down.{level}.block.{number}", width, out)
            width = out
            if level in shape.attention:
                attention(f"encoder.down.{level}.attn.{number}", out)
        if level < len(shape.widths) - 1:
            convolution(f"encoder.down.{level}.downsample.conv", out, out, 3)
    block("encoder.mid.block_1", width, width)
    if shape.middle_attention:
        attention("encoder.mid.attn_1", width)
    block("encoder.mid.block_2", width, width)
    norm("encoder.norm_out", width)
    convolution("encoder.conv_out", width, shape.latent_channels, 3)
    convolution("quant_conv", shape.latent_channels, shape.code_channels, 1)
    return found


def shape_of(tensors: Mapping[str, Tensor], where: object) -> VqganShape:
    """The sizes of a VQGAN, read from its tensors' shapes.

    Args:
        tensors: of a checkpoint; others may be among them.
        where: the file, for messages.

    Raises:
        DataError: these are not the tensors of a VQGAN, or one that tells a size is missing.
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
    levels = len(_numbers(_UP, tensors))
    blocks = max(
        len(_numbers(_BLOCK, [name for name in tensors if name.startswith(f"decoder.up.{level}.")]))
        for level in range(max(1, levels))
    )
    widths = tuple(size(f"decoder.up.{level}.block.0.conv1.weight", 0, 4) for level in range(max(1, levels)))
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
        attention=tuple(sorted(_numbers(_ATTENTION, tensors))),
        middle_attention=any(re.match(r"(de|en)coder\.mid\.attn_1\.", name) for name in tensors),
    )


def select_tensors(tensors: Mapping[str, Tensor], shape: VqganShape, where: object) -> dict[str, Tensor]:
    """What synthesis needs, as contiguous float32, from a checkpoint that is whole.

    A checkpoint either has all of the encoder or nothing of it; losses, discriminators and averages are passed over.

    Raises:
        DataError: names the first tensors that are missing, of another shape, unknown, or not finite.
    """
    needed = needed_shapes(shape)
    known = needed | (encoder_shapes(shape) if any(name.startswith(_ENCODER) for name in tensors) else {})
    missing = [name for name in known if name not in tensors]
    if missing:
        raise DataError(f"{where} is not complete: it lacks {_listed(missing)}. Get the file again.")
    wrong = [name for name, expected in known.items() if tuple(tensors[name].shape) != expected]
    if wrong:
        name = wrong[0]
        raise DataError(
            f"{where}: tensor '{name}' has the shape {tuple(tensors[name].shape)} instead of {known[name]}: the file "
            "is damaged or of another architecture. Get it again."
        )
    unknown = [name for name in tensors if name.startswith((*_ENCODER, *_DECODER)) and name not in known]
    if unknown:
        raise DataError(
            f"{where} holds {_listed(unknown)}, which a VQGAN does not have: it is of another architecture, and its "
            "images would come out wrong. Give a VQGAN of taming-transformers or latent-diffusion."
        )
    chosen = {name: tensors[name].detach().float().contiguous() for name in needed}
    broken = [name for name, tensor in chosen.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise DataError(f"{where} holds numbers that are not finite in {_listed(broken)}. Get the file again.")
    return chosen


def _numbers(pattern: re.Pattern[str], names: Iterable[str]) -> set[int]:
    return {int(match[1]) for name in names if (match := pattern.match(name))}


def _listed(names: list[str], limit: int = 3) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(f"'{name}'" for name in names[:limit]) + more
