"""The base-to-novel protocol: two accuracies per seed, and their harmonic mean.

Each half of the classes is classified by itself. The harmonic mean is taken of the accuracies' means over seeds, as in
Zhou et al., CVPR 2022 (CoCoOp), not as the mean of harmonic means.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from clipstill.evaluation.metrics import mean_and_spread


def harmonic_mean(base: float, novel: float) -> float:
    """2 B N / (B + N), in the unit of its arguments; 0 where both are 0."""
    return 2 * base * novel / (base + novel) if base + novel else 0.0


@dataclass(frozen=True)
class BaseToNovel:
    """Accuracies of one method, one per seed, in percent."""

    base: tuple[float, ...]  # Top-1 on the classes of the first half.
    novel: tuple[float, ...]  # Top-1 on the classes of the second half.
    # Whether it was trained on unlabelled images of the novel classes; such numbers do not compare with others.
    transductive: bool

    @property
    def harmonic(self) -> float:
        """Harmonic mean of the means over seeds."""
        return harmonic_mean(statistics.fmean(self.base), statistics.fmean(self.novel))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "base": list(self.base),
            "novel": list(self.novel),
            "harmonic_mean": self.harmonic,
            "transductive": self.transductive,
        }


def table(rows: Mapping[str, BaseToNovel]) -> str:
    """Markdown with a line per method: mean and standard deviation over seeds, and the harmonic mean of the means."""
    lines = ["| method | base | novel | HM | saw novel images |", "|---|---:|---:|---:|---|"]
    for name, row in rows.items():
        seen = "yes, unlabelled" if row.transductive else "no"
        lines.append(
            f"| {name} | {mean_and_spread(row.base)} | {mean_and_spread(row.novel)} | {row.harmonic:.2f} | {seen} |"
        )
    return "\n".join(lines)
