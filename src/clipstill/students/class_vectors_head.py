"""A head in the teacher's own space: a projector, and frozen class vectors.

To add a class, its vector is enough; to remove one, its vector is dropped.

Shapes: N images, C classes, F features, D teacher dimensions.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import logits


class ClassVectorsHead(nn.Module):
    """``scale * cos(projector(features), class vector)``.

    Source of the projector of several layers: Li et al., PromptKD, CVPR 2024 (two layers of 1 x 1 convolutions with
    BatchNorm and ReLU between them; on pooled features a convolution of 1 x 1 is a linear layer).

    Args:
        class_vectors_CD: Frozen class vectors, of unit length or shorter.
        scale: Logit scale of the teacher, or of a student that has been a CLIP itself.
        seed: Seed of the projector's random weights.
        layers: Layers of the projector; 0 for features that are in the teacher's space already.
        width: Width between the layers; 0 for D, as published, which is most of a student where D is large.
    """

    class_vectors: Tensor
    scale: Tensor

    def __init__(
        self,
        feature_count: int,
        class_vectors_CD: Tensor,
        scale: float,
        *,
        seed: int = 0,
        layers: int = 1,
        width: int = 0,
    ) -> None:
        super().__init__()
        self.in_features = feature_count
        self.out_features = len(class_vectors_CD)
        dims = class_vectors_CD.shape[1]
        inner = [width or dims] * (layers - 1)
        self.projector = _projector([feature_count, *inner, dims] if layers else [dims], seed)
        self.register_buffer("class_vectors", class_vectors_CD.detach().clone().float())
        self.register_buffer("scale", torch.tensor(float(scale)))

    def embed(self, feat_NF: Tensor) -> Tensor:
        """Features -> unit vectors (N, D) in the teacher's space."""
        return normalize(self.projector(feat_NF), dim=-1)

    def forward(self, feat_NF: Tensor) -> Tensor:
        """Features -> logits (N, C)."""
        return logits(self.embed(feat_NF), self.class_vectors, self.scale)

    def with_vectors(self, class_vectors_CD: Tensor) -> ClassVectorsHead:
        """A head with the same projector for other classes."""
        if class_vectors_CD.ndim != 2 or class_vectors_CD.shape[1] != self.class_vectors.shape[1]:
            raise ConfigError(
                f"class vectors of shape {tuple(class_vectors_CD.shape)} do not fit a student that was taught with "
                f"vectors of {self.class_vectors.shape[1]} numbers. Make them with the same teacher."
            )
        other = copy.deepcopy(self)
        other.out_features = len(class_vectors_CD)
        other.class_vectors = class_vectors_CD.detach().clone().float().to(self.class_vectors.device)
        return other


def projector_shape(head_state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Layers and width of the projector in a head's state dict; the width is 0 with fewer than two layers."""
    linear = [value for name, value in head_state.items() if name.startswith("projector.") and value.ndim == 2]
    return len(linear), len(linear[0]) if len(linear) > 1 else 0


def _projector(sizes: Sequence[int], seed: int) -> nn.Module:
    """Linear layers from each size to the next, with BatchNorm and ReLU between them; none for a single size."""
    if len(sizes) == 1:
        return nn.Identity()
    modules: list[nn.Module] = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        # Made without values, since the usual initialisation would draw from torch's global generator.
        linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        parts = ("student projector", layer) if layer else ("student projector",)
        with torch.no_grad():
            linear.weight.normal_(0.0, inputs**-0.5, generator=generator_for(seed, *parts))
            linear.bias.zero_()
        modules += [nn.BatchNorm1d(inputs), nn.ReLU()] if layer else []
        modules.append(linear)
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)
