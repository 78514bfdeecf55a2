"""Accuracies on several data sets after training for one: cross-data-set transfer and domain generalisation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from clipstill.evaluation.metrics import mean_and_spread

Seen = Literal["none", "source", "target"]
_SEEN_IN_WORDS: dict[Seen, str] = {"none": "no", "source": "those of the source", "target": "yes, unlabelled"}


@dataclass(frozen=True)
class Transfer:
    """Accuracies of one method."""

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


def table(rows: Mapping[str, Transfer]) -> str:
    """Markdown with a line per method: mean and standard deviation over seeds of every target, and of their mean."""
    targets = list(next(iter(rows.values())).top1)
    lines = [
        f"| method | {' | '.join(targets)} | mean | saw target images |",
        f"|---|{'---:|' * (len(targets) + 1)}---|",
    ]
    for name, row in rows.items():
        values = [mean_and_spread(row.top1[target]) for target in targets]
        lines.append(f"| {name} | {' | '.join(values)} | {mean_and_spread(row.means)} | {_SEEN_IN_WORDS[row.seen]} |")
    return "\n".join(lines)
