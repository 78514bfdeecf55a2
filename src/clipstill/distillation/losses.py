"""Losses of distillation. Every loss is per image; the trainer takes the mean over the batch.

Shapes: N images, C classes.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def kd_loss(student_logits_NC: Tensor, teacher_logits_NC: Tensor, temperature: float) -> Tensor:
    """``T ** 2 * KL(softmax(teacher / T) || softmax(student / T))``.

    The factor keeps the size of the gradient when the temperature changes. The teacher's part has no gradient.

    Args:
        student_logits_NC: any real numbers.
        teacher_logits_NC: the teacher's logits with its own scale (about 100 for CLIP), not cosines.
        temperature: T, above 0.

    Returns:
        loss_N >= 0, zero where both distributions are equal.

    Source: Hinton et al., 2015, Distilling the Knowledge in a Neural Network.
    """
    teacher_log_NC = functional.log_softmax(teacher_logits_NC.detach() / temperature, dim=1)
    student_log_NC = functional.log_softmax(student_logits_NC / temperature, dim=1)
    gap_NC = functional.kl_div(student_log_NC, teacher_log_NC, reduction="none", log_target=True)
    return gap_NC.sum(dim=1) * temperature**2


def hard_loss(student_logits_NC: Tensor, label_N: Tensor) -> Tensor:
    """Cross-entropy with hard labels.

    Args:
        student_logits_NC: any real numbers.
        label_N: class of each image.

    Returns:
        loss_N >= 0.

    Source: the CE rows of Wei et al., ICLR 2025, Table 1, with the class that an image was made for.
    """
    return functional.cross_entropy(student_logits_NC, label_N, reduction="none")


def feature_loss(student_ND: Tensor, teacher_ND: Tensor) -> Tensor:
    """``1 - cos``: how far the student's features, projected into the teacher's space, are from the teacher's.

    Args:
        student_ND: any length.
        teacher_ND: unit vectors, without gradient.

    Returns:
        loss_N in [0, 2].

    Source: Romero et al., FitNets, ICLR 2015, with the teacher's own measure of distance.
    """
    return 1 - functional.cosine_similarity(student_ND, teacher_ND.detach(), dim=1)


def agreement(student_logits_NC: Tensor, teacher_logits_NC: Tensor) -> float:
    """Share of images, in [0, 1], for which student and teacher put the same class first."""
    same_N = student_logits_NC.argmax(dim=1) == teacher_logits_NC.argmax(dim=1)
    return float(same_N.double().mean())
