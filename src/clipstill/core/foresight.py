"""How many of its photos a model will name right: a share with an interval that holds, or that none can be told.

Plan, run, card, report and page say what is built here, before and after a run. The constants are fitted on tasks of
PACS and Caltech-101 and checked on others: ``benchmarks/foresight.py``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from clipstill.core.progress import listed, percent, whole_percent

# Half the width of an 80 % interval, in standard deviations.
_Z = 1.2816
# Labelled photos from which on a measured share replaces what is foretold.
MEASURED_FROM = 10
# Photos without labels from which on the teacher's confidence on them is worth more than the names.
CONFIDENT_FROM = 10
_BOUND = 0.02  # Shares are kept this far from 0 and 1 before their logit is taken.


@dataclass(frozen=True)
class Fit:
    """A line from the logit of what is known to that of the accuracy, and its error: all in logits."""

    offset: float
    slope: float
    error: float  # Standard deviation.


# Between the lines of both embedded teachers; names err more on another set than on those of the fit.
BY_NAMES = Fit(0.2, 0.9, 0.7)
OF_DRAWINGS = Fit(-1.25, 0.73, 0.65)
BY_CONFIDENCE = Fit(-0.3, 1.26, 0.5)
# From the teacher's accuracy to that of a student of the default recipe (docs/measured.md).
OF_STUDENT = Fit(-0.1, 1.0, 0.2)


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], and the ends of the interval that holds it in 80 of 100 cases."""

    share: float
    low: float
    high: float

    def text(self) -> str:
        """``about 88 % (80 % interval 81 to 93 %)``."""
        return f"{self.share_text()} (80 % interval {100 * self.low:.0f} to {whole_percent(self.high)})"

    def share_text(self) -> str:
        """``about 88 %``."""
        return f"about {whole_percent(self.share)}"


class MeasuredShare(Estimate):
    """What labelled photos say: it keeps its decimal."""

    def text(self) -> str:
        """``88.2 % (80 % interval 81.4 to 93.0 %)``."""
        return f"{self.share_text()} (80 % interval {100 * self.low:.1f} to {percent(self.high)})"

    def share_text(self) -> str:
        """``88.2 %``."""
        return percent(self.share)


@dataclass(frozen=True)
class Foresight:
    """What is known of the share of right answers."""

    basis: str  # What it follows from, such as ``"names alone"`` or ``"40 labelled photos"``.
    photos: Estimate | None = None  # Photos of the classes; None if it cannot be told.
    drawings: Estimate | None = None  # Drawings, where names alone are known; photos show what they are.
    reason: str = ""  # Why it cannot be told.

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The value of ``to_json``."""
        estimates = {name: value[name] and Estimate(**value[name]) for name in ("photos", "drawings")}
        return cls(basis=value["basis"], reason=value["reason"], **estimates)

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return asdict(self)

    @property
    def share(self) -> float | None:
        """The share of photos; None if it cannot be told."""
        return None if self.photos is None else self.photos.share

    def text(self) -> str:
        """One phrase with numbers and basis, or why there is no number and what to do."""
        if self.photos is None:
            return f"cannot tell: {self.reason}. {MEASURED_FROM} labelled photos in all measure it"
        drawings = f"; of drawings {self.drawings.text()}" if self.drawings else ""
        return f"{self.photos.text()}{drawings}, by {self.basis}"


def measured(share: float, count: int, basis: str) -> Foresight:
    """What ``count`` labelled photos say, at least one."""
    return Foresight(basis, MeasuredShare(*wilson(share, count)))


def wilson(share: float, count: int) -> tuple[float, float, float]:
    """A share of ``count`` photos, at least one, and the ends of its 80 % interval.

    Source: Wilson, JASA 1927, the score interval.
    """
    spread = _Z**2 / count
    middle = (share + spread / 2) / (1 + spread)
    half = _Z / (1 + spread) * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return round(share, 4), round(max(0.0, middle - half), 4), round(min(1.0, middle + half), 4)


def by_names(simulated: float, taking: Sequence[str] = ()) -> Foresight:
    """From the share that ``text.difficulty`` simulates by the names of the classes.

    Args:
        taking: How doubtful names were taken, such as ``"elefant as a guess"``.
    """
    basis = f"names alone, taking {listed(taking, most=4)}" if taking else "names alone"
    return Foresight(basis, _estimate(simulated, BY_NAMES), _estimate(simulated, OF_DRAWINGS))


def by_confidence(confidence: float, count: int) -> Foresight:
    """From the teacher's mean probability of the answers to ``count`` photos without labels, in [0, 1].

    Source: ours, after Hendrycks and Gimpel, ICLR 2017: mean confidence estimates accuracy.
    """
    return Foresight(f"{count} photos without labels", _estimate(confidence, BY_CONFIDENCE, count))


def of_student(teacher: Foresight) -> Foresight:
    """From what is known of the teacher to what its student will do."""

    def lower(found: Estimate | None) -> Estimate | None:
        if found is None:
            return None
        error = (_logit(found.high) - _logit(found.low)) / (2 * _Z)
        return _estimate(found.share, Fit(OF_STUDENT.offset, OF_STUDENT.slope, math.hypot(error, OF_STUDENT.error)))

    return Foresight(teacher.basis, lower(teacher.photos), lower(teacher.drawings), teacher.reason)


def known_best(foretold: Mapping[str, Any], evaluation: Mapping[str, Any] | None) -> Foresight:
    """What the student was measured to do, where there were photos enough; else what was foretold; both as JSON."""
    if evaluation is not None and evaluation["n"] >= MEASURED_FROM:
        return measured(evaluation["right_and_answered"], evaluation["n"], measured_photos(evaluation))
    return Foresight.from_json(foretold)


def unmeasured(evaluation: Mapping[str, Any] | None) -> list[str]:
    """Names of the classes that no photo shows; the evaluation is one as JSON, or None without one."""
    student = (evaluation or {}).get("student") or {}
    pairs = zip(student.get("classes") or (), student.get("per_class") or (), strict=False)
    return [name for name, share in pairs if share is None]


def measured_photos(evaluation: Mapping[str, Any]) -> str:
    """The photos that an evaluation (as JSON) measured, to stand beside each number that it gave.

    ``40 labelled photos``, and where a class has none ``40 labelled photos in 1 of the 2 classes (none of cat)``.
    """
    told, without = f"{evaluation['n']:,} labelled photos", unmeasured(evaluation)
    if not without:
        return told
    count = len(evaluation["student"]["classes"])
    return f"{told} in {count - len(without)} of the {count} classes (none of {listed(without)})"


def _logit(share: float) -> float:
    bounded = min(max(share, _BOUND), 1 - _BOUND)
    return math.log(bounded / (1 - bounded))


def _estimate(known: float, fit: Fit, count: int | None = None) -> Estimate:
    """The line's value; few photos widen the interval by their own chance."""
    middle = fit.offset + fit.slope * _logit(known)
    share = 1 / (1 + math.exp(-middle))
    error = math.sqrt(fit.error**2 + (0.0 if count is None else 1 / (count * share * (1 - share))))
    ends = (1 / (1 + math.exp(-(middle + sign * _Z * error))) for sign in (0, -1, 1))
    return Estimate(*(round(each, 4) for each in ends))
