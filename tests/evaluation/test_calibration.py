"""Temperatures and refusal against what is known in advance."""

from __future__ import annotations

import numpy as np
import pytest

from clipstill.evaluation.calibration import auroc, fit_temperature, refusal_threshold
from clipstill.evaluation.metrics import ece, softmax

LOGITS = np.random.default_rng(0).normal(size=(4000, 5)) * 4


@pytest.mark.parametrize("true", [0.3, 1.0, 7.0])
def test_the_temperature_that_made_the_targets_is_found(true: float) -> None:
    assert fit_temperature(LOGITS, softmax(LOGITS / true)) == pytest.approx(true, rel=1e-3)


def test_labels_drawn_from_the_scores_are_calibrated_by_it() -> None:
    probability = softmax(LOGITS / 3)
    draw = np.random.default_rng(1).random((len(LOGITS), 1))
    labels = (probability.cumsum(axis=1) < draw).sum(axis=1)
    found = fit_temperature(LOGITS, np.eye(5)[labels])
    assert found == pytest.approx(3, rel=0.1)
    before, after = ece(LOGITS, labels), ece(LOGITS / found, labels)
    assert after < 0.03 < 0.1 < before


def test_scores_without_error_end_at_the_sharpest_temperature() -> None:
    labels = LOGITS.argmax(axis=1)
    assert fit_temperature(LOGITS, np.eye(5)[labels]) == pytest.approx(0.01, rel=1e-3)


def test_auroc_is_the_chance_of_the_right_order() -> None:
    assert auroc(np.array([3.0, 4.0]), np.array([1.0, 2.0])) == 1.0
    assert auroc(np.array([1.0]), np.array([1.0, 0.0])) == 0.75
    draw = np.random.default_rng(2)
    inside, outside = draw.normal(1, 1, 300), draw.normal(0, 1, 200)
    expected = np.mean([(a > b) + 0.5 * (a == b) for a in inside for b in outside])
    assert auroc(inside, outside) == pytest.approx(expected)
    assert auroc(outside, inside) == pytest.approx(1 - expected)


def test_the_threshold_lies_between_what_can_be_told_apart() -> None:
    assert refusal_threshold(np.array([0.6, 0.9]), np.array([0.1, 0.4])) == pytest.approx(0.5)
    # Nothing can be told: refuse nothing.
    assert refusal_threshold(np.array([0.3, 0.3]), np.array([0.3])) == pytest.approx(0.3)


def test_no_other_threshold_judges_more_pictures_right() -> None:
    draw = np.random.default_rng(4)
    inside, outside = draw.normal(1, 1, 200), draw.normal(0, 1, 90)
    found = refusal_threshold(inside, outside)

    def right(cut: float) -> float:
        return float((inside >= cut).mean() + (outside < cut).mean())

    assert right(found) >= max(right(cut) for cut in np.linspace(-4, 5, 2000)) - 1e-12


def test_the_threshold_keeps_to_what_may_be_refused() -> None:
    draw = np.random.default_rng(5)
    inside, outside = draw.normal(0.5, 1, 500), draw.normal(0, 1, 500)
    assert (inside < refusal_threshold(inside, outside)).mean() > 0.2
    assert 0.05 < (inside < refusal_threshold(inside, outside, 0.1)).mean() <= 0.1
    assert (inside < refusal_threshold(inside, outside, 0.0)).mean() == 0
