"""A linear head that answers as an embedded teacher's alignment does, made without a picture of the task.

Most of an alignment is linear in the features already: the classifier's rows of the ImageNet classes that a name is
nearest to. The rest, words and styles, is fitted to the alignment's own answers about openly licensed drawings, whose
features are stored, and mixtures of them, as a photo shows more than one thing.

Shapes: B drawings or mixtures, P parts of a mixture, C classes, D dimensions of the alignment, F = 1280 features.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from clipstill.core.seeds import generator_for
from clipstill.teachers.minilm import DIM

if TYPE_CHECKING:
    from clipstill.teachers.embedded import Alignment

# The rows count for more than their share in the alignment, since the heads that are not linear agree with them. Chosen
# with the next two on PACS and Caltech-101.
_ROWS = 2.5
_TEMPERATURE = 2.0
_RIDGE = 0.01
_STEPS = 60
# Fitted to the drawings alone, the head is a point less like the alignment on photos.
_MIXTURES, _PARTS = 4800, 3
# Features that hardly vary among drawings do among photos.
_LEAST_STD = 0.05


@torch.no_grad()
def linear_head(
    alignment: Alignment, feat_BF: Tensor, imagenet_BK: Tensor, class_vectors_CD: Tensor
) -> tuple[Tensor, Tensor]:
    """Weights (C, F) and biases (C,) whose logits are near the alignment's.

    They minimise ``T ** 2 * KL`` of the alignment's answers about the drawings plus ``0.01 / F`` times the squared
    change of the standardised weights from the classifier's rows, by L-BFGS.

    Args:
        alignment: Alignment of the tower whose features the head gets.
        feat_BF: The tower's features of the drawings.
        imagenet_BK: The tower's ImageNet logits of them.
        class_vectors_CD: The classes in the alignment's space.
    """
    features = feat_BF.shape[1]
    mean_F, scale_F = feat_BF.mean(0), (feat_BF.std(0) + _LEAST_STD) * features**0.5
    drawing_BD = alignment.encode_image(feat_BF, imagenet_BK)
    target_BC = (alignment.logit_scale * drawing_BD @ class_vectors_CD.T / _TEMPERATURE).softmax(1)
    rows = slice(DIM, DIM + features)
    length = (feat_BF - alignment.feature_mean_F).norm(dim=1).mean() / drawing_BD[:, rows].norm(dim=1).mean()
    rows_CF = _ROWS * alignment.logit_scale * class_vectors_CD[:, rows] / length
    first_CF = rows_CF * scale_F
    input_BF = (feat_BF - mean_F) / scale_F
    weight_CF = first_CF.clone().requires_grad_()
    bias_C = (rows_CF @ (mean_F - alignment.feature_mean_F)).requires_grad_()
    optimiser = torch.optim.LBFGS([weight_CF, bias_C], max_iter=_STEPS, history_size=10, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        logits_BC = (input_BF @ weight_CF.T + bias_C) / _TEMPERATURE
        change = (weight_CF - first_CF).square().sum() / features
        value: Tensor = _TEMPERATURE**2 * cross_entropy(logits_BC, target_BC) + _RIDGE * change
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    weight_CF, bias_C = weight_CF.detach() / scale_F, bias_C.detach()
    return weight_CF, bias_C - weight_CF @ mean_F


def mixtures(feat_BF: Tensor) -> Tensor:
    """Weighted means (B, F) of three drawings each, the weights drawn from the flat Dirichlet distribution."""
    draw = generator_for("mixtures of drawings")
    drawing_BP = torch.randint(len(feat_BF), (_MIXTURES, _PARTS), generator=draw).to(feat_BF.device)
    share_BP = torch.empty(_MIXTURES, _PARTS).exponential_(generator=draw).to(feat_BF.device)
    share_BP /= share_BP.sum(1, keepdim=True)
    return torch.stack([share_BP[:, [part]] * feat_BF[drawing_BP[:, part]] for part in range(_PARTS)]).sum(0)
