"""A head in the teacher's own space: a projector, and the class vectors as they are.

A class that is added later needs its vector alone, and a class that is taken away takes nothing with it.

Shapes: N images, C classes, F features, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for


class ClassVectorsHead(nn.Module):
    """``scale * cos(projector(features), class vector)``.

    Source of the projector of several layers: Li et al., PromptKD, CVPR 2024 (two layers of 1 x 1 convolutions with
    BatchNorm and ReLU between them; on pooled features a convolution of 1 x 1 is a linear layer).

    Args:
        feature_count: F.
        class_vectors_CD: unit vectors, or as long as examples made them; they are kept, and not trained.
        scale: of the cosines: the teacher's own, or the student's, where it has been a CLIP itself.
        seed: of the projector's weights.
        layers: of the projector; 0 for features that are in the teacher's space already.
        width: between the layers; 0 is D, as published. For a teacher of many dimensions that is most of a student.
    """

    class_vectors: Tensor
    scale: Tensor

    def __init__(
        self,
        feature_count: int,
        class_vectors_CD: Tensor,
        scale: float,
        seed: int = 0,
        layers: int = 1,
        width: int = 0,
    ) -> None:
        super().__init__()
        self.in_features = feature_count
        self.out_features = len(class_vectors_CD)
        dims = class_vectors_CD.shape[1]
        self.layers, self.width = layers, width or dims
        if layers == 0 and feature_count != dims:
            raise ConfigError(
                f"features of {feature_count} numbers are not in the space of class vectors of {dims}. Give the head a "
                f"projector."
            )
        inner = [self.width] * (layers - 1)
        self.projector = _projector([feature_count, *inner, dims] if layers else [dims], seed)
        self.register_buffer("class_vectors", class_vectors_CD.detach().clone().float())
        self.register_buffer("scale", torch.tensor(float(scale)))

    def embed(self, feat_NF: Tensor) -> Tensor:
        """Features -> unit vectors (N, D) in the teacher's space."""
        return normalize(self.projector(feat_NF), dim=-1)

    def forward(self, feat_NF: Tensor) -> Tensor:
        """Features -> logits (N, C)."""
        return self.scale * self.embed(feat_NF) @ self.class_vectors.T

    def with_vectors(self, class_vectors_CD: Tensor) -> ClassVectorsHead:
        """The same projector over other classes.

        Raises:
            ConfigError: vectors of another space.
        """
        if class_vectors_CD.ndim != 2 or class_vectors_CD.shape[1] != self.class_vectors.shape[1]:
            raise ConfigError(
                f"class vectors of shape {tuple(class_vectors_CD.shape)} do not fit a student that was taught with "
                f"vectors of {self.class_vectors.shape[1]} numbers. Make them with the same teacher."
            )
        other = ClassVectorsHead(
            self.in_features, class_vectors_CD, float(self.scale), layers=self.layers, width=self.width
        )
        other.projector.load_state_dict(self.projector.state_dict())
        return other.to(self.class_vectors.device).train(self.training)


def projector_shape(head_state: Mapping[str, Tensor]) -> tuple[int, int]:
    """Layers and width of the projector whose weights these are; the width of a single layer, or of none, is 0."""
    linear = [value for name, value in head_state.items() if name.startswith("projector.") and value.ndim == 2]
    return len(linear), len(linear[0]) if len(linear) > 1 else 0


def _projector(sizes: Sequence[int], seed: int) -> nn.Module:
    """Linear layers from each size to the next, with BatchNorm and ReLU between them; none for a single size."""
    if len(sizes) == 1:
        return nn.Identity()
    made: list[nn.Module] = []
    for layer, (inputs, outputs) in enumerate(pairwise(sizes)):
        # Made without values, since the usual initialisation would draw from torch's global generator.
        linear = nn.Linear(inputs, outputs, device="meta").to_empty(device="cpu")
        parts = ("student projector", layer) if layer else ("student projector",)
        with torch.no_grad():
            linear.weight.normal_(0.0, inputs**-0.5, generator=generator_for(seed, *parts))
            linear.bias.zero_()
        made += [nn.BatchNorm1d(inputs), nn.ReLU()] if layer else []
        made.append(linear)
    return made[0] if len(made) == 1 else nn.Sequential(*made)
