"""A head in the teacher's own space: a projector, and the class vectors as they are.

A class that is added later needs its vector alone, and a class that is taken away takes nothing with it.

Shapes: N images, C classes, F features, D teacher dimensions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for


class ClassVectorsHead(nn.Module):
    """``scale * cos(projector(features), class vector)``.

    Args:
        feature_count: F.
        class_vectors_CD: unit vectors, or as long as examples made them; they are kept, and not trained.
        scale: of the cosines: the teacher's own.
        seed: of the projector's weights.
    """

    class_vectors: Tensor
    scale: Tensor

    def __init__(self, feature_count: int, class_vectors_CD: Tensor, scale: float, seed: int = 0) -> None:
        super().__init__()
        self.in_features = feature_count
        self.out_features = len(class_vectors_CD)
        dimensions = class_vectors_CD.shape[1]
        # Made without values, since the usual initialisation would draw from torch's global generator.
        self.projector = nn.Linear(feature_count, dimensions, device="meta").to_empty(device="cpu")
        self.register_buffer("class_vectors", class_vectors_CD.detach().clone().float())
        self.register_buffer("scale", torch.tensor(float(scale)))
        with torch.no_grad():
            draw = generator_for(seed, "student projector")
            self.projector.weight.normal_(0.0, feature_count**-0.5, generator=draw)
            self.projector.bias.zero_()

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
        other = ClassVectorsHead(self.in_features, class_vectors_CD, float(self.scale))
        other.projector.load_state_dict(self.projector.state_dict())
        return other.to(self.projector.weight.device)
