"""Class vectors that unlabelled photos have moved to where they show the classes.

The photos get soft labels by the class vectors, each vector moves by the mean of its photos, and again. Means are
relative to the mean of all photos, so what all of them share (the domain, and the gap between images and texts) moves
no class against another, and a class that no photo shows stays near its text. The fewer classes the photos seem to
show, and the more of them show other things, the less any vector moves: photos of a third of the classes would
otherwise draw those of all others to them.

The constants were chosen on PACS and Caltech-101 (docs/measured.md).

Shapes: N photos, C classes, D teacher dimensions, W words for other things.

Source: anchored EM as in Zanella et al., "Boosting Vision-Language Models with Transduction" (TransCLIP), NeurIPS 2024;
the centring and the gate are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.tensors import logits

_STEPS = 6
# Photos of a class at which it moves half as far as with many.
_HALF_COUNT = 0.5
# A photo counts for its class from about this probability on.
_SURE, _SURE_WIDTH = 0.5, 0.1
# How steeply the vectors' move falls with the share of the classes that seem to be there.
_CAUTION = 2.0
# Vectors move where more than about this share of the photos shows something like the classes.
_FIT, _FIT_WIDTH = 0.4, 0.06
# A photo whose best class is this many logits below the best other word counts half.
_OTHER_LOGITS = 2.0
# Photos with a larger cosine are copies, which count as one photo.
_COPY_COSINE = 0.99
_ROWS = 512


@dataclass(frozen=True)
class Adapted:
    """Adapted class vectors, and what the photos seem to show."""

    vectors_CD: Tensor  # As long as the vectors before.
    count_C: Tensor  # Number of photos that surely show each class; copies count as one.
    photos: float  # Number of different photos that show something like the classes.
    strength: float  # How far the vectors moved, in [0, 1].

    @property
    def is_seen_C(self) -> Tensor:
        """Whether about one photo or more surely shows each class."""
        return self.count_C >= 1


def share_of_classes(feat_ND: Tensor, text_CD: Tensor, other_WD: Tensor, scale: float) -> Tensor:
    """How much each photo counts (N,), in [0, 1]: little where a word for another thing fits it better than any class.

    Args:
        feat_ND: Unit vectors of the photos.
        text_CD: Unit vectors of the classes' texts.
        other_WD: Unit vectors of words that name no class, made like those of the classes; there may be none.
        scale: Logit scale of the teacher.
    """
    if not len(other_WD):
        return torch.ones(len(feat_ND), device=feat_ND.device)
    best_N, other_N = (logits(feat_ND, vectors, scale).amax(1) for vectors in (text_CD, other_WD))
    return torch.sigmoid(best_N - other_N + _OTHER_LOGITS)


def adapted_class_vectors(
    class_vectors_CD: Tensor, feat_ND: Tensor, share_N: Tensor, *, scale: float, text_share_C: Tensor
) -> Adapted:
    """Move class vectors towards unlabelled photos. The order and copies of photos do not matter.

    Args:
        class_vectors_CD: Class vectors of texts, or of texts and examples.
        feat_ND: Unit vectors of the photos, at least one.
        share_N: How much each photo counts, in [0, 1], see ``share_of_classes``.
        scale: Logit scale of the teacher.
        text_share_C: Share of the text in each class vector, in [0, 1]. A vector moves by that share, since labelled
            examples are worth more than guesses.
    """
    classes = len(class_vectors_CD)
    weight_N = 1 / _copies(feat_ND)
    fit = (weight_N * share_N).sum() / weight_N.sum()
    fit_strength = float(fit * torch.sigmoid((fit - _FIT) / _FIT_WIDTH))
    weight_N1 = (weight_N * share_N)[:, None]
    centred_ND = feat_ND - (weight_N1 * feat_ND).sum(0) / weight_N1.sum().clamp_min(1e-9)
    vectors_CD, label_NC = class_vectors_CD, logits(feat_ND, class_vectors_CD, scale).softmax(1)
    prior_C = torch.zeros(classes, device=feat_ND.device)
    count_C, strength = prior_C, 0.0
    for _ in range(_STEPS):
        sure_N1 = torch.sigmoid((label_NC.amax(1, keepdim=True) - _SURE) / _SURE_WIDTH)
        member_NC = weight_N1 * sure_N1 * label_NC
        count_C = member_NC.sum(0)
        trust_C = count_C / (count_C + _HALF_COUNT)
        strength = fit_strength * (float(trust_C.mean()) * _effective_share(count_C)) ** _CAUTION
        mean_CD = member_NC.T @ centred_ND / count_C[:, None].clamp_min(1e-9)
        vectors_CD = class_vectors_CD + (strength * text_share_C * trust_C)[:, None] * mean_CD
        logit_NC = logits(feat_ND, vectors_CD, scale)
        prior_C = _log_prior(logit_NC, weight_N1, prior_C)
        label_NC = (logit_NC - prior_C).softmax(1)
    length_C1 = torch.linalg.vector_norm(class_vectors_CD, dim=1, keepdim=True)
    return Adapted(
        vectors_CD=length_C1 * normalize(vectors_CD, dim=1),
        count_C=count_C,
        photos=float(weight_N1.sum()),
        strength=strength,
    )


def _copies(feat_ND: Tensor) -> Tensor:
    """How often each photo is there (N,), itself included."""
    parts = [(rows_MD @ feat_ND.T > _COPY_COSINE).sum(1) for rows_MD in torch.split(feat_ND, _ROWS)]
    return torch.cat(parts).clamp_min(1).to(feat_ND.dtype)


def _effective_share(count_C: Tensor) -> float:
    """The number of equally common classes that would be as diverse as these counts, as a share of all classes."""
    share_C = count_C / count_C.sum().clamp_min(1e-9)
    entropy = -(share_C * share_C.clamp_min(1e-9).log()).sum()
    return float(entropy.exp()) / len(count_C)


def _log_prior(logit_NC: Tensor, weight_N1: Tensor, prior_C: Tensor) -> Tensor:
    """Log of how common each class is among the photos, times the number of classes; a photo of each is added."""
    for _ in range(3):
        count_C = ((logit_NC - prior_C).softmax(1) * weight_N1).sum(0) + 1
        prior_C = (len(count_C) * count_C / count_C.sum()).log()
    return prior_C
