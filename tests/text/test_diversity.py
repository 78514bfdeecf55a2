"""Angles between prompts, against closed forms."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import normalize

from clipstill.core.seeds import generator_for
from clipstill.text.diversity import diversity

AXES = torch.eye(4)


def test_orthogonal_prompts_are_ninety_degrees_apart_and_identical_ones_none() -> None:
    apart = diversity(torch.cat([AXES[:3], AXES[:3]]), [0, 0, 0, 1, 1, 1], [0, 1, 2, 0, 1, 2], AXES[:2])
    assert apart.within_class == pytest.approx(90)
    assert apart.across_styles == pytest.approx(90)
    same = diversity(AXES[[0, 0, 1, 1]], [0, 0, 1, 1], [0, 1, 0, 1], AXES[:2])
    assert same.within_class == pytest.approx(0, abs=1e-5)
    assert same.class_accuracy == 1


def test_small_angles_keep_their_digits() -> None:
    angle = torch.tensor(0.01).deg2rad().double()
    pair = torch.stack([AXES[0], angle.cos().float() * AXES[0] + angle.sin().float() * AXES[1]])
    assert diversity(pair, [0, 0], [0, 1], AXES[:2]).within_class == pytest.approx(0.01, rel=1e-3)


def test_only_pairs_of_different_styles_count_across_styles() -> None:
    # Two prompts on each of two axes: four pairs of 90 degrees, two of none.
    made = diversity(AXES[[0, 0, 1, 1]], [0] * 4, [0, 0, 1, 1], AXES[:2])
    assert made.within_class == pytest.approx(60, abs=1e-4)
    assert made.across_styles == pytest.approx(90)


def test_classes_weigh_alike_whatever_their_number_of_prompts() -> None:
    made = diversity(AXES[[0, 0, 0, 0, 1, 2]], [0, 0, 0, 0, 1, 1], [0] * 6, AXES[:2])
    assert made.within_class_each == pytest.approx((0, 90), abs=1e-4)
    assert made.within_class == pytest.approx(45, abs=1e-4)
    assert made.across_styles is None
    assert "no pair across its styles" in made.line()


def test_class_accuracy_is_the_share_nearest_their_own_class_vector() -> None:
    made = diversity(AXES[[0, 1, 1, 1]], [0, 0, 1, 1], [0, 1, 0, 1], AXES[:3])
    assert made.class_accuracy == 0.75
    assert made.class_accuracy_each == (0.5, 1.0, None)
    assert made.within_class_each[2] is None


def test_random_directions_agree_with_pair_by_pair_angles() -> None:
    vectors = normalize(torch.randn(7, 5, generator=generator_for("directions")), dim=1)
    angles = [
        torch.rad2deg(2 * torch.asin((vectors[i] - vectors[j]).double().norm() / 2))
        for i in range(7)
        for j in range(i + 1, 7)
    ]
    made = diversity(vectors, [0] * 7, list(range(7)), vectors[:2])
    assert made.within_class == pytest.approx(float(torch.stack(angles).mean()), abs=1e-4)
