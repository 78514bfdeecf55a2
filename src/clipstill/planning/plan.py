"""Before a run: which class names will make trouble, how well it may go, and what it will take.

Shapes: C classes, D teacher dimensions.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_json, sha256_json
from clipstill.core.names import spoken
from clipstill.core.notebook import html_table, percent
from clipstill.core.progress import say, span
from clipstill.planning.budget import Budget, choose_settings, with_settings
from clipstill.planning.cost import Cost, cost_of, measure
from clipstill.text.difficulty import ERROR
from clipstill.text.linter import WARNING, Finding, Linter
from clipstill.text.task import Task
from clipstill.workflow.models import Models
from clipstill.workflow.photos import Photos
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import read_events

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.images import ImageFolder
    from clipstill.core.protocols import Teacher
    from clipstill.text.difficulty import Difficulty
    from clipstill.text.linter import Known

PLAN_FILE = "plan.json"
# Warnings that a run prints; the plan holds all of them.
_PRINTED = 6


@dataclass(frozen=True)
class Plan:
    """What is known before a run.

    Attributes:
        classes: Class names.
        findings: Findings about the names, warnings first.
        expected_top1: Expected accuracy of the teacher on photos by names alone, in [0, 1]; a student is seldom better.
        expected_per_class: Expected accuracy on photos of each class.
        cost: What the run takes with the changed settings.
        settings: Settings that the budget changed, by dotted name.
        budget_seconds: Seconds that the run may take; None without a budget.
    """

    classes: tuple[str, ...]
    findings: tuple[Finding, ...]
    expected_top1: float
    expected_per_class: dict[str, float]
    cost: Cost
    settings: dict[str, Any]
    budget_seconds: float | None

    @property
    def warnings(self) -> list[Finding]:
        """Findings that cost quality."""
        return [one for one in self.findings if one.level == WARNING]

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        from pydantic import TypeAdapter

        return dict(TypeAdapter(Plan).dump_python(self, mode="json"))

    def _repr_html_(self) -> str:
        findings = {", ".join(one.classes): f"{one.message} {one.advice}" for one in self.findings}
        return html_table(
            {
                "expected top-1": percent(self.expected_top1),
                "time": span(self.cost.seconds),
                "images": self.cost.images,
                **findings,
            }
        )

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """Read the values of ``to_json``.

        Raises:
            ArtifactError: The value is no plan.
        """
        from pydantic import TypeAdapter, ValidationError

        try:
            return TypeAdapter(Plan).validate_python(value)
        except ValidationError as error:
            raise ArtifactError(
                f"the stored plan cannot be read ({error}). Delete {PLAN_FILE} and run again."
            ) from None


def plan(
    settings: Settings,
    task: Task,
    photos: Photos,
    *,
    budget: Budget | None = None,
    models: Models | None = None,
    quick: bool = False,
) -> Plan:
    """Check the class names, estimate how well the teacher knows them, and time what the run takes on this device.

    Args:
        settings: All settings.
        task: At least two classes.
        photos: Real photos of the run.
        budget: Time for the whole run; the best settings that fit are chosen.
        models: Models that are loaded already.
        quick: Whether to time the smallest batches only, which is less exact.

    Raises:
        ClipstillError: A part cannot be found or loaded.
    """
    from clipstill.assembly.class_vectors import templates_of
    from clipstill.core.device import make_deterministic
    from clipstill.distributed.torchrun import threads_of_this_process
    from clipstill.teachers import class_vectors
    from clipstill.text.difficulty import estimate
    from clipstill.text.templates import class_texts

    if models is None:
        make_deterministic(settings.threads or threads_of_this_process())
        models = Models(settings)
    teacher = models.teacher
    templates = templates_of(settings, teacher)
    vectors_CD = class_vectors(teacher, class_texts(task, templates)).cpu()
    encode = functools.partial(_encode, teacher, templates[0])
    known, imagenet_KD, seconds_per_text = vocabulary(teacher, templates[0])
    linter = Linter(task, vectors_CD, known, encode)
    with_examples = {task.names[label] for _, label in photos.examples.items} if photos.examples else set()
    # A class with examples needs no better name.
    findings = [one for one in linter.findings() if not with_examples.issuperset(one.classes)]
    expected = _expected(task, findings, estimate(linter, imagenet_KD))
    if not quick:
        say("plan: timing a few steps on this device")
    timings = measure(settings, models, vectors_CD, seconds_per_text=seconds_per_text, quick=quick)

    def cost(changed: Mapping[str, Any]) -> Cost:
        return cost_of(
            with_settings(settings, changed),
            timings,
            classes=len(task.names),
            templates=len(templates),
            photos=_number(photos.measured),
            examples=_number(photos.examples),
            unlabelled=_number(photos.unlabelled),
        )

    changed = {} if budget is None else choose_settings(settings, budget, lambda each: cost(each).seconds)
    return Plan(
        classes=task.names,
        findings=tuple(findings),
        expected_top1=round(sum(expected.values()) / len(expected), 4),
        expected_per_class=expected,
        cost=cost(changed),
        settings=changed,
        budget_seconds=None if budget is None else budget.seconds,
    )


def _number(folder: ImageFolder | None) -> int:
    return 0 if folder is None else len(folder.items)


def _expected(task: Task, findings: Sequence[Finding], difficulty: Difficulty) -> dict[str, float]:
    """Expected accuracy by name; two names of one thing share its photos, however well the teacher knows it."""
    twice = {name for one in findings if one.kind in ("synonym", "plural") for name in one.classes}
    by_name = dict(zip(task.names, difficulty.per_class, strict=True))
    return {name: round(share / 2 if name in twice else share, 4) for name, share in by_name.items()}


def _encode(teacher: Teacher, template: str, texts: Sequence[str]) -> Tensor:
    """Unit vectors of words, each read as a class name."""
    return teacher.encode_text([template.replace("{class}", spoken(text)) for text in texts]).float().cpu()


# Further runs of this process ask for the same words.
_VOCABULARIES: dict[tuple[str, str], tuple[Known, Tensor | None, float]] = {}


def vocabulary(teacher: Teacher, template: str) -> tuple[Known, Tensor | None, float]:
    """Encode common words, and ImageNet's class names for a teacher whose image tower learned from ImageNet.

    Args:
        teacher: Reads the words.
        template: Sentence around each word.

    Returns:
        The words, unit vectors of the class names (None for other teachers), and the seconds that a text takes.
    """
    from clipstill.core.protocols import BatchNormTeacher
    from clipstill.text.linter import Known
    from clipstill.text.near_misses import WORDS
    from clipstill.text.wordnet import wordnet

    key = (teacher.weights_sha256, template)
    if key not in _VOCABULARIES:
        encode = functools.partial(_encode, teacher, template)
        encode(WORDS[:2])  # Loads the tower.
        start = time.monotonic()
        known = Known(WORDS, encode(WORDS))
        seconds = (time.monotonic() - start) / len(WORDS)
        of_imagenet = isinstance(teacher, BatchNormTeacher) and bool(teacher.statistics_networks)
        imagenet_KD = encode(wordnet().imagenet_words()) if of_imagenet else None
        _VOCABULARIES[key] = (known, imagenet_KD, seconds)
    return _VOCABULARIES[key]


def plan_key(settings: Settings, task: Task, photos: Photos, budget_seconds: float | None) -> str:
    """The key of a plan; with equal keys a stored plan is used again."""
    values = settings.model_dump(mode="json")
    del values["launch"]
    examples = photos.examples
    return sha256_json(
        {
            "settings": values,
            "task": task.to_json(),
            "photos": _number(photos.measured),
            "examples": None if examples is None else sorted({label for _, label in examples.items}),
            "budget": budget_seconds,
        }
    )


def stored_plan(out: Path, key: str) -> Plan | None:
    """The plan that the last call with these settings left in a run folder; None where there is none."""
    try:
        events = [event for event in read_events(out) if event.get("event") == "plan"]
        if not events or events[-1].get("key") != key:
            return None
        return Plan.from_json(read_json(out / PLAN_FILE))
    except ArtifactError:
        return None


def say_plan(plan: Plan) -> None:
    """Print the warnings and expectations of a run before it starts."""
    for one in plan.warnings[:_PRINTED]:
        say(f"warning: {one.message} {one.advice}")
    if len(plan.warnings) > _PRINTED:
        say(f"warning: and {len(plan.warnings) - _PRINTED} more; all of them: clipstill plan")
    hardest = sorted(plan.expected_per_class, key=lambda name: plan.expected_per_class[name])[:3]
    say(
        f"plan: by names alone the teacher is expected to be right on about {100 * plan.expected_top1:.0f} % of photos"
        f" ({ERROR}; hardest: {', '.join(hardest)}); about {span(plan.cost.seconds)} of work"
    )
    if plan.budget_seconds is not None:
        say(f"plan: {choice_line(plan)}")


def choice_line(plan: Plan) -> str:
    """Say in a line which settings the budget led to, and why."""
    assert plan.budget_seconds is not None
    budget, needed = span(plan.budget_seconds), span(plan.cost.seconds)
    changed = ", ".join(f"{name}={value}" for name, value in plan.settings.items()) or "the settings as they are"
    if plan.cost.seconds > plan.budget_seconds:
        return (
            f"even the least that makes sense takes about {needed}, more than {budget}: {changed}. Fewer classes, a "
            "smaller teacher (embedded-s) or a faster device would fit."
        )
    return f"{changed}: the best that fits into {budget} on this device, about {needed}"
