"""A student: normalisation, backbone, pooled features, a head, in one module that takes images in [0, 1].

Shapes: N images, C classes, F features, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import generator_for
from clipstill.students.class_vectors_head import ClassVectorsHead
from clipstill.students.natural_statistics import natural_feature_statistics


class Student(nn.Module):
    """A small image classifier.

    Args:
        name: as ``clipstill list students`` shows it, such as ``"lite0"``.
        backbone: maps normalised (N, 3, H, W) to pooled features (N, F) (a timm network with ``num_classes=0``).
        feature_count: F.
        classes: C.
        preprocess: size, mean and standard deviation; the normalisation is part of ``forward``.
        provenance: origin of the starting weights.
        seed: of the head's weights.
    """

    mean: Tensor
    std: Tensor
    # Of a backbone that has been a CLIP's image tower; others take their teacher's.
    logit_scale: float | None = None

    def __init__(
        self,
        name: str,
        backbone: nn.Module,
        feature_count: int,
        classes: int,
        preprocess: Preprocess,
        provenance: Sequence[Provenance] = (),
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.name = name
        self.preprocess = preprocess
        self.provenance = tuple(provenance)
        self.backbone = backbone
        # Made without values, since the usual initialisation would draw from torch's global generator.
        head = nn.Linear(feature_count, classes, device="meta").to_empty(device="cpu")
        self.head: nn.Linear | ClassVectorsHead = head
        self.register_buffer("mean", torch.tensor(preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(preprocess.std).view(1, 3, 1, 1), persistent=False)
        self._backbone_frozen = False
        self._statistics_frozen = False
        with torch.no_grad():
            # Near zero, so that the first gradients into a pretrained backbone are small.
            head.weight.normal_(0.0, 0.01, generator=generator_for(seed, "student head"))
            head.bias.zero_()

    def features(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1], sides of 32 pixels or more -> what the head sees, (N, F)."""
        feat_NF: Tensor = self.backbone((x_N3HW - self.mean) / self.std)
        return feat_NF

    def feature_map(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> the map (N, F, h, w) that pooling turns into ``features`` (timm backbones)."""
        forward_features = cast("Callable[[Tensor], Tensor]", self.backbone.forward_features)
        return forward_features((x_N3HW - self.mean) / self.std)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1], sides of 32 pixels or more -> logits (N, C)."""
        logits_NC: Tensor = self.head(self.features(x_N3HW))
        return logits_NC

    def use_class_vectors(
        self, class_vectors_CD: Tensor, scale: float, seed: int = 0, layers: int = 1, width: int = 0
    ) -> None:
        """Answer by class vectors in the teacher's space, instead of by a linear layer of its own.

        A student that already does keeps its projector: it then tells other classes apart, without training.

        Args:
            class_vectors_CD: one a class.
            scale: the teacher's logit scale.
            seed: of the projector, where there is none yet.
            layers: of the projector, where there is none yet.
            width: between its layers; 0 for as many dimensions as the vectors have.

        Raises:
            ConfigError: vectors of another teacher's space.
        """
        if isinstance(self.head, ClassVectorsHead):
            self.head = self.head.with_vectors(class_vectors_CD)
        else:
            self.head = ClassVectorsHead(self.head.in_features, class_vectors_CD, scale, seed, layers, width)

    def embed(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D) in the teacher's space.

        Raises:
            ConfigError: the student has a linear head.
        """
        if not isinstance(self.head, ClassVectorsHead):
            raise ConfigError("a student with a linear head has no vectors. Train it with student.head=class-vectors.")
        return self.head.embed(self.features(x_N3HW))

    def freeze_backbone(self, frozen: bool) -> None:
        """Take the backbone out of training, its BatchNorm statistics included, or put it back."""
        self._backbone_frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def freeze_statistics(self, frozen: bool) -> None:
        """Keep BatchNorm's running statistics (and normalise by them) while the weights may still train."""
        self._statistics_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Student:
        """As ``nn.Module.train``, with what is frozen staying in evaluation mode."""
        super().train(mode)
        if self._backbone_frozen:
            self.backbone.eval()
        elif self._statistics_frozen:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def natural_feature_statistics(self) -> tuple[Tensor, Tensor]:
        """What ``natural_statistics.natural_feature_statistics`` says of this backbone."""
        return natural_feature_statistics(self.backbone)
