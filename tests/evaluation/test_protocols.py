"""The arithmetic of the base-to-novel protocol, against published numbers."""

from __future__ import annotations

import pytest

from clipstill.evaluation.protocols import BaseToNovel, harmonic_mean, table


@pytest.mark.parametrize(
    ("base", "novel", "expected"),
    # Li et al., CVPR 2024, table 1: the average, and ImageNet.
    [(86.96, 80.73, 83.73), (80.83, 74.66, 77.62), (69.34, 74.22, 71.70), (0.0, 0.0, 0.0), (100.0, 0.0, 0.0)],
)
def test_harmonic_mean_is_the_published_one(base: float, novel: float, expected: float) -> None:
    assert round(harmonic_mean(base, novel), 2) == expected


def test_the_mean_over_seeds_comes_before_the_harmonic_one() -> None:
    row = BaseToNovel(base=(90.0, 50.0), novel=(50.0, 90.0), transductive=True)
    assert row.harmonic == pytest.approx(70.0)
    assert (harmonic_mean(90, 50) + harmonic_mean(50, 90)) / 2 == pytest.approx(64.29, abs=0.01)


def test_the_table_says_what_was_seen() -> None:
    shown = table(
        {
            "zero-shot": BaseToNovel((69.34,), (74.22,), transductive=False),
            "PromptKD": BaseToNovel((86.0, 88.0), (80.0, 81.0), transductive=True),
        }
    ).splitlines()
    assert shown[2] == "| zero-shot | 69.34 | 74.22 | 71.70 | no |"
    assert shown[3] == "| PromptKD | 87.00 ± 1.41 | 80.50 ± 0.71 | 83.62 | yes, unlabelled |"
