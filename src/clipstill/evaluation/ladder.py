"""The baseline ladder: simpler and richer ways to the same classifier, compared photo by photo, and what follows.

It answers whether distilling was worth it at all. Every rung answers for the same photos, so that two rungs are
compared in pairs: photos that both name right, or both wrong, say nothing.

The recommendation follows from what was measured by these rules, with ``LEVEL``, ``SAME_COST`` and ``MOST_COST``:

1. Two rungs differ where the exact test of McNemar says so at the level of 5 %; else there is no measurable difference.
2. The pick starts as the student. A teacher with stored class vectors, the small one first, takes its place where it is
   measurably better than the pick and costs at most three times as much as the student, in bytes and in GFLOP (a
   machine that was busy while it measured milliseconds shall not turn the advice); or where it is not measurably worse
   and costs no more than the pick (a tenth is no difference).
3. A teacher that is measurably better than the pick and costs more than that is named with its price.
4. Where labelled or unlabelled photos make a rung measurably better than the pick, at most at the same limit of cost,
   the best of these is recommended beside it; else the best of those that are not measurably worse and cost less than
   the pick, in bytes and in GFLOP, by more than a tenth.
5. Where the pick is the student, and a student that was taught on noise or on procedural pictures is not measurably
   worse, the synthetic images earned nothing that could be measured, and that is said.

Shapes: N photos, B resamples.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from clipstill.core.errors import ArtifactError, DataError

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
# A choice, not a measurement: the embedded teachers' small one has twice the bytes of the default student.
MOST_COST = 3.0
_RESAMPLES = 4000


@dataclass(frozen=True)
class Cost:
    """What a rung costs.

    Attributes:
        onnx_bytes: of the exported file; None where it cannot be exported.
        parameters: numbers in the network.
        gflop: billions of multiplications and additions a picture; None where they were not counted.
        latency_ms: median for one picture on one core; None where there is no exported file.
        minutes: to make it, from class names on.
        photos: without labels, that it is taught on.
        labels: labelled photos that it is taught on.
    """

    onnx_bytes: int | None
    parameters: int | None
    gflop: float | None
    latency_ms: float | None
    minutes: float | None
    photos: int = 0
    labels: int = 0


@dataclass(frozen=True)
class Measured:
    """How a rung did on the photos.

    Attributes:
        right: a "1" for each photo that it names right, a "0" for the others, in the order of the photos.
        ece: expected calibration error, in [0, 1].
        per_class: top-1 of each class; None for a class without photos.
        cost: of it.
    """

    right: str
    ece: float
    per_class: tuple[float | None, ...]
    cost: Cost

    @property
    def top1(self) -> float:
        """Share of right answers, in [0, 1]."""
        return self.right.count("1") / len(self.right)


@dataclass(frozen=True)
class Rung:
    """One way to the classifier.

    Attributes:
        name: one of ``RUNGS``.
        title: what it is, for people.
        measured: None where something is missing.
        missing: what that is, and what to do; empty where it was measured.
        note: what a reader must know of it.
        command: that makes it; empty where there is none.
    """

    name: str
    title: str
    measured: Measured | None = None
    missing: str = ""
    note: str = ""
    command: str = ""

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
            ArtifactError: the value is no rung.
        """
        try:
            measured = dict(value["measured"]) if value["measured"] is not None else None
            if measured is not None:
                measured.pop("top1")
                measured["cost"] = Cost(**measured["cost"])
                measured["per_class"] = tuple(measured["per_class"])
            return cls(**{**value, "measured": None if measured is None else Measured(**measured)})
        except (TypeError, KeyError, AttributeError) as error:
            raise ArtifactError(f"a stored rung of the ladder cannot be read ({error}). Measure it again.") from None


@dataclass(frozen=True)
class Difference:
    """One rung less another, on the same photos.

    Attributes:
        share: of right answers, in [-1, 1].
        low: end of the interval that holds 95 % of resampled differences.
        high: its other end.
        p: of the exact test of McNemar, in [0, 1].
    """

    share: float
    low: float
    high: float
    p: float

    @property
    def measurable(self) -> bool:
        """Whether chance alone would seldom make such a difference."""
        return self.p < LEVEL


