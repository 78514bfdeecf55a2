"""The baseline ladder: simpler and richer ways to the same classifier, compared photo by photo.

It answers whether distilling was worth it. Every rung answers for the same photos. The recommendation follows these
rules, with ``LEVEL``, ``SAME_COST`` and ``MOST_COST``:

0. Below fifty photos nothing is recommended.
1. Two rungs differ where McNemar's exact test says so at the level of 5 %; otherwise the difference is not measurable.
2. The pick starts as the student. A teacher with stored class vectors, the small one first, replaces it if it is
   measurably better than the pick and costs at most three times as much as the student in bytes and in GFLOP (latency
   is ignored because it is noisy), or if it is not measurably worse and costs no more than the pick (within a tenth).
3. A teacher that is measurably better than the pick but costs more than that is named with its price.
4. Of the rungs with labelled or unlabelled photos, the best one that is measurably better than the pick within the same
   limit of cost is recommended beside it; failing that, the best one that is not measurably worse and more than a tenth
   cheaper in bytes and in GFLOP.
5. If the pick is the student, and a student taught on noise or on procedural pictures is not measurably worse, the text
   says that the synthetic images taught it nothing, and what they are for.

Shapes: B resamples.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypedDict

import numpy as np

from clipstill.core.errors import ArtifactError
from clipstill.core.notebook import html_table
from clipstill.core.progress import percent
from clipstill.core.verdict import ENOUGH_PHOTOS

TEACHER = "teacher"
SMALL_TEACHER = "small-teacher"
SMALL_TEACHER_EXAMPLES = "small-teacher-examples"
NOISE = "noise"
PROCEDURAL = "procedural"
OURS = "ours"
EXAMPLES = "examples"
UNLABELLED = "unlabelled"
RUNGS = (TEACHER, SMALL_TEACHER, SMALL_TEACHER_EXAMPLES, NOISE, PROCEDURAL, OURS, EXAMPLES, UNLABELLED)

LEVEL = 0.05
SAME_COST = 1.1
# Chosen, not measured: the small embedded teacher has one and a half times the bytes of the default student.
MOST_COST = 3.0


class LadderOptions(TypedDict, total=False):
    """Options of ``ladder``.

    Attributes:
        examples: Labelled photos to learn from, one sub-folder a class.
        shots: Most examples of a class; None for all.
        unlabelled: Photos without labels to learn from.
        rungs: Names of rungs; all where empty.
        small_teacher: Teacher that would ship untrained; that of the run's settings where None.
        out: Folder that keeps what is made for the next call; ``ladder`` in the run folder where None.
        device: Device of the teachers; that of the run's settings where None.
        allow_unmatched: Whether to go on where a class has no photo and a folder nearly has its name; as the run's
            settings say where None.
    """

    examples: str | Path | None
    shots: int | None
    unlabelled: str | Path | None
    rungs: Sequence[str]
    small_teacher: str | None
    out: str | Path | None
    device: str | None
    allow_unmatched: bool | None


@dataclass(frozen=True)
class Cost:
    """What a rung costs; None for what is not known."""

    onnx_bytes: int | None  # Size of the exported file.
    parameters: int | None
    gflop: float | None  # Billions of multiplications and additions per picture.
    latency_ms: float | None  # Median for one picture on one CPU core.
    minutes: float | None  # Time to make it, from class names on.
    photos: int = 0  # Number of unlabelled photos that it is taught on.
    labels: int = 0  # Number of labelled photos that it is taught on.


@dataclass(frozen=True)
class Measured:
    """What was measured of a rung."""

    right: str  # One digit per photo, in order: "1" for a right answer, "0" for a wrong one.
    ece: float  # Expected calibration error, in [0, 1].
    per_class: tuple[float | None, ...]  # Top-1 of each class; None for a class without photos.
    cost: Cost

    @property
    def top1(self) -> float:
        """Share of right answers, in [0, 1]."""
        return self.right.count("1") / len(self.right)


@dataclass(frozen=True)
class Rung:
    """One way to the classifier."""

    name: str  # One of ``RUNGS``.
    title: str  # Name for people.
    measured: Measured | None = None  # None where something is missing.
    missing: str = ""  # What is missing, and what to do about it.
    note: str = ""  # What a reader must know.
    command: str = ""  # Command that makes it; empty for none.

    @property
    def result(self) -> Measured:
        """``measured``, for rungs that were measured."""
        assert self.measured is not None
        return self.measured

    def to_json(self) -> dict[str, Any]:
        """As JSON values, ``top1`` among them."""
        value = asdict(self)
        if self.measured is not None:
            value["measured"] = {"top1": self.measured.top1, **value["measured"]}
        return value

    @classmethod
    def from_json(cls, value: Any) -> Rung:
        """The inverse of ``to_json``.

        Raises:
            ArtifactError: The value is not that of a rung.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Rung).validate_python(value)
        except ValidationError as error:
            raise ArtifactError(f"a stored rung of the ladder cannot be read ({error}). Measure it again.") from None


