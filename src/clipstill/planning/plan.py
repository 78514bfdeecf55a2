"""What is known before a run: doubtful class names, expected accuracy, time and memory.

Shapes: C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.device import memory_bytes
from clipstill.core.errors import ArtifactError
from clipstill.core.file_names import PLAN_FILE
from clipstill.core.files import sha256_json
from clipstill.core.foresight import Foresight
from clipstill.core.notebook import html_table
from clipstill.core.progress import say, span, whole_percent
from clipstill.core.records import read_record
from clipstill.planning.budget import choose_settings
from clipstill.planning.cost import Cost, cost_of
from clipstill.planning.timings import measure
from clipstill.text.task import Task
from clipstill.text.word_checks import WARNING, Finding
from clipstill.workflow.photos import Photos
from clipstill.workflow.records import read_events
from clipstill.workflow.settings import Settings

if TYPE_CHECKING:
    from clipstill.core.image_folder import ImageFolder
    from clipstill.workflow.models import Models

_PRINTED_WARNINGS = 6
# Photos that the plan of a run shows the teacher: a few seconds of work.
_QUICK_PHOTOS = 60
# Cost of a run with changed settings, by dotted name.
CostOf = Callable[[Mapping[str, Any]], Cost]
_LONG_S = 3600.0


@dataclass(frozen=True)
class Plan:
    """What is known before a run.

    Attributes:
        findings: Findings about the class names, warnings first.
        foresight: What share of its photos the teacher is expected to name right; a student is seldom better.
        expected_per_class: The same for each class, by its name alone; empty if it cannot be told.
        cost: What the run takes with the changed settings.
        limits: Warnings of more than an hour or more than the machine's memory, with the nearest settings that fit.
        settings: Settings that the budget changed, by dotted name.
        budget_seconds: Seconds that the run may take; None without a budget.
    """

    classes: tuple[str, ...]
    findings: tuple[Finding, ...]
    foresight: Foresight
    expected_per_class: dict[str, float]
    cost: Cost
    limits: tuple[str, ...]
    settings: dict[str, Any]
    budget_seconds: float | None

    def expected_text(self, name: str) -> str:
        """``94 %``, or ``94 % if a lifting device is meant`` of a class that the teacher takes for that."""
        taken_for = {one.classes[0]: one.taken_for for one in self.warnings}.get(name)
        share = whole_percent(self.expected_per_class[name])
        return f"{share} if {taken_for} is meant" if taken_for else share

    @property
    def warnings(self) -> list[Finding]:
        """Findings that are likely to cost accuracy."""
        return [finding for finding in self.findings if finding.level == WARNING]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        from pydantic import TypeAdapter

        return dict(TypeAdapter(Plan).dump_python(self, mode="json"))

    def _repr_html_(self) -> str:
        findings = {", ".join(one.classes): one.line() for one in self.findings}
        return html_table(
            {
                "expected top-1": self.foresight.text(),
                "time": span(self.cost.seconds),
                "images": self.cost.images,
                **findings,
            }
        )


def plan(
    settings: Settings,
    task: Task,
    photos: Photos,
    *,
    models: Models,
    budget_seconds: float | None = None,
    fixed: Collection[str] = (),
    quick: bool = False,
) -> Plan:
    """Check the class names, estimate how well the teacher knows them, and time what the run takes on this device.

    Args:
        task: At least two classes.
        budget_seconds: Time for the whole run; the best settings that fit are chosen.
        fixed: Dotted names of settings that the budget leaves as they are.
        quick: Whether to look at fewer photos.
    """
    from clipstill.assembly.class_vectors import refuse_equal, templates_of, text_vectors
    from clipstill.assembly.foresight import MOST_LOOKED_AT, foresee_by_names, linter_of, sharpened

    teacher = models.teacher
    if not quick:
        say(f"plan: checking {len(task.names)} class names")
    templates = templates_of(settings, teacher)
    vectors_CD = text_vectors(teacher, task, settings)
    if not settings.has_prompts:  # Learned prompts read names alone, and examples teach them.
        refuse_equal(task, vectors_CD, photos.examples)
    with_examples = {task.names[label] for _, label in photos.examples.items} if photos.examples else set()
    linter = linter_of(teacher, task, vectors_CD, settings, with_examples=with_examples)
    findings = linter.findings()
    foresight, expected = foresee_by_names(linter, findings, teacher, settings)
    foresight = sharpened(
        foresight,
        teacher,
        vectors_CD,
        photos=photos,
        settings=settings,
        device=models.device,
        most=_QUICK_PHOTOS if quick else MOST_LOOKED_AT,
    )
    if not quick:
        say("plan: timing a few steps on this device")
    trains_all = settings.distillation.freeze != "backbone" or budget_seconds is not None
    timings = measure(settings, task, models, class_vectors_CD=vectors_CD, trains_all=trains_all)

    def cost(changed: Mapping[str, Any]) -> Cost:
        return cost_of(
            settings.changed(**changed),
            timings,
            classes=len(task.names),
            templates=len(templates),
            photos=_number(photos.measured),
            **photos.counts,
        )

    def fitting(seconds: float) -> dict[str, Any]:
        return choose_settings(settings, seconds, fixed, lambda each: cost(each).seconds)

    changed = {} if budget_seconds is None else fitting(budget_seconds)
    shorter = fitting(_LONG_S) if budget_seconds is None and cost({}).seconds > _LONG_S else {}
    return Plan(
        classes=task.names,
        findings=tuple(findings),
        foresight=foresight,
        expected_per_class=expected,
        cost=cost(changed),
        limits=_limits(settings, changed, cost, shorter=shorter, available=memory_bytes(models.device)),
        settings=changed,
        budget_seconds=budget_seconds,
    )


def _limits(
    settings: Settings, changed: Mapping[str, Any], cost: CostOf, *, shorter: Mapping[str, Any], available: int | None
) -> tuple[str, ...]:
    """Warnings of a run of more than an hour or more than the memory of its device, with settings that fit."""
    now, found = cost(changed), []
    if shorter:
        found.append(
            f"the run takes about {span(now.seconds)} on this device. {_assignments(shorter)} would take about "
            f"{span(cost(shorter).seconds)}; --budget TIME chooses such settings."
        )
    if available is not None and now.memory_bytes > available:
        smaller = _smaller(settings.changed(**changed), lambda more: cost({**changed, **more}), available)
        needed = cost({**changed, **smaller}).memory_bytes
        advice = f"{_assignments(smaller)} would need {_gigabytes(needed)}."
        if needed > available:
            advice = "Smaller images or models would need less."
        found.append(
            f"the run needs about {_gigabytes(now.memory_bytes)} of memory, and there are {_gigabytes(available)}. "
            f"{advice}"
        )
    return tuple(found)


def _smaller(settings: Settings, cost: CostOf, available: int) -> dict[str, Any]:
    """Halved sizes of the groups and batches that are in memory at once, so that a run fits if they can make it fit."""
    changed: dict[str, Any] = {}
    sizes = {"synthesis.group_size": settings.synthesis.group_size, "distillation.batch": settings.distillation.batch}
    for name, size in sizes.items():
        halved = changed
        while cost(halved).memory_bytes > available and size > 3:  # A batch has two images or more.
            size //= 2
            halved = {**changed, name: size}
        if cost(halved).memory_bytes < cost(changed).memory_bytes:
            changed = halved
    return changed


def _assignments(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in settings.items())


def _gigabytes(count: float) -> str:
    return f"{count / 1e9:.1f} GB"


def _number(folder: ImageFolder | None) -> int:
    return 0 if folder is None else len(folder.items)


def plan_key(settings: Settings, task: Task, photos: Photos, budget_seconds: float | None) -> str:
    """Hash of what a plan depends on; a stored plan with an equal key is used again."""
    examples = photos.examples
    depends_on = {
        "settings": settings.model_dump(mode="json", exclude={"launch", "log"}),
        "task": task.to_json(),
        "photos": _number(photos.measured),
        "examples": None if examples is None else sorted({label for _, label in examples.items}),
        "budget": budget_seconds,
    }
    return sha256_json(depends_on)


def stored_plan(out: Path, key: str) -> Plan | None:
    """The last plan in a run folder, if it has this key and can be read."""
    try:
        events = [event for event in read_events(out) if event.get("event") == "plan"]
        if not events or events[-1].get("key") != key:
            return None
        return read_record(out / PLAN_FILE, Plan)
    except ArtifactError:
        return None


def say_plan(plan: Plan) -> None:
    """Print the warnings and expectations of a run before it starts."""
    for limit in plan.limits:
        say(f"warning: {limit}")
    for finding in plan.warnings[:_PRINTED_WARNINGS]:
        say(f"warning: {finding.line()}")
    if len(plan.warnings) > _PRINTED_WARNINGS:
        say(f"warning: and {len(plan.warnings) - _PRINTED_WARNINGS} more; all of them: clipstill plan")
    hardest = sorted(plan.expected_per_class, key=lambda name: plan.expected_per_class[name])[:3]
    by_class = f"; hardest: {', '.join(hardest)}" if hardest else ""
    say(f"plan: photos that the teacher is expected to name right: {plan.foresight.text()}{by_class}")
    say(f"plan: about {span(plan.cost.seconds)} of work")
    if plan.budget_seconds is not None:
        say(f"plan: {choice_line(plan)}")


def choice_line(plan: Plan) -> str:
    """The settings that the budget led to and the time they take, as one line."""
    assert plan.budget_seconds is not None
    budget, needed = span(plan.budget_seconds), span(plan.cost.seconds)
    changed = _assignments(plan.settings) or "the settings as they are"
    if plan.cost.seconds > plan.budget_seconds:
        return (
            f"even the least that makes sense takes about {needed}, more than {budget}: {changed}. Fewer classes, a "
            "smaller teacher (embedded-s) or a faster device would fit."
        )
    return f"{changed}: the best that fits into {budget} on this device, about {needed}"
