"""Whether a classifier may be used, in words, and what to do next: run, card and report say the same.

The one number is the share of photos that are named right and answered: a photo that is refused does not count.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from clipstill.core.foresight import MEASURED_FROM, Foresight, known_best, unmeasured
from clipstill.core.progress import listed, percent, whole_percent

# Labelled photos below which nothing is called good or ready to ship: 50 have an error of up to 7 points by chance.
ENOUGH_PHOTOS = 50
# Chosen, not measured: the shares from which on a classifier is good, and weak.
_GOOD, _WEAK = 0.8, 0.5
# Share of the mistakes that five photos a class leave, on the mean of eight sets (docs/measured.md, "A few examples").
_LEFT_BY_FIVE = 0.5
# Chosen, not measured: a class of fewer right answers is named beside the verdict, from MEASURED_FROM of its photos on.
_NAMED_BELOW = 0.6
_STEPS = 3
LARGER_TEACHER = "openclip:ViT-B-32-quickgelu/openai"
UNMEASURED = Foresight("names alone", reason="nothing was measured")


@dataclass(frozen=True)
class Advice:
    """The verdict on a run's student, and what to do next."""

    # ``"good"``, ``"weak"`` or ``"do not use"``, with ``" so far"`` by few photos or where a class has none, and
    # ``", foretold"`` by no photo; or ``"not known"``.
    verdict: str
    text: str  # The same as a sentence, with the number, its interval, and what it follows from.
    # At most three, the most useful first, by what they are about: ``"photos"``, ``"measure"``, ``"describe"`` or
    # ``"teacher"``; each with a command where there is one.
    steps: Mapping[str, str]

    def facts(self, folder: str) -> dict[str, str]:
        """The command by which a run or bundle names a photo, and the next steps, by name."""
        steps = {f"next {number}": step for number, step in enumerate(self.steps.values(), 1)}
        return {"name a photo": f"clipstill predict {shlex.quote(folder)} photo.jpg", **steps}


@dataclass(frozen=True)
class Shipped:
    """A bundle that could ship."""

    name: str  # Of its student or teacher.
    folder: str
    onnx_bytes: int
    latency_ms: float

    def text(self) -> str:
        """``13.5 MB, 5.1 ms a picture``."""
        return f"{self.onnx_bytes / 1e6:.1f} MB, {self.latency_ms:.1f} ms a picture"


def which_to_ship(student: Shipped, small: Shipped, *, refuses: bool, run: str, recommended: str | None) -> str:
    """What the two bundles of a run can, and which of them to ship.

    Args:
        refuses: Whether the student can say "none of these".
        recommended: What a ladder on enough photos recommends; None where there is none.
    """
    smaller, asked = student.onnx_bytes < small.onnx_bytes, f"clipstill ladder {shlex.quote(run)} photos"
    abilities = "can refuse and be tuned on photos" if refuses else "answers always, and can be tuned on photos"
    if recommended is None:
        recommended = "Ship the student" if smaller else "Ship the student where it must refuse or be tuned"
        recommended += f". {ENOUGH_PHOTOS} photos tell which of the two is right more often: {asked}"
    return (
        f"{recommended.rstrip('.')}. "
        f"The student {student.name} ({student.folder}) takes {student.text()}; it {abilities}. "
        f"{small.name} without training ({small.folder}) takes {small.text()}; it answers always, and photos move only "
        f"its class vectors."
    )


def verdict(known: Foresight, evaluation: Mapping[str, Any] | None, classes: int) -> tuple[str, str]:
    """The verdict in a word, and as a sentence.

    Args:
        known: Share of the photos that are named right and answered.
        evaluation: What was measured, as JSON; None where nothing was.
        classes: Number of classes; guessing is right for one of them.
    """
    share, photos, missing = known.share, evaluation["n"] if evaluation else 0, unmeasured(evaluation)
    if known.photos is None or share is None:
        return "not known", f"Not known: {known.text()}."
    word = "good" if share >= _GOOD else "weak"
    if share < _WEAK or known.photos.low <= 1 / classes:
        word = "do not use"
    if photos < MEASURED_FROM:
        return f"{word}, foretold", f"{word.capitalize()}, by what can be foretold: right {known.text()}."
    lacking = [str(ENOUGH_PHOTOS)] if photos < ENOUGH_PHOTOS else []
    lacking += [f"photos of {listed(missing)}"] if missing else []
    sure = f"; it takes {' and '.join(lacking)} to be sure" if lacking else ""
    word = f"{word} so far" if lacking else word
    return word, f"{word.capitalize()}: right and answered {known.text()}{_weakest(evaluation)}{sure}."