@dataclass(frozen=True)
class Difference:
    """How much better one rung is than another on the same photos."""

    share: float  # Difference of the shares of right answers, in [-1, 1].
    # Lower and upper end of the interval that holds 95 % of resampled differences; wide enough to hold 0 where the test
    # below finds none.
    low: float
    high: float
    p: float  # Result of the exact test of McNemar, in [0, 1].

    @property
    def measurable(self) -> bool:
        """Whether chance alone would seldom make such a difference."""
        return self.p < LEVEL

    @property
    def better(self) -> bool:
        """Whether the first is measurably better."""
        return self.measurable and self.share > 0

    def to_json(self) -> dict[str, Any]:
        """JSON values, with ``measurable`` for readers of the file."""
        return {**asdict(self), "measurable": self.measurable}


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p, in (0, 1], of "both are right equally often".

    Args:
        only_first: Number of photos that the first alone names right.
        only_second: Number of photos that the second alone names right.

    Source: McNemar, Psychometrika 1947, in its exact form by the binomial distribution.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    # A sum of floats would lose the small terms of thousands of photos.
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**total))


def difference(first: Measured, second: Measured) -> Difference:
    """How much more often the first is right than the second, with a bootstrap over photos and McNemar's test.

    Source: Efron, Annals of Statistics 1979, for the interval (percentiles). A photo adds -1, 0 or 1, so that the
    resampled sums are drawn from a multinomial distribution at once.
    """
    count, pairs = len(first.right), list(zip(first.right, second.right, strict=True))
    plus, minus = pairs.count(("1", "0")), pairs.count(("0", "1"))
    chances = [plus / count, minus / count, 1 - (plus + minus) / count]
    drawn_B3 = np.random.default_rng(0).multinomial(count, chances, size=4000)
    low, high = np.quantile((drawn_B3[:, 0] - drawn_B3[:, 1]) / count, [0.025, 0.975])
    p = mcnemar_exact(plus, minus)
    if p >= LEVEL:  # Where the two differ on few photos, resampling alone would find a difference in five of them.
        low, high = min(low, 0.0), max(high, 0.0)
    return Difference((plus - minus) / count, float(low), float(high), p)


@dataclass(frozen=True)
class Recommendation:
    """What to ship."""

    ship: str | None  # Name of the rung to ship; None where too little was measured.
    better_with: str | None  # Name of a rung with photos that is measurably better, or as good for less; None for none.
    choice: str  # What to ship, and by which figures, in a sentence or two.
    more: str = ""  # Further sentences: what is better for more, what the images were worth, what photos would add.
    command: str = ""  # Command that makes the rung to ship; empty for the student, which exists.


def recommend(rungs: Sequence[Rung]) -> Recommendation:
    """What to ship, by the rules at the top of this file."""
    found = {rung.name: rung for rung in rungs if rung.measured is not None}
    towers = [found[name] for name in (SMALL_TEACHER, TEACHER) if name in found]
    if OURS not in found or not towers:
        return Recommendation(None, None, "Nothing is recommended: the student and a teacher must both be measured.")
    ours = pick = found[OURS]
    if (count := len(ours.result.right)) < ENOUGH_PHOTOS:
        so_far = ", ".join(f"{rung.title} {_percent(rung)}" for rung in (ours, *towers))
        return Recommendation(
            None, None, f"{count} photos are too few to say which to ship; it takes {ENOUGH_PHOTOS}. So far: {so_far}."
        )
    dear = None
    for tower in towers:
        gap = _between(tower, pick)
        if gap.better and not _costs_at_most(tower, ours, MOST_COST):
            dear = tower
        elif gap.better or (not gap.measurable and _costs_at_most(tower, pick, SAME_COST)):
            pick = tower
    if pick is ours:
        choice = (
            f"Ship the student: with no photo refused, it names {_percent(ours)} right, "
            f"{towers[0].title} {_percent(towers[0])} ({_gap(ours, towers[0])}), which {_takes(towers[0], ours)}."
        )
    else:
        choice = (
            f"Ship {pick.title}: with no photo refused, it names {_percent(pick)} right, the student {_percent(ours)} "
            f"({_gap(pick, ours)}); it {_takes(pick, ours)}. Take the student where size counts or where photos of "
            "other things must be refused: a teacher answers always."
        )
    more = []
    if dear is not None and _between(dear, pick).better:
        more.append(
            f"Where size and time do not count, {dear.title} reaches {_percent(dear)}, {_gap(dear, pick)}, "
            f"and {_takes(dear, ours)}."
        )
    by_top1 = operator.attrgetter("result.top1")
    controls = [found[name] for name in (NOISE, PROCEDURAL) if name in found]
    as_good = max((rung for rung in controls if not _between(ours, rung).better), key=by_top1, default=None)
    if pick is ours and as_good is not None:
        more.append(
            f"{as_good.title} reaches {_percent(as_good)}, so what the synthetic images show taught the student "
            "nothing measurable: what it knows, it has from its teacher, whatever the pictures. The images still set "
            'the temperature of its scores and when it says "none of these".'
        )
    shown = [found[name] for name in (SMALL_TEACHER_EXAMPLES, EXAMPLES, UNLABELLED) if name in found]
    better = [rung for rung in shown if _between(rung, pick).better and _costs_at_most(rung, ours, MOST_COST)]
    cheaper = [rung for rung in shown if not _between(pick, rung).better and _costs_at_most(rung, pick, 1 / SAME_COST)]
    best = max(better or cheaper, key=by_top1, default=None)
    if best is not None:
        verdict, price = ("Better", "") if better else ("Cheaper", f", and {_takes(best, pick)}")
        more.append(f"{verdict} with photos: {best.title} reaches {_percent(best)}, {_gap(best, pick)}{price}.")
    elif pick is ours and as_good is not None:
        more.append("To get more, give five photos of each class.")
    return Recommendation(
        pick.name, None if best is None else best.name, choice, more=" ".join(more), command=pick.command
    )


