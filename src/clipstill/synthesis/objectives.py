"""Objectives of inversion. Every loss is per image: nothing is averaged over the batch.

Shapes: N images, V views, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.tensors import logits

# The slope of arcsin is infinite at a half chord of 1. Here it is finite, and the loss is 0.0031 too low.
_FARTHEST = 1 - 1e-7
# The slope of a square root is infinite at 0.
_NEAREST = 1e-12


def spherical_distance(feat_NVD: Tensor, target_ND: Tensor) -> Tensor:
    """Half the squared angle between each image's views and its target.

    The target is a text's vector (image-text matching) or a mean of example images (image-image matching). The form
    printed in the paper, arcsin of the whole chord squared, is undefined for angles over 60 degrees and so for every
    real pair of image and text. This is the form of all public implementations:
    ``2 * arcsin(chord / 2) ** 2 == angle ** 2 / 2``.

    Args:
        feat_NVD: Unit vectors of the views.
        target_ND: Unit vectors, one per image.

    Returns:
        loss_N in [0, pi ** 2 / 2], the mean over views, with a finite gradient at 0 and at 180 degrees.

    Source: Wei et al., ICLR 2025, image-text matching and image-based customisation.
    """
    chord_NV = ((feat_NVD - target_ND[:, None]).square().sum(-1) + _NEAREST).sqrt()
    return (2 * torch.arcsin((chord_NV / 2).clamp(max=_FARTHEST)).square()).mean(1)


def class_consistency(feat_NVD: Tensor, class_vectors_CD: Tensor, class_N: Tensor, logit_scale: float) -> Tensor:
    """Cross-entropy of the teacher's own zero-shot classification: loss_N >= 0, the mean over views.

    Without the teacher's logit scale its gradient is negligible.

    Args:
        feat_NVD: Unit vectors of the views.
        class_vectors_CD: Unit vectors of the classes.
        class_N: Class of each image.
        logit_scale: The teacher's logit scale, above 0.

    Source: Wei et al., ICLR 2025, class consistency maintaining.
    """
    logits_NVC = logits(feat_NVD, class_vectors_CD, logit_scale)
    target_NV = class_N[:, None].expand(logits_NVC.shape[:2])
    return F.cross_entropy(logits_NVC.flatten(0, 1), target_NV.flatten(), reduction="none").view_as(target_NV).mean(1)


def total_variation(x_N3HW: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels: loss_N in [0, 2], 0 for one flat colour."""
    down = (x_N3HW[:, :, 1:] - x_N3HW[:, :, :-1]).abs().mean((1, 2, 3))
    right = (x_N3HW[:, :, :, 1:] - x_N3HW[:, :, :, :-1]).abs().mean((1, 2, 3))
    return down + right
