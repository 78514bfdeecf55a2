"""Metrics of classification, in numpy.

Shapes: N images, C classes. Labels are positions in the list of classes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Labels = NDArray[np.integer]

ECE_BINS = 15


def top1(logits_NC: Floats, labels_N: Labels) -> float | None:
    """Share of images, in [0, 1], whose class has the highest logit (the first of equals); None without images."""
    return _top_k(logits_NC, labels_N, 1)


def top5(logits_NC: Floats, labels_N: Labels) -> float | None:
    """Share of images whose class is among the five highest; None with five classes or fewer, where it is always 1."""
    return _top_k(logits_NC, labels_N, 5) if logits_NC.shape[1] > 5 else None


def _top_k(logits_NC: Floats, labels_N: Labels, k: int) -> float | None:
    if len(labels_N) == 0:
        return None
    # Stable, so that equal logits are ranked as argmax ranks them and top-1 is the diagonal of the confusion.
    best_Nk = np.argsort(-logits_NC, axis=1, kind="stable")[:, :k]
    return float((best_Nk == labels_N[:, None]).any(axis=1).mean())


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
    shifted = logits_NC.astype(np.float64)
    shifted = shifted - shifted.max(axis=1, keepdims=True)
    powers = np.exp(shifted)
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def ece(logits_NC: Floats, labels_N: Labels, bins: int = ECE_BINS) -> float | None:
    """Expected calibration error: the mean gap between confidence and accuracy, over bins of equal width.

    Bins are open at the left and closed at the right. The gap of a bin counts by its number of images.

    Returns:
        In [0, 1]; 0 is perfect; None without images.

    Source: Guo et al., 2017, On Calibration of Modern Neural Networks.
    """
    if len(labels_N) == 0:
        return None
    probabilities_NC = softmax(logits_NC)
    confidence_N = probabilities_NC.max(axis=1)
    right_N = (probabilities_NC.argmax(axis=1) == labels_N).astype(np.float64)
    bin_N = np.clip(np.ceil(confidence_N * bins).astype(np.int64) - 1, 0, bins - 1)
    gaps = np.abs(
        np.bincount(bin_N, weights=confidence_N, minlength=bins) - np.bincount(bin_N, weights=right_N, minlength=bins)
    )
    return float(gaps.sum() / len(labels_N))


def mean_and_spread(values: Sequence[float], digits: int = 2) -> str:
    """Mean and sample standard deviation as they stand in a table; a single value has no spread.

    Example:
        >>> mean_and_spread([1.0, 3.0])
        '2.00 ± 1.41'
    """
    spread = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.{digits}f}{spread}"