@dataclass(frozen=True)
class Ladder:
    """Simpler and richer ways to the same classifier, and which to ship.

    Attributes:
        n: Number of photos; 0 where nothing was measured.
        rungs: The ways, in the order of the ladder.
        against_ours: Name of a rung -> its difference to the student.
    """

    n: int
    classes: tuple[str, ...]
    rungs: tuple[Rung, ...]
    against_ours: Mapping[str, Difference]
    recommendation: Recommendation

    @classmethod
    def of(cls, rungs: Sequence[Rung], classes: Sequence[str]) -> Ladder:
        """The ladder of these rungs, compared with the student."""
        found = {rung.name: rung for rung in rungs if rung.measured is not None}
        ours = found.get(OURS)
        gaps = {} if ours is None else {name: _between(rung, ours) for name, rung in found.items() if rung is not ours}
        count = max((len(rung.result.right) for rung in found.values()), default=0)
        return cls(count, tuple(classes), tuple(rungs), against_ours=gaps, recommendation=recommend(rungs))

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Ladder:
        """The inverse of ``to_json``."""
        from pydantic import TypeAdapter

        return TypeAdapter(Ladder).validate_python(value)

    def to_json(self) -> dict[str, Any]:
        """JSON values."""
        return {
            **asdict(self),
            "classes": list(self.classes),
            "rungs": [rung.to_json() for rung in self.rungs],
            "against_ours": {name: gap.to_json() for name, gap in self.against_ours.items()},
        }

    def _repr_html_(self) -> str:
        rows = {rung.title: percent(rung.measured.top1) if rung.measured else rung.missing for rung in self.rungs}
        return html_table({**rows, "advice": self.recommendation.choice, "": self.recommendation.more})


def _between(first: Rung, second: Rung) -> Difference:
    return difference(first.result, second.result)


def _percent(rung: Rung) -> str:
    return percent(rung.result.top1)


def _gap(first: Rung, second: Rung) -> str:
    gap = _between(first, second)
    if not gap.measurable:
        return "no measurable difference"
    other = "the student" if second.name == OURS else second.title
    return f"{100 * abs(gap.share):.1f} points {'more' if gap.share > 0 else 'less'} than {other}"


def _multiples(rung: Rung, other: Rung, *costs: str) -> list[float]:
    """Costs as multiples of the other's; infinite where one is not known."""
    pairs = [(getattr(rung.result.cost, cost), getattr(other.result.cost, cost)) for cost in costs]
    return [own / base if own and base else math.inf for own, base in pairs]


def _costs_at_most(rung: Rung, other: Rung, times: float) -> bool:
    """Whether neither bytes nor GFLOP exceed this multiple of the other's."""
    return max(_multiples(rung, other, "onnx_bytes", "gflop")) <= times


def _takes(rung: Rung, other: Rung) -> str:
    # Milliseconds of two moments on a busy machine say little: they stand in the table.
    size, arithmetic = _multiples(rung, other, "onnx_bytes", "gflop")
    if math.inf in (size, arithmetic):
        return "takes space and arithmetic that were not measured"
    return f"takes {_compared(size, 'space')} and {_compared(arithmetic, 'arithmetic')} a picture"


def _compared(multiple: float, cost: str) -> str:
    if multiple < 0.95:
        return f"{100 * (1 - multiple):.0f} % less {cost}"
    return f"{multiple:.1f} times the {cost}" if multiple >= 1.05 else f"the same {cost}"
