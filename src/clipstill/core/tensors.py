"""Functions of tensors: class logits, clamp, digests, files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor

from clipstill.core.files import write_bytes


def passes_of(x_N3HW: Tensor) -> tuple[Tensor, ...]:
    """Images in the parts that go through a network at once: on the CPU 16 to 31, elsewhere all.

    The activations of more images are too large for the allocator to keep: clearing new memory for each layer took up
    to 45 % of a pass. Passes of fewer round otherwise than those of many.
    """
    return x_N3HW.tensor_split(max(1, len(x_N3HW) // 16)) if x_N3HW.device.type == "cpu" else (x_N3HW,)


def tensor_digest(tensors: Mapping[str, Tensor]) -> str:
    """Hex sha256 of names, shapes, types and values."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype};".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def logits(feat_ND: Tensor, class_vectors_CD: Tensor, scale: float | Tensor) -> Tensor:
    """Class logits (N, C) of N images and C classes: the scaled cosine with each class vector.

    Args:
        feat_ND: Unit vectors of images, with any number of leading dimensions.
        class_vectors_CD: Unit vectors of the classes.
        scale: Logit scale of the teacher, about 100 for CLIP.
    """
    return scale * feat_ND @ class_vectors_CD.T


def through(network: Any, x: Tensor) -> Tensor:
    """Output of a network, float32 or more precise, computed in the precision of its weights."""
    dtype = next((weight.dtype for weight in network.parameters()), x.dtype)
    y: Tensor = network(x.to(dtype))
    return y.to(torch.promote_types(y.dtype, torch.float32))


def one_sided_clamp(x: Tensor) -> Tensor:
    """Clamp to [0, 1]; the gradient stops only where it would push a value further out.

    An ordinary clamp stops all gradients of saturated pixels, which then never come back.
    """
    clamped: Tensor = _OneSidedClamp.apply(x)
    return clamped


class _OneSidedClamp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.clamp(0, 1)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        # A step goes against the gradient: below 0 a positive one pushes out, above 1 a negative one.
        (x,) = ctx.saved_tensors
        (gradient,) = gradients
        outwards = ((x < 0) & (gradient > 0)) | ((x > 1) & (gradient < 0))
        return gradient.masked_fill(outwards, 0)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> None:
    """Write one safetensors file atomically, with texts in its header.

    Raises:
        ResourceError: The disk is full or not writable; an earlier file stays.
    """
    # Cloned, because safetensors refuses tensors that share memory or lie channels-last.
    whole = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    write_bytes(path, save(whole, metadata=metadata))
