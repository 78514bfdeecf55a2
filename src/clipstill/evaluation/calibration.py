"""Calibrated probabilities: the temperature of the logits, and the threshold of refusal.

Shapes: N images, M images of something else, C classes; N and M are at least 1.
"""

from __future__ import annotations

import math

import numpy as np

from clipstill.evaluation.metrics import Floats, softmax

# Bounds of a temperature: above, the logits say nothing; below, the targets are certain.
_LEAST, _MOST = 0.01, 100.0
_GOLDEN = (math.sqrt(5) - 1) / 2
_PRECISION = 1e-4
# Without a bound, four of ten photos of the classes were refused.
MOST_REFUSED = 0.1


def fit_temperature(logits_NC: Floats, target_NC: Floats) -> float:
    """The temperature T that minimises the cross-entropy between ``softmax(logits / T)`` and the targets.

    Args:
        logits_NC: Any real numbers.
        target_NC: Probabilities: the teacher's answer for synthetic images, one-hot labels for real ones.

    Returns:
        T in [0.01, 100], by golden-section search: the loss is convex in 1 / T.

    Source: Guo et al., On Calibration of Modern Neural Networks, ICML 2017; soft targets are ours.
    """

    def loss(log_inverse: float) -> float:
        probability_NC = softmax(logits_NC * math.exp(log_inverse))
        return float(-(target_NC * np.log(np.maximum(probability_NC, 1e-300))).sum(axis=1).mean())

    low, high = -math.log(_MOST), -math.log(_LEAST)
    while high - low > _PRECISION:
        first, second = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if loss(first) <= loss(second):
            high = second
        else:
            low = first
    return math.exp(-(low + high) / 2)


def refusal_threshold(score_inside_N: Floats, score_outside_M: Floats, most_refused: float = 1.0) -> float:
    """The score below which to refuse, so that most pictures are judged right; both sides count the same.

    Args:
        score_inside_N: Scores of pictures of the classes.
        score_outside_M: Scores of pictures of something else.
        most_refused: Largest share of the pictures of the classes that may be refused, in [0, 1].

    Returns:
        The middle between two scores that occur; the lowest of equally good ones, which refuses least.

    Source: Youden, Cancer 1950; the bound is ours.
    """
    inside_N, outside_M = np.sort(score_inside_N), np.sort(score_outside_M)
    values = np.unique(np.concatenate([inside_N, outside_M]))
    cuts = np.concatenate([values[:1], (values[:-1] + values[1:]) / 2])
    lost = np.searchsorted(inside_N, cuts, side="left") / len(inside_N)
    refused = np.searchsorted(outside_M, cuts, side="left") / len(outside_M)
    allowed = lost <= most_refused
    return float(cuts[allowed][np.argmax((refused - lost)[allowed])])


def auroc(score_inside_N: Floats, score_outside_M: Floats) -> float:
    """The chance, in [0, 1], that a picture of the classes has a higher score than another; equal scores count half.

    Source: the Mann-Whitney statistic; Hendrycks and Gimpel, ICLR 2017, for its use here.
    """
    ordered_M = np.sort(np.asarray(score_outside_M, dtype=np.float64))
    below_N = np.searchsorted(ordered_M, score_inside_N, side="left")
    up_to_N = np.searchsorted(ordered_M, score_inside_N, side="right")
    return float((below_N + up_to_N).mean() / 2 / len(ordered_M))
