"""Tables of two protocols: base-to-novel, and transfer to other data sets, which domain generalisation uses too.

Base-to-novel classifies each half of the classes by itself. The harmonic mean is taken of the accuracies' means over
seeds, as in Zhou et al., CVPR 2022 (CoCoOp), not as the mean of harmonic means.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clipstill.evaluation.metrics import mean_and_spread

Seen = Literal["none", "source", "target"]
_SEEN_IN_WORDS: dict[Seen, str] = {"none": "no", "source": "those of the source", "target": "yes, unlabelled"}


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

    def cells(self) -> list[tuple[str, str]]:
        """Header and text of each cell of its row in ``table``."""
        halves = [("base", mean_and_spread(self.base)), ("novel", mean_and_spread(self.novel))]
        seen = _SEEN_IN_WORDS["target" if self.transductive else "none"]
        return [*halves, ("HM", f"{self.harmonic:.2f}"), ("saw novel images", seen)]


@dataclass(frozen=True)
class Transfer:
    """Accuracies of one method on several data sets after training for one."""

    top1: Mapping[str, tuple[float, ...]]  # By target, one per seed, in percent.
    # Whose unlabelled images it was trained on; ``"target"`` is transductive and does not compare with the others.
    seen: Seen

    @property
    def means(self) -> tuple[float, ...]:
        """Means over the targets, one per seed."""
        return tuple(statistics.fmean(of_seed) for of_seed in zip(*self.top1.values(), strict=True))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "top1": {target: list(values) for target, values in self.top1.items()},
            "mean": list(self.means),
            "seen": self.seen,
            "transductive": self.seen == "target",
        }

    def cells(self) -> list[tuple[str, str]]:
        """Header and text of each cell of its row in ``table``."""
        accuracies = [(name, mean_and_spread(values)) for name, values in (*self.top1.items(), ("mean", self.means))]
        return [*accuracies, ("saw target images", _SEEN_IN_WORDS[self.seen])]


def table(rows: Mapping[str, BaseToNovel | Transfer]) -> str:
    """Markdown with a line per method: mean and standard deviation over seeds, and which images it saw."""
    headers = [header for header, _ in next(iter(rows.values())).cells()]
    lines = [f"| method | {' | '.join(headers)} |", f"|---|{'---:|' * (len(headers) - 1)}---|"]
    lines += [f"| {name} | {' | '.join(text for _, text in row.cells())} |" for name, row in rows.items()]
    return "\n".join(lines)