def mcnemar_exact(only_first: int, only_second: int) -> float:
    """The two-sided p of "both are right equally often", from the photos on which just one of them is right.

    Under it, each such photo falls to either side like a fair coin.

    Args:
        only_first: photos that the first alone names right.
        only_second: photos that the second alone does.

    Returns:
        In (0, 1]; 1 where there is no such photo.

    Source: McNemar, Psychometrika 1947, in its exact form by the binomial distribution.
    """
    total, fewer = only_first + only_second, min(only_first, only_second)
    # Whole numbers: a sum of floats would lose the small terms of thousands of photos.
    tail = sum(math.comb(total, count) for count in range(fewer + 1))
    return float(min(1.0, 2 * tail / 2**total))


def difference(first: Measured, second: Measured, seed: int = 0) -> Difference:
    """How much more often the first is right than the second, with a bootstrap over photos and McNemar's test.

    Args:
        first: measured on the same photos as ``second``, in the same order.
        second: the other.
        seed: of the resamples.

    Raises:
        DataError: they were measured on another number of photos, or on none.

    Source: Efron, Annals of Statistics 1979, for the interval (percentiles). A photo adds -1, 0 or 1, so that the
    resampled sums are drawn from a multinomial distribution at once.
    """
    count = len(first.right)
    if count == 0 or count != len(second.right):
        raise DataError(f"two rungs of {count} and {len(second.right)} photos cannot be compared. Measure both again.")
    pairs = list(zip(first.right, second.right, strict=True))
    plus, minus = pairs.count(("1", "0")), pairs.count(("0", "1"))
    chances = [plus / count, minus / count, 1 - (plus + minus) / count]
    drawn_B3 = np.random.default_rng(seed).multinomial(count, chances, size=_RESAMPLES)
    low, high = np.quantile((drawn_B3[:, 0] - drawn_B3[:, 1]) / count, [0.025, 0.975])
    return Difference((plus - minus) / count, float(low), float(high), mcnemar_exact(plus, minus))


@dataclass(frozen=True)
class Recommendation:
    """What to do.

    Attributes:
        ship: name of the rung to ship; None where too little was measured.
        better_with: name of a rung that photos make measurably better, or as good for less; None where there is none.
        text: the same in one to three sentences.
        command: that makes the rung to ship; empty where it is the student, which is there.
    """

    ship: str | None
    better_with: str | None
    text: str
    command: str = ""


def recommend(rungs: Sequence[Rung]) -> Recommendation:
    """What follows from the measured rungs, by the rules at the top of this file."""
    found = {rung.name: rung for rung in rungs if rung.measured is not None}
    if OURS not in found or not {SMALL_TEACHER, TEACHER} & set(found):
        return Recommendation(None, None, "Nothing is recommended: the student and a teacher must both be measured.")
    ours = found[OURS]
    pick, dear = ours, list[Rung]()
    for name in (SMALL_TEACHER, TEACHER):
        tower = found.get(name)
        if tower is None:
            continue
        gap = _between(tower, pick)
        if gap.measurable and gap.share > 0:
            if _costs_at_most(tower, ours, MOST_COST):
                pick = tower
            else:
                dear.append(tower)
        elif not gap.measurable and _costs_at_most(tower, pick, SAME_COST):
            pick = tower
    sentences = [_first_sentence(pick, ours, found)]
    sentences += [_price(tower, pick, ours) for tower in dear[-1:] if _better(tower, pick)]
    if pick is ours:
        sentences += _of_controls(found)
    more = [found[name] for name in (SMALL_TEACHER_EXAMPLES, EXAMPLES, UNLABELLED) if name in found]
    better = [rung for rung in more if _better(rung, pick) and _costs_at_most(rung, ours, MOST_COST)]
    cheaper = [rung for rung in more if not _better(pick, rung) and _costs_at_most(rung, pick, 1 / SAME_COST)]
    best = max(better or cheaper, key=_top1, default=None)
    if best is not None:
        how = _gap(best, pick) if better else f"{_gap(best, pick)}, {_costs(best, pick)}"
        sentences.append(
            f"{'Better' if better else 'Cheaper'} with photos: {best.title} reaches {_percent(best)}, {how}."
        )
    return Recommendation(pick.name, None if best is None else best.name, " ".join(sentences), pick.command)


