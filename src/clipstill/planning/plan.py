"""What is to be known before a run: which class names will make trouble, how well it may go, and what it will take.

Shapes: C classes, D teacher dimensions.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_json, sha256_json
from clipstill.core.names import spoken
from clipstill.core.progress import say, span
from clipstill.planning.cost import Cost, Flops, Models, Work, cost_of, count_flops, probe, stored_rates
from clipstill.text.difficulty import ERROR
from clipstill.text.linter import WARNING, Finding, Linter
from clipstill.text.task import Task
from clipstill.workflow.keys import templates_of
from clipstill.workflow.settings import Settings

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.images import ImageFolder
    from clipstill.core.protocols import Teacher
    from clipstill.text.difficulty import Difficulty
    from clipstill.text.linter import Known

PLAN_FILE = "plan.json"
# Raised by one where equal settings would give another plan.
_VERSION = 1
# Findings that a run says on its own; all of them stand in the plan.
_SAID = 6


class _Rung(NamedTuple):
    """One step of quality.

    Attributes:
        images: share of the settings' images a class.
        steps: share of the steps of an image.
        side: share of its side.
        lessons: share of the steps of teaching.
        all_steps: of all weights after those of the head, where the settings train the head alone.
    """

    images: float
    steps: float
    side: float
    lessons: float
    all_steps: int = 0


# Each better and dearer than the one before. All weights train last: they cost a thousand times the time of a step for
# two points (docs/distillation.md).
_RUNGS = (
    _Rung(1 / 8, 1 / 4, 2 / 3, 1 / 4),
    _Rung(1 / 8, 1 / 2, 2 / 3, 1 / 2),
    _Rung(1 / 4, 1 / 2, 2 / 3, 1 / 2),
    _Rung(1 / 4, 2 / 3, 2 / 3, 1),
    _Rung(1 / 2, 2 / 3, 2 / 3, 1),
    _Rung(1 / 2, 2 / 3, 1, 1),
    _Rung(3 / 4, 2 / 3, 1, 1),
    _Rung(3 / 4, 1, 1, 1),
    _Rung(1, 1, 1, 1),
    _Rung(3 / 2, 1, 1, 1),
    _Rung(2, 1, 1, 1),
    _Rung(2, 1, 1, 1, 40),
    _Rung(2, 1, 1, 1, 80),
    _Rung(3, 1, 1, 1, 80),
    _Rung(4, 1, 1, 1, 160),
    _Rung(6, 1, 1, 1, 320),
    _Rung(8, 1, 1, 1, 640),
)
_HEAD_STEPS = 300
_SIDES, _SMALLEST_SIDE, _FEWEST_IMAGES, _FEWEST_STEPS, _FEWEST_LESSONS = 32, 64, 2, 15, 100


@dataclass(frozen=True)
class Plan:
    """What is to be known before a run.

    Attributes:
        classes: names.
        findings: of the linter, warnings first.
        expected_top1: of the teacher by names alone, on photos, an estimate; a student seldom gets higher.
        expected_per_class: the same for photos of each class.
        cost: of the run with these settings and ``settings``.
        settings: what the budget changed, by dotted name.
        budget_seconds: that the run was to fit into.
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
        return {
            "classes": list(self.classes),
            "findings": [one.to_json() for one in self.findings],
            "expected_top1": round(self.expected_top1, 4),
            "expected_per_class": {name: round(share, 4) for name, share in self.expected_per_class.items()},
            "cost": self.cost.to_json(),
            "settings": self.settings,
            "budget_seconds": self.budget_seconds,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Plan:
        """The plan of ``to_json``.

        Raises:
            ArtifactError: the value is none.
        """
        try:
            found = [{**one, "classes": tuple(one["classes"])} for one in value["findings"]]
            return cls(
                classes=tuple(value["classes"]),
                findings=tuple(Finding(**one) for one in found),
                expected_top1=float(value["expected_top1"]),
                expected_per_class=dict(value["expected_per_class"]),
                cost=Cost(**value["cost"]),
                settings=dict(value["settings"]),
                budget_seconds=value["budget_seconds"],
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"the stored plan cannot be read ({error}). Delete {PLAN_FILE} and run again."
            ) from None


def plan(
    config: Settings,
    task: Task,
    photos: ImageFolder | None = None,
    examples: ImageFolder | None = None,
    unlabelled: ImageFolder | None = None,
    budget_seconds: float | None = None,
    given: Collection[str] = (),
    with_probe: bool = True,
    models: Models | None = None,
) -> Plan:
    """Lint the names, estimate how well the teacher knows them, and what the run takes on this device.

    Args:
        config: all settings.
        task: at least two classes.
        photos: real ones that the run measures on.
        examples: labelled ones that it learns from.
        unlabelled: others that it learns from.
        budget_seconds: that the whole run is to take; the best settings that fit are chosen.
        given: dotted names of settings that the budget must leave alone.
        with_probe: whether a few real steps are timed; else stored rates and a test of a fraction of a second serve.
        models: that are loaded already.

    Raises:
        ClipstillError: a part cannot be found or loaded.
    """
    from clipstill.core.device import make_deterministic, pick_device
    from clipstill.distributed.launch import local_device, threads_of_this_process
    from clipstill.teachers import class_vectors
    from clipstill.text.difficulty import estimate
    from clipstill.text.templates import class_texts
    from clipstill.text.wordnet import wordnet

    if models is None:
        threads = config.threads or threads_of_this_process()
        make_deterministic(threads)
        device = pick_device(local_device(config.device))
        models = Models.load(config, len(task.names), device, threads)
    teacher = models.teacher
    templates = templates_of(config, teacher.templates)
    vectors_CD = class_vectors(teacher, class_texts(task, templates)).cpu()
    encode = functools.partial(_bare, teacher, templates[0])
    known, text_seconds = _known(teacher, templates[0])
    with_examples = frozenset() if examples is None else frozenset(label for _, label in examples.items)
    linter = Linter(task, vectors_CD, known, encode, wordnet())
    # Who has examples needs no better name.
    findings = [
        one for one in linter.findings() if not {task.names.index(name) for name in one.classes} <= with_examples
    ]
    expected = _shared(task, findings, estimate(linter, _imagenet(teacher, templates[0])))
    work = functools.partial(
        Work.of,
        classes=len(task.names),
        photos=0 if photos is None else len(photos.items),
        examples=0 if examples is None else len(examples.items),
        unlabelled=0 if unlabelled is None else len(unlabelled.items),
        templates=len(templates),
    )
    flops = functools.partial(_flops, models=models, vectors_CD=vectors_CD)
    rates = stored_rates(models, text_seconds)
    if with_probe:
        say("plan: timing a few steps on this device")
        rates = probe(config, models, vectors_CD, flops(config), text_seconds)

    def cost(settings: Mapping[str, Any]) -> Cost:
        changed = with_settings(config, settings)
        return cost_of(work(changed), flops(changed), rates, changed)

    settings: dict[str, Any] = {}
    if budget_seconds is not None:
        settings = choose_settings(config, budget_seconds, lambda chosen: cost(chosen).seconds, given)
    return Plan(
        classes=task.names,
        findings=tuple(findings),
        expected_top1=sum(expected.values()) / len(expected),
        expected_per_class=expected,
        cost=cost(settings),
        settings=settings,
        budget_seconds=budget_seconds,
    )


def _shared(task: Task, findings: Sequence[Finding], expected: Difficulty) -> dict[str, float]:
    """Expected accuracy by name; two names of one thing share their photos, however well the teacher knows it."""
    twice = {name for one in findings if one.kind in ("synonym", "plural") for name in one.classes}
    by_name = dict(zip(task.names, expected.per_class, strict=True))
    return {name: share / 2 if name in twice else share for name, share in by_name.items()}


def _bare(teacher: Teacher, template: str, texts: Sequence[str]) -> Tensor:
    """Unit vectors of words as a class name is read."""
    return teacher.encode_text([template.replace("{class}", spoken(text)) for text in texts]).float().cpu()


# Of the teachers of this process: a run after a run asks the same words.
_KNOWN: dict[tuple[str, str], tuple[Known, float]] = {}
_IMAGENET: dict[tuple[str, str], Tensor] = {}
_FLOPS: dict[str, Flops] = {}


def _known(teacher: Teacher, template: str) -> tuple[Known, float]:
    """Common words in the teacher's space, and the seconds that a text takes."""
    from clipstill.text.linter import Known
    from clipstill.text.near_misses import WORDS

    key = (teacher.weights_sha256, template)
    if key not in _KNOWN:
        encode = functools.partial(_bare, teacher, template)
        encode(WORDS[:2])  # Loads the tower.
        start = time.monotonic()
        known = Known.of(WORDS, encode)
        _KNOWN[key] = (known, (time.monotonic() - start) / len(WORDS))
    return _KNOWN[key]


def _knows_imagenet(teacher: Teacher) -> bool:
    """Whether the image tower learned from ImageNet's photos: what it knows are those classes and their kin."""
    from clipstill.core.protocols import BatchNormTeacher

    return isinstance(teacher, BatchNormTeacher) and bool(teacher.statistics_networks)


def _imagenet(teacher: Teacher, template: str) -> Tensor | None:
    """Vectors of the names of ImageNet's classes, for a teacher whose images are of them."""
    from clipstill.text.wordnet import wordnet

    if not _knows_imagenet(teacher):
        return None
    key = (teacher.weights_sha256, template)
    if key not in _IMAGENET:
        _IMAGENET[key] = _bare(teacher, template, wordnet().imagenet_words())
    return _IMAGENET[key]


def _flops(config: Settings, models: Models, vectors_CD: Tensor) -> Flops:
    """Counted once for each size and objective."""
    synthesis = config.synthesis.model_dump(include={"views", "image_size", "bn_weight", "natural_weight", "precision"})
    parts = [config.teacher.name, config.generator.name, config.student.model_dump(), config.distillation.batch]
    key = sha256_json([synthesis, parts, len(vectors_CD), config.synthesis.natural_networks])
    if key not in _FLOPS:
        _FLOPS[key] = count_flops(config, models, vectors_CD)
    return _FLOPS[key]


# --- the budget -------------------------------------------------------------------------------------------------------


def choose_settings(
    config: Settings, budget_seconds: float, seconds: Callable[[Mapping[str, Any]], float], given: Collection[str] = ()
) -> dict[str, Any]:
    """The best rung of the ladder that fits, as changed settings; the lowest one where none does.

    Args:
        config: all settings; the ladder begins below them and goes on above them.
        budget_seconds: for the whole run.
        seconds: what a run with changed settings takes.
        given: dotted names that must stay as they are.
    """
    chosen: dict[str, Any] | None = None
    for rung in _RUNGS:
        settings = _rung_settings(config, rung, given)
        if chosen is not None and seconds(settings) > budget_seconds:
            break
        chosen = settings
    return chosen or {}


def _rung_settings(config: Settings, rung: _Rung, given: Collection[str]) -> dict[str, Any]:
    """What one rung changes."""
    synthesis, distillation = config.synthesis, config.distillation
    side = synthesis.image_size
    if rung.side < 1:
        side = _scaled(side // _SIDES, rung.side, _SMALLEST_SIDE // _SIDES) * _SIDES
    wanted: dict[str, Any] = {
        "prompts.images_per_class": _scaled(config.prompts.images_per_class, rung.images, _FEWEST_IMAGES),
        "synthesis.steps": _scaled(synthesis.steps, rung.steps, _FEWEST_STEPS),
        "synthesis.image_size": side,
        "distillation.steps": _scaled(distillation.steps, rung.lessons, _FEWEST_LESSONS),
    }
    of_lessons = {"distillation.steps", "distillation.freeze", "distillation.head_steps", "distillation.minutes"}
    if distillation.minutes or distillation.epochs:
        del wanted["distillation.steps"]
    elif rung.all_steps and distillation.freeze == "backbone" and not of_lessons & set(given):
        wanted |= {
            "distillation.freeze": "bn",
            "distillation.head_steps": _HEAD_STEPS,
            "distillation.steps": rung.all_steps,
        }
    now = config.model_dump()

    def is_changed(name: str) -> bool:
        section, _, key = name.partition(".")
        return bool(wanted[name] != now[section][key])

    return {name: value for name, value in wanted.items() if name not in given and is_changed(name)}


def _scaled(value: int, share: float, least: int) -> int:
    """A share of a count, but not less than what is of any use, or than it was."""
    return max(min(value, least), round(value * share))


def with_settings(config: Settings, settings: Mapping[str, Any]) -> Settings:
    """The same settings, some of them changed.

    Raises:
        ConfigError: they cannot be used.
    """
    return config.changed(**settings)


# --- what a run keeps -------------------------------------------------------------------------------------------------


def plan_key(
    config: Settings, task: Task, photos: ImageFolder | None, examples: ImageFolder | None, budget: float | None
) -> str:
    """Equal keys mean that the plan is the same, or may be taken for it."""
    settings = config.model_dump(mode="json")
    del settings["launch"]
    return sha256_json(
        {
            "version": _VERSION,
            "settings": settings,
            "task": task.to_json(),
            "photos": None if photos is None else len(photos.items),
            "examples": None if examples is None else sorted({label for _, label in examples.items}),
            "budget": budget,
        }
    )


def stored_plan(out: Path, key: str) -> Plan | None:
    """The plan that the last call of these settings left in a run folder; None where there is none."""
    from clipstill.workflow.store import read_events

    try:
        told = [event for event in read_events(out) if event.get("event") == "plan"]
        if not told or told[-1].get("key") != key:
            return None
        return Plan.from_json(read_json(out / PLAN_FILE))
    except ArtifactError:
        return None


def say_plan(made: Plan) -> None:
    """What a run says of its plan before it starts."""
    for one in made.warnings[:_SAID]:
        say(f"warning: {one.message} {one.advice}")
    if len(made.warnings) > _SAID:
        say(f"warning: and {len(made.warnings) - _SAID} more; all of them: clipstill plan")
    hardest = sorted(made.expected_per_class, key=lambda name: made.expected_per_class[name])[:3]
    say(
        f"plan: by names alone the teacher is expected to be right on about {100 * made.expected_top1:.0f} % of photos"
        f" ({ERROR}; hardest: {', '.join(hardest)}); about {span(made.cost.seconds)} of work"
    )
    if made.budget_seconds is not None:
        say(f"plan: {choice_line(made)}")


def choice_line(made: Plan) -> str:
    """Why the budget led to these settings, in a line."""
    assert made.budget_seconds is not None
    budget, needed = span(made.budget_seconds), span(made.cost.seconds)
    changed = ", ".join(f"{name}={value}" for name, value in made.settings.items()) or "the settings as they are"
    if made.cost.seconds > made.budget_seconds:
        return (
            f"even the least that makes sense takes about {needed}, more than {budget}: {changed}. Fewer classes, a "
            "smaller teacher (embedded-s) or a faster device would fit."
        )
    return f"{changed}: the best that fits into {budget} on this device, about {needed}"


def write_settings(made: Plan, given: Path | None, out: Path) -> None:
    """Write a file for ``--config``: what the budget changed, on top of the settings file that was given.

    Raises:
        ConfigError: the given file cannot be read.
        ResourceError: the disk is full or not writable.
    """
    import yaml

    from clipstill.core.config import load_yaml, merge
    from clipstill.core.files import write_text

    values: dict[str, Any] = {} if given is None else load_yaml(given)
    for name, value in made.settings.items():
        section, _, key = name.partition(".")
        values = merge(values, {section: {key: value}})
    write_text(out, yaml.safe_dump(values, sort_keys=False, allow_unicode=True) if values else "{}\n")
