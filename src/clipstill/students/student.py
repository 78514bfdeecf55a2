"""A student: normalisation, backbone, pooled features, a head, in one module that takes images in [0, 1].

Shapes: N images, C classes, F features, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import generator_for
from clipstill.students.class_vectors_head import ClassVectorsHead


@dataclass(frozen=True)
class Backbone:
    """A network that a student is built on.

    Attributes:
        name: Name of the student in the settings, such as ``"lite0"``.
        network: Normalised images (N, 3, H, W) -> features (N, F), such as a timm network with ``num_classes=0``.
        logit_scale: Logit scale that it was trained with, where it has been a CLIP's image tower.
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    provenance: Sequence[Provenance] = ()
    logit_scale: float | None = None


class Student(nn.Module):
    """A small image classifier with a linear head, which ``use_class_vectors`` can replace.

    Args:
        backbone: Network and its preprocessing; the normalisation is part of ``forward``.
        classes: Number of classes, at least 2.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, backbone: Backbone, classes: int, seed: int = 0) -> None:
        super().__init__()
        if classes < 2:
            raise ConfigError(f"a student needs at least 2 classes, not {classes}. Name more classes.")
        self.name = backbone.name
        self.preprocess = backbone.preprocess
        self.provenance = tuple(backbone.provenance)
        self.logit_scale = backbone.logit_scale
        self.backbone = backbone.network
        # Made without values, since the usual initialisation would draw from torch's global generator.
        head = nn.Linear(self._feature_count(), classes, device="meta")
        # Near zero, so that the first gradients into a pretrained backbone are small.
        weight_CF = torch.empty(classes, head.in_features).normal_(
            0.0, 0.01, generator=generator_for(seed, "student head")
        )
        head.load_state_dict({"weight": weight_CF, "bias": torch.zeros(classes)}, assign=True)
        self.head: nn.Linear | ClassVectorsHead = head
        self.register_buffer("mean", torch.tensor(self.preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocess.std).view(1, 3, 1, 1), persistent=False)
        self.first_CF: Tensor | None = None  # Weights of a head that knows the classes before it is trained.
        self._backbone_frozen = False
        self._statistics_frozen = False

    @torch.no_grad()
    def _feature_count(self) -> int:
        """Measured: ``num_features`` of timm differs from it where a layer follows the pooling."""
        was_training = self.backbone.training
        features_NF = self.backbone.eval()(torch.zeros(1, 3, *self.preprocess.shape))
        self.backbone.train(was_training)
        if features_NF.ndim != 2:
            raise ValueError(f"it gives {tuple(features_NF.shape)} for one image, not one vector of features")
        return int(features_NF.shape[1])

    def features(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1], sides of 32 pixels or more -> features (N, F), the input of the head."""
        feat_NF: Tensor = self.backbone((x_N3HW - self.mean) / self.std)
        return feat_NF

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1], sides of 32 pixels or more -> logits (N, C)."""
        logits_NC: Tensor = self.head(self.features(x_N3HW))
        return logits_NC

    @torch.no_grad()
    def begin_with(self, head: tuple[Tensor, Tensor] | None) -> None:
        """Give a linear head weights (C, F) and biases (C,), to which training then holds it; None changes nothing."""
        if head is not None and isinstance(self.head, nn.Linear):
            self.head.weight.copy_(head[0])
            self.head.bias.copy_(head[1])
            self.first_CF = head[0]

    def use_class_vectors(
        self, class_vectors_CD: Tensor, scale: float, *, seed: int = 0, layers: int = 1, width: int = 0
    ) -> None:
        """Replace the linear head by a ``ClassVectorsHead``, which takes the same arguments.

        A student that has such a head keeps its projector, and needs no training to tell other classes apart.

        Raises:
            ConfigError: The vectors are of another teacher's space.
        """
        if isinstance(self.head, ClassVectorsHead):
            self.head = self.head.with_vectors(class_vectors_CD)
            return
        features = self.head.in_features
        self.head = ClassVectorsHead(features, class_vectors_CD, scale, seed=seed, layers=layers, width=width)

    def embed(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D) in the teacher's space.

        Raises:
            ConfigError: The student has a linear head.
        """
        if not isinstance(self.head, ClassVectorsHead):
            raise ConfigError("a student with a linear head has no vectors. Train it with student.head=class-vectors.")
        return self.head.embed(self.features(x_N3HW))

    def freeze_backbone(self, frozen: bool) -> None:
        """Exclude the backbone and its BatchNorm statistics from training, or include them again."""
        self._backbone_frozen = frozen
        self.backbone.requires_grad_(not frozen)
        self.train(self.training)

    def freeze_statistics(self, frozen: bool) -> None:
        """Freeze BatchNorm's running statistics (and normalise by them), whether or not the weights train."""
        self._statistics_frozen = frozen
        self.train(self.training)

    def train(self, mode: bool = True) -> Student:
        """As ``nn.Module.train``, but frozen parts stay in evaluation mode."""
        super().train(mode)
        if self._backbone_frozen:
            self.backbone.eval()
        elif self._statistics_frozen:
            for module in self.backbone.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self


class TowerStudent(Student):
    """As ``Student``, but only the prompts of the backbone are trained, and it stays in evaluation mode.

    Source: Li et al., PromptKD, CVPR 2024 (a small CLIP's image tower taught by a larger one).

    Args:
        backbone: Image tower of a teacher; those of its parameters that require a gradient are its prompts.
        trained: Whether the whole tower is trained, except for its BatchNorm statistics.
    """

    def __init__(self, backbone: Backbone, classes: int, seed: int = 0, *, trained: bool = False) -> None:
        self._learned = [value for value in backbone.network.parameters() if value.requires_grad or trained]
        backbone.network.eval()
        super().__init__(backbone, classes, seed)

    def freeze_backbone(self, frozen: bool) -> None:
        """Exclude the trained part of the tower from training, or include it again."""
        for value in self._learned:
            value.requires_grad_(not frozen)

    def train(self, mode: bool = True) -> TowerStudent:
        """As ``nn.Module.train``, but the tower stays in evaluation mode."""
        super().train(mode)
        self.backbone.eval()
        return self