def ladder_json(rungs: Sequence[Rung], classes: Sequence[str]) -> dict[str, Any]:
    """All of it as JSON values.

    Returns:
        ``n`` photos (0 where nothing was measured), ``classes``, ``rungs``, ``against_ours`` (a difference a rung), and
        ``recommendation``.
    """
    ours = next((rung for rung in rungs if rung.name == OURS and rung.measured is not None), None)
    measured = [rung for rung in rungs if rung.measured is not None]
    against = {}
    for rung in measured if ours is not None else []:
        if rung.name != OURS and ours is not None:
            gap = _between(rung, ours)
            against[rung.name] = {**asdict(gap), "measurable": gap.measurable}
    return {
        "n": len(measured[0].measured.right) if measured and measured[0].measured else 0,
        "classes": list(classes),
        "rungs": [rung.to_json() for rung in rungs],
        "against_ours": against,
        "recommendation": asdict(recommend(rungs)),
    }


def _measured(rung: Rung) -> Measured:
    assert rung.measured is not None
    return rung.measured


def _between(first: Rung, second: Rung) -> Difference:
    return difference(_measured(first), _measured(second))


def _better(first: Rung, second: Rung) -> bool:
    gap = _between(first, second)
    return gap.measurable and gap.share > 0


def _top1(rung: Rung) -> float:
    return _measured(rung).top1


def _percent(rung: Rung) -> str:
    return f"{100 * _top1(rung):.1f} %"


def _ratios(rung: Rung, other: Rung) -> tuple[float, float] | None:
    """Bytes and milliseconds, as multiples of the other's; None where they are not known."""
    own, base = _measured(rung).cost, _measured(other).cost
    if not (own.onnx_bytes and own.latency_ms and base.onnx_bytes and base.latency_ms):
        return None
    return own.onnx_bytes / base.onnx_bytes, own.latency_ms / base.latency_ms


def _costs_at_most(rung: Rung, other: Rung, times: float) -> bool:
    """Neither file nor arithmetic above so many times the other's; what is not known is taken for more."""
    own, base = _measured(rung).cost, _measured(other).cost
    if not (own.onnx_bytes and own.gflop and base.onnx_bytes and base.gflop):
        return False
    return max(own.onnx_bytes / base.onnx_bytes, own.gflop / base.gflop) <= times


def _gap(first: Rung, second: Rung) -> str:
    gap = _between(first, second)
    if not gap.measurable:
        return "no measurable difference"
    return f"{100 * abs(gap.share):.1f} points {'more' if gap.share > 0 else 'less'} than {_called(second)}"


def _called(rung: Rung) -> str:
    return "the student" if rung.name == OURS else rung.title


def _costs(rung: Rung, other: Rung) -> str:
    ratios = _ratios(rung, other)
    if ratios is None:
        return "at a cost that was not measured"
    return f"at {ratios[0]:.1f} times the size and {ratios[1]:.1f} times the time a picture"


def _first_sentence(pick: Rung, ours: Rung, found: Mapping[str, Rung]) -> str:
    if pick is not ours:
        return (
            f"Do not distil: ship {pick.title}. It names {_percent(pick)} right, the student {_percent(ours)} "
            f"({_gap(pick, ours)}), {_costs(pick, ours)}."
        )
    beside = found.get(SMALL_TEACHER) or found[TEACHER]
    return (
        f"Ship the student: it names {_percent(ours)} right, {beside.title} {_percent(beside)} "
        f"({_gap(ours, beside)}), {_costs(beside, ours)}."
    )


def _price(tower: Rung, pick: Rung, ours: Rung) -> str:
    return (
        f"Where size and time do not count, {tower.title} reaches {_percent(tower)}, {_gap(tower, pick)}, "
        f"{_costs(tower, ours)}."
    )


def _of_controls(found: Mapping[str, Rung]) -> list[str]:
    """What it says of the synthetic images that pictures of nothing teach as well."""
    as_good = []
    for name in (NOISE, PROCEDURAL):
        if name in found:
            gap = _between(found[OURS], found[name])
            if not (gap.measurable and gap.share > 0):
                as_good.append(found[name])
    if not as_good:
        return []
    best = max(as_good, key=_top1)
    return [f"Its synthetic images earned nothing measurable: {best.title} reaches {_percent(best)}."]
