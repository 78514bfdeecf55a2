"""Checkpoints of the published naming, listed from the published configurations, and a forward pass by key names.

Written down apart from clipstill's own network, which is what they are compared with.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.seeds import generator_for

Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Published:
    """The configuration keys that taming-transformers and latent-diffusion use."""

    n_embed: int
    embed_dim: int
    z_channels: int
    ch: int
    ch_mult: tuple[int, ...]
    num_res_blocks: int
    attn_resolutions: tuple[int, ...]
    resolution: int
    mid_attention: bool = True


IMAGENET_1024 = Published(1024, 256, 256, 128, (1, 1, 2, 2, 4), 2, (16,), 256)
IMAGENET_16384 = Published(16384, 256, 256, 128, (1, 1, 2, 2, 4), 2, (16,), 256)
LDM_F8 = Published(16384, 4, 4, 128, (1, 2, 2, 4), 2, (32,), 256)
LDM_F4_NO_ATTENTION = Published(8192, 3, 3, 128, (1, 2, 4), 2, (), 256, mid_attention=False)
TINY = Published(24, 5, 6, 32, (1, 2), 1, (8,), 16)


def conv(name: str, into: int, out: int, side: int) -> Shapes:
    return {f"{name}.weight": (out, into, side, side), f"{name}.bias": (out,)}


def norm(name: str, width: int) -> Shapes:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def resnet_block(name: str, into: int, out: int) -> Shapes:
    shapes = norm(f"{name}.norm1", into) | conv(f"{name}.conv1", into, out, 3)
    shapes |= norm(f"{name}.norm2", out) | conv(f"{name}.conv2", out, out, 3)
    return shapes | (conv(f"{name}.nin_shortcut", into, out, 1) if into != out else {})


def attn_block(name: str, width: int) -> Shapes:
    shapes = norm(f"{name}.norm", width)
    for letter in ("q", "k", "v", "proj_out"):
        shapes |= conv(f"{name}.{letter}", width, width, 1)
    return shapes


def middle(name: str, width: int, attention: bool) -> Shapes:
    shapes = resnet_block(f"{name}.block_1", width, width) | resnet_block(f"{name}.block_2", width, width)
    return shapes | (attn_block(f"{name}.attn_1", width) if attention else {})


def encoder(config: Published) -> Shapes:
    shapes = conv("encoder.conv_in", 3, config.ch, 3)
    resolution = config.resolution
    multipliers = (1, *config.ch_mult)
    for level in range(len(config.ch_mult)):
        into, out = config.ch * multipliers[level], config.ch * config.ch_mult[level]
        for block in range(config.num_res_blocks):
            shapes |= resnet_block(f"encoder.down.{level}.block.{block}", into, out)
            into = out
            if resolution in config.attn_resolutions:
                shapes |= attn_block(f"encoder.down.{level}.attn.{block}", out)
        if level != len(config.ch_mult) - 1:
            shapes |= conv(f"encoder.down.{level}.downsample.conv", out, out, 3)
            resolution //= 2
    shapes |= middle("encoder.mid", out, config.mid_attention) | norm("encoder.norm_out", out)
    shapes |= conv("encoder.conv_out", out, config.z_channels, 3)
    return shapes | conv("quant_conv", config.z_channels, config.embed_dim, 1)


def decoder(config: Published) -> Shapes:
    into = config.ch * config.ch_mult[-1]
    resolution = config.resolution // 2 ** (len(config.ch_mult) - 1)
    shapes = conv("decoder.conv_in", config.z_channels, into, 3) | middle("decoder.mid", into, config.mid_attention)
    for level in range(len(config.ch_mult) - 1, -1, -1):
        out = config.ch * config.ch_mult[level]
        for block in range(config.num_res_blocks + 1):
            shapes |= resnet_block(f"decoder.up.{level}.block.{block}", into, out)
            into = out
            if resolution in config.attn_resolutions:
                shapes |= attn_block(f"decoder.up.{level}.attn.{block}", out)
        if level != 0:
            shapes |= conv(f"decoder.up.{level}.upsample.conv", out, out, 3)
            resolution *= 2
    shapes |= norm("decoder.norm_out", into) | conv("decoder.conv_out", into, 3, 3)
    shapes |= conv("post_quant_conv", config.embed_dim, config.z_channels, 1)
    return shapes | {"quantize.embedding.weight": (config.n_embed, config.embed_dim)}


def loss() -> Shapes:
    """The perceptual network (VGG16 with its linear layers) and the patch discriminator."""
    shapes: Shapes = {f"loss.perceptual_loss.scaling_layer.{name}": (1, 3, 1, 1) for name in ("shift", "scale")}
    into, widths = 3, (64, 128, 256, 512, 512)
    layers = ((0, 2), (5, 7), (10, 12, 14), (17, 19, 21), (24, 26, 28))
    for number, (numbers, width) in enumerate(zip(layers, widths, strict=True)):
        shapes[f"loss.perceptual_loss.lin{number}.model.1.weight"] = (1, width, 1, 1)
        for layer in numbers:
            shapes |= conv(f"loss.perceptual_loss.net.slice{number + 1}.{layer}", into, width, 3)
            into = width
    main = "loss.discriminator.main"
    shapes |= conv(f"{main}.0", 3, 64, 4) | conv(f"{main}.11", 512, 1, 4)
    for layer, into, width in ((2, 64, 128), (5, 128, 256), (8, 256, 512)):
        shapes[f"{main}.{layer}.weight"] = (width, into, 4, 4)
        shapes |= norm(f"{main}.{layer + 1}", width)
        shapes |= {f"{main}.{layer + 1}.{name}": (width,) for name in ("running_mean", "running_var")}
        shapes[f"{main}.{layer + 1}.num_batches_tracked"] = ()
    return shapes


def random_state(shapes: Shapes, seed: int = 0) -> dict[str, Tensor]:
    """Weights that keep activations of the order of one, and images well inside the range."""
    draw = generator_for(seed, "vqgan weights")
    state = {}
    for name, shape in shapes.items():
        values = torch.randn(shape, generator=draw)
        if len(shape) == 4:
            values = values / values[0].numel() ** 0.5
        elif "norm" in name and name.endswith("weight"):
            values = 1 + 0.2 * values
        elif name.endswith("bias"):
            values = 0.1 * values
        else:  # the codebook
            values = 2 * values.tanh()
        state[name] = values
    for name in ("decoder.conv_out.weight", "decoder.conv_out.bias"):
        state[name] = 0.2 * state[name]
    return state


def forward(state: dict[str, Tensor], config: Published, quantised_NEhw: Tensor) -> Tensor:
    """Codes -> images about in [-1, 1], straight from the tensors."""

    def convolve(x: Tensor, name: str) -> Tensor:
        weight = state[f"{name}.weight"]
        return F.conv2d(x, weight, state[f"{name}.bias"], padding=weight.shape[-1] // 2)

    def normalise(x: Tensor, name: str) -> Tensor:
        groups = x.reshape(len(x), 32, -1)
        centred = groups - groups.mean(2, keepdim=True)
        scaled = (centred / (centred.square().mean(2, keepdim=True) + 1e-6).sqrt()).reshape(x.shape)
        return scaled * state[f"{name}.weight"][:, None, None] + state[f"{name}.bias"][:, None, None]

    def swish(x: Tensor) -> Tensor:
        return x * torch.sigmoid(x)

    def block(x: Tensor, name: str) -> Tensor:
        change = convolve(swish(normalise(x, f"{name}.norm1")), f"{name}.conv1")
        change = convolve(swish(normalise(change, f"{name}.norm2")), f"{name}.conv2")
        return change + (convolve(x, f"{name}.nin_shortcut") if f"{name}.nin_shortcut.weight" in state else x)

    def attend(x: Tensor, name: str) -> Tensor:
        if f"{name}.q.weight" not in state:
            return x
        normed = normalise(x, f"{name}.norm")
        q, k, v = (convolve(normed, f"{name}.{letter}").flatten(2) for letter in ("q", "k", "v"))
        weight = torch.einsum("nci,ncj->nij", q, k).div(x.shape[1] ** 0.5).softmax(2)
        seen = torch.einsum("nij,ncj->nci", weight, v).reshape(x.shape)
        return x + convolve(seen, f"{name}.proj_out")

    x = convolve(convolve(quantised_NEhw, "post_quant_conv"), "decoder.conv_in")
    x = block(attend(block(x, "decoder.mid.block_1"), "decoder.mid.attn_1"), "decoder.mid.block_2")
    for level in reversed(range(len(config.ch_mult))):
        for number in range(config.num_res_blocks + 1):
            x = attend(block(x, f"decoder.up.{level}.block.{number}"), f"decoder.up.{level}.attn.{number}")
        if level:
            x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            x = convolve(x, f"decoder.up.{level}.upsample.conv")
    return convolve(swish(normalise(x, "decoder.norm_out")), "decoder.conv_out")
