"""Metrics of classification over at least one image.

Shapes: N images, C classes. Labels are positions in the list of classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]


def top1(logits_NC: Floats, labels_N: Labels) -> float:
    """Share of images, in [0, 1], whose class has the highest logit; the first of equal ones counts."""
    return float((logits_NC.argmax(axis=1) == labels_N).mean())


def top5(logits_NC: Floats, labels_N: Labels) -> float | None:
    """Share of images whose class is among the five highest; None with five classes or fewer, where it is always 1."""
    if logits_NC.shape[1] <= 5:
        return None
    best_N5 = np.argsort(-logits_NC, axis=1, kind="stable")[:, :5]
    return float((best_N5 == labels_N[:, None]).any(axis=1).mean())


def confusion(logits_NC: Floats, labels_N: Labels) -> NDArray[np.int64]:
    """Counts (C, C): row is the true class, column the predicted one."""
    classes = logits_NC.shape[1]
    pairs_N = labels_N.astype(np.int64) * classes + logits_NC.argmax(axis=1)
    return np.bincount(pairs_N, minlength=classes * classes).reshape(classes, classes)


def per_class(logits_NC: Floats, labels_N: Labels) -> list[float | None]:
    """Share of right answers for each true class; None for a class without images."""
    counts_CC = confusion(logits_NC, labels_N)
    totals_C = counts_CC.sum(axis=1)
    return [float(counts_CC[c, c] / total) if total else None for c, total in enumerate(totals_C)]


def softmax(logits_NC: Floats) -> NDArray[np.float64]:
    """Probabilities (N, C), in double precision."""
    logits_NC = logits_NC.astype(np.float64)
    powers_NC = np.exp(logits_NC - logits_NC.max(axis=1, keepdims=True))
    return np.asarray(powers_NC / powers_NC.sum(axis=1, keepdims=True))


def ece(logits_NC: Floats, labels_N: Labels, bins: int = 15) -> float:
    """Expected calibration error: the mean gap between confidence and accuracy, over bins of equal width.

    Bins are open at the left and closed at the right. The gap of a bin counts by its number of images.

    Returns:
        In [0, 1]; 0 is perfect.

    Source: Guo et al., 2017, On Calibration of Modern Neural Networks.
    """
    probabilities_NC = softmax(logits_NC)
    confidence_N = probabilities_NC.max(axis=1)
    right_N = (probabilities_NC.argmax(axis=1) == labels_N).astype(np.float64)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.abs(
        np.bincount(bin_N, weights=confidence_N, minlength=bins) - np.bincount(bin_N, weights=right_N, minlength=bins)
    )
    return float(gaps.sum() / len(labels_N))


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and sample standard deviation as text; a single value has no spread.

    Example:
        >>> mean_and_spread([1.0, 3.0])
        '2.00 ± 1.41'
    """
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"
