"""Losses of distillation. Every loss is per image; the trainer takes the mean over the batch.

Shapes: N images, B images of a batch, C classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.training_data import Batch


def distillation_loss(logits_BC: Tensor, batch: Batch, settings: DistilSettings) -> Tensor:
    """The sum of the terms that the settings ask for: loss_B.

    Args:
        logits_BC: The student's logits.
        batch: What the images teach.
        settings: ``loss``, ``temperature`` and the weights of the terms are used.

    Source: The CE and KD rows of Wei et al., ICLR 2025, Table 1, where the hard label is the class that an image was
    made for.
    """
    loss_B = torch.zeros_like(batch.class_B, dtype=logits_BC.dtype)
    if settings.loss != "ce":
        share = 1 / logits_BC.shape[1] if settings.kd_per_class else 1
        loss_B = loss_B + settings.kd_weight * share * kd_loss(logits_BC, batch.teacher_BC, settings.temperature)
    if settings.loss != "kd":
        label_B = torch.where(batch.class_B >= 0, batch.class_B, batch.teacher_BC.argmax(1))
        loss_B = loss_B + cross_entropy(logits_BC, label_B, reduction="none")
    return loss_B


def kd_loss(student_logits_NC: Tensor, teacher_logits_NC: Tensor, temperature: float) -> Tensor:
    """``T ** 2 * KL(softmax(teacher / T) || softmax(student / T))``.

    The factor ``T ** 2`` keeps the size of the gradient when the temperature changes. The teacher gets no gradient.

    Args:
        student_logits_NC: Any real numbers.
        teacher_logits_NC: The teacher's logits with its own scale (about 100 for CLIP), not cosines.
        temperature: Temperature T, above 0.

    Returns:
        loss_N >= 0, zero where both distributions are equal.

    Source: Hinton et al., 2015, Distilling the Knowledge in a Neural Network.
    """
    teacher_log_NC = log_softmax(teacher_logits_NC.detach() / temperature, dim=1)
    student_log_NC = log_softmax(student_logits_NC / temperature, dim=1)
    gap_NC = kl_div(student_log_NC, teacher_log_NC, reduction="none", log_target=True)
    return gap_NC.sum(dim=1) * temperature**2


def agreement(student_logits_NC: Tensor, teacher_logits_NC: Tensor) -> float:
    """Share of images, in [0, 1], for which student and teacher put the same class first."""
    same_N = student_logits_NC.argmax(dim=1) == teacher_logits_NC.argmax(dim=1)
    return float(same_N.double().mean())