def _weakest(evaluation: Mapping[str, Any] | None) -> str:
    """The class that is right least often, where that is seldom and its photos are enough to say so; else empty."""
    student = (evaluation or {}).get("student") or {}
    rows = zip(*(student.get(name) or () for name in ("classes", "per_class", "confusion")), strict=False)
    measured = [(share, name) for name, share, row in rows if sum(row) >= MEASURED_FROM]
    share, name = min(measured, default=(1.0, ""))
    return f"; least {name}, {percent(share)}" if share < _NAMED_BELOW else ""


def advise(
    known: Foresight,
    *,
    evaluation: Mapping[str, Any] | None,
    per_class: Mapping[str, float],
    classes: Sequence[str],
    doubtful: Sequence[str],
    examples: int,
    teacher: str,
    run: str,
) -> Advice:
    """The verdict on a run, and the next steps.

    Args:
        known: Share of the photos that are named right and answered.
        evaluation: What was measured, as JSON; None where nothing was.
        per_class: Measured or expected share of each class, in [0, 1]; may be empty.
        classes: Names of all classes.
        doubtful: Names that the plan warned of.
        examples: Number of labelled photos that were learned from.
        teacher: Name of the teacher.
        run: The run folder.
    """
    folder, steps = shlex.quote(run), {}
    if not examples:
        hardest = sorted(per_class, key=lambda name: per_class[name])[:3]
        most = f", above all of {listed(hardest)}" if hardest and len(classes) > len(hardest) else ""
        command = f"clipstill fine-tune {folder} --examples five_photos --out {shlex.quote(f'{run}-tuned')}"
        steps["photos"] = _give_photos(most, known, command)
    photos, missing = evaluation["n"] if evaluation else 0, unmeasured(evaluation)
    if photos < ENOUGH_PHOTOS or missing:
        steps["measure"] = _measure(folder, missing)
    if doubtful:
        steps["describe"] = f'Describe {listed(doubtful)} ("crane: a large wading bird"): clipstill plan shows how'
    if teacher.startswith("embedded"):
        steps["teacher"] = f"Try a larger teacher, where a model hub can be reached: --teacher {LARGER_TEACHER}"
    word, text = verdict(known, evaluation, len(classes))
    return Advice(word, text, dict(list(steps.items())[:_STEPS]))


def advise_of_bundle(
    foretold: Foresight, evaluation: Mapping[str, Any] | None, *, classes: int, folder: str, five_photos: str = ""
) -> Advice:
    """The same for a bundle that no whole run has made.

    Args:
        foretold: Share of the photos that it is expected to name right.
        evaluation: What was measured, as JSON; None where nothing was.
        classes: Number of classes.
        folder: The bundle, or the run folder around it.
        five_photos: What to type to learn from five photos of each class; empty where photos were learned from.
    """
    photos, missing = evaluation["n"] if evaluation else 0, unmeasured(evaluation)
    known = known_best(foretold.to_json(), evaluation)
    steps = {"photos": _give_photos("", known, five_photos)} if five_photos else {}
    if photos < ENOUGH_PHOTOS or missing:
        steps["measure"] = _measure(shlex.quote(folder), missing)
    return Advice(*verdict(known, evaluation, classes), steps)


def _measure(folder: str, missing: Sequence[str]) -> str:
    also = f", {listed(missing)} too" if missing else ""
    return f"Measure it on {ENOUGH_PHOTOS} photos or more, one folder a class{also}: clipstill evaluate {folder} photos"


def _give_photos(most: str, known: Foresight, command: str) -> str:
    gain = ""
    if known.photos is not None:
        then = whole_percent(1 - _LEFT_BY_FIVE * (1 - known.photos.share))
        gain = f" (they halved the mistakes of eight sets: from {known.photos.share_text()} to about {then})"
    return f"Give five photos of each class{most}; nothing lifts it more{gain}: {command}"
