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
class FirstHead:
    """What a linear head begins with, where the classes are known before a picture is seen.

    Attributes:
        weight_CF: Weights (C, F).
        bias_C: Biases (C,).
        answers_CK: Weights (C, 1000) of the answers of the network's ImageNet classifier, where it has one.
        worth: How much it can be trusted, as a factor of ``distillation.pull``.
        provenance: What it was made of, beside the teacher and the student.
    """

    weight_CF: Tensor
    bias_C: Tensor
    answers_CK: Tensor | None = None
    worth: float = 1.0
    provenance: Sequence[Provenance] = ()

    @property
    def weight(self) -> Tensor:
        """All weights, those of the answers last."""
        return self.weight_CF if self.answers_CK is None else torch.cat([self.weight_CF, self.answers_CK], dim=1)


class ImageNetAnswers(nn.Linear):
    """An ImageNet classifier that hands on the features that it gets, and its answers behind them."""

    def forward(self, feat_NF: Tensor) -> Tensor:
        """Features (N, F) -> the features and the share of each ImageNet class (N, F + 1000)."""
        return torch.cat([feat_NF, super().forward(feat_NF).softmax(1)], dim=1)


@dataclass(frozen=True)
class Backbone:
    """A network that a student is built on.

    Attributes:
        name: Name of the student in the settings, such as ``"lite0"``.
        network: Normalised images (N, 3, H, W) -> features (N, F), such as a timm network with ``num_classes=0``.
        logit_scale: Logit scale that it was trained with, where it has been a CLIP's image tower.
        classifier: Name of the module of the network that is its classifier, when it has one.
        imagenet: Weights (1000, F) and biases (1000,) of its ImageNet classifier, where its weights came with one.
    """

    name: str
    network: nn.Module
    preprocess: Preprocess
    provenance: Sequence[Provenance] = ()
    logit_scale: float | None = None
    classifier: str = ""
    imagenet: tuple[Tensor, Tensor] | None = None


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
        self.imagenet = backbone.imagenet
        self.classifier = backbone.classifier
        self.backbone = backbone.network
        # Near zero, so that the first gradients into a pretrained backbone are small.
        weight_CF = torch.empty(classes, self._feature_count())
        weight_CF.normal_(0.0, 0.01, generator=generator_for(seed, "student head"))
        self.head: nn.Linear | ClassVectorsHead = _linear(weight_CF, torch.zeros(classes))
        self.register_buffer("mean", torch.tensor(self.preprocess.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocess.std).view(1, 3, 1, 1), persistent=False)
        self.first: FirstHead | None = None
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
    def begin_with(self, first: FirstHead | None) -> None:
        """Give a linear head its first weights, to which training then holds it; None changes nothing."""
        if first is None or not isinstance(self.head, nn.Linear):
            return
        if first.answers_CK is not None and self.imagenet is not None:
            self.hand_on_imagenet_answers(*self.imagenet)
        self.head = _linear(first.weight, first.bias_C)
        self.first = first
        self.provenance = (*self.provenance, *first.provenance)

    def hand_on_imagenet_answers(self, weight_KF: Tensor, bias_K: Tensor) -> None:
        """Let features end with the answers of an ImageNet classifier, and the linear head expect them."""
        answers = _linear(weight_KF, bias_K, ImageNetAnswers)
        self.backbone.set_submodule(self.classifier, answers, strict=True)
        classes = self.head.out_features
        self.head = _linear(torch.zeros(classes, weight_KF.shape[1] + len(weight_KF)), torch.zeros(classes))

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


def _linear(weight_CF: Tensor, bias_C: Tensor, kind: type[nn.Linear] = nn.Linear) -> nn.Linear:
    """A layer of these values; the usual initialisation would draw from torch's global generator."""
    layer = kind(weight_CF.shape[1], len(weight_CF), device="meta")
    layer.load_state_dict({"weight": weight_CF.clone(), "bias": bias_C.clone()}, assign=True)
    return layer
