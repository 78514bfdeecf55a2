"""Which images, near misses and students of a run folder serve its present classes, and what is to be made anew.

It follows from the folder's ledger, the settings and the task alone, so that all ranks of torchrun find the same, and a
call that was killed goes on by the same cohorts. A cohort counts where its key is what the present settings make of it;
one that is not finished counts only for the classes that it was begun for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ClipstillError
from clipstill.core.files import read_json, read_manifest
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, Evidence, Growth, Ledger, Part, Taught
from clipstill.workflow.keys import NEAR_MISSES, STUDENT, SURROGATE, SettingKeys
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.store import STAGE_KEYS, STAGES_FOLDER

if TYPE_CHECKING:
    from clipstill.core.images import ImageFolder
    from clipstill.workflow.settings import Settings

CONFIG_FILE = "config.yaml"
TASK_FILE = "task.json"
COHORTS = "cohorts"
PHOTOS_GIVEN = "photos_given"


def grown(
    by: SettingKeys, task: Task, examples: ImageFolder | None, unlabelled: ImageFolder | None, ledger: Ledger
) -> tuple[Growth, Ledger]:
    """What serves the present classes, and the ledger with the cohorts that are new.

    Args:
        by: of the present settings.
        task: the present classes.
        examples: of the classes, where there are any.
        unlabelled: photos that teach too, where there are any.
        ledger: of the folder.
    """
    config, evidence = by.config, by.evidence(task, examples)
    valid = _valid(ledger.images, task, evidence, lambda cohort: by.images(cohort)[1]) if by.with_images else []
    taught = _reusable(by, task, evidence, unlabelled, ledger, {cohort.key for cohort in valid})
    image_parts: tuple[Part, ...] = ()
    if by.with_images:
        chosen = _chosen(valid, task, evidence.of_class, config.growth.redraw)
        image_parts = _parts(chosen, task, evidence, valid, draws=taught is None)
    near_parts: tuple[Part, ...] = ()
    if config.refusal.wanted:
        valid = _valid(ledger.near_misses, task, evidence, by.near_misses)
        chosen = _chosen(valid, task, {}, redraw=False)
        if config.refusal.near_misses != "auto" and chosen:
            # Given names, or a given number: that they are there is all that is asked.
            chosen = {name: chosen.get(name, next(iter(chosen.values()))) for name in task.names}
        near_parts = _parts(chosen, task, evidence, valid, draws=taught is None or not chosen)
    growth = Growth(
        tuple(_keyed(part, by.images(part.cohort)[1]) for part in image_parts),
        tuple(_keyed(part, by.near_misses(part.cohort)) for part in near_parts),
        evidence,
        taught,
    )
    return growth, replace(
        ledger,
        images=_recorded(ledger.images, growth.images),
        near_misses=_recorded(ledger.near_misses, growth.near_misses),
    )


def _valid(cohorts: Sequence[Cohort], task: Task, evidence: Evidence, key_of: Callable[[Cohort], str]) -> list[Cohort]:
    """Those that the present settings would make the same; one that is not finished must be makeable still."""
    return [each for each in cohorts if (each.done or each.is_made_for(task, evidence)) and key_of(each) == each.key]


def _chosen(valid: Sequence[Cohort], task: Task, of_class: Mapping[str, str], redraw: bool) -> dict[str, Cohort]:
    """The cohort of each class, for the classes that have one: drawn by the same words, and towards these examples."""
    found: dict[str, Cohort] = {}
    for name, description in zip(task.names, task.descriptions, strict=True):
        covering = [each for each in valid if each.covers(name, description)]
        same = [each for each in covering if each.evidence.of_class.get(name) == of_class.get(name)]
        # Images that were drawn towards other examples are still images of the class.
        usable = same or (covering if not redraw else [])
        if usable:
            found[name] = usable[0]
    return found


def _parts(
    chosen: Mapping[str, Cohort], task: Task, evidence: Evidence, valid: Sequence[Cohort], draws: bool
) -> tuple[Part, ...]:
    """Cohorts in use, and a new one for the classes without any, each with a number of its own."""
    used: dict[int, tuple[Cohort, list[str]]] = {}
    for name, cohort in chosen.items():
        used.setdefault(_place(valid, cohort), (cohort, []))[1].append(name)
    parts = [Part(cohort, tuple(names)) for _, (cohort, names) in sorted(used.items())]
    missing = tuple(name for name in task.names if name not in chosen)
    if missing and draws:
        parts.append(Part(Cohort(0, task, missing, evidence), missing))
    taken: set[int] = set()
    wanted = {part.cohort.number for part in parts}
    numbered = []
    for part in parts:
        number = part.cohort.number
        if number == 0 or number in taken:
            # A folder may have held several cohorts, one after the other; two of them in use cannot both lie there.
            spoken_for = taken | wanted | ({each.number for each in valid} if wanted - {0} else set())
            number = next(free for free in itertools.count(1) if free not in spoken_for)
        taken.add(number)
        numbered.append(Part(replace(part.cohort, number=number), part.used))
    return tuple(numbered)


def _place(valid: Sequence[Cohort], cohort: Cohort) -> int:
    return next(place for place, each in enumerate(valid) if each is cohort)


def _keyed(part: Part, key: str) -> Part:
    return replace(part, cohort=replace(part.cohort, key=key))


def _recorded(cohorts: Sequence[Cohort], parts: Sequence[Part]) -> tuple[Cohort, ...]:
    """The cohorts of a ledger with those in use: new ones at the end, the others with the number that they have now."""
    now = {part.cohort.key: part.cohort for part in parts}
    known = {each.key for each in cohorts}
    return (*(now.get(each.key, each) for each in cohorts), *(now[key] for key in now if key not in known))


def _reusable(
    by: SettingKeys,
    task: Task,
    evidence: Evidence,
    unlabelled: ImageFolder | None,
    ledger: Ledger,
    image_keys: set[str],
) -> Taught | None:
    """The latest student whose head can get other class vectors, where none was taught these very classes."""
    config = by.config
    if not config.growth.by_vector or config.student.head != "class-vectors" or config.has_prompts:
        return None

    def counts(student: Taught) -> bool:
        both = [name for name in student.task.names if name in task.names]
        vectors, with_examples = by.class_vectors(student.task, student.evidence), student.evidence.examples is not None
        return (
            student.evidence.learned is None
            and all(student.evidence.of_class.get(name) == evidence.of_class.get(name) for name in both)
            and _images_of(student.surrogate) <= image_keys
            and student.key == by.student(vectors, student.surrogate, with_examples, unlabelled, None)
        )

    found = [student for student in ledger.taught if counts(student)]
    if not found or any(student.is_of(task) for student in found):
        return None
    return found[-1]


def _images_of(surrogate: Any) -> set[str]:
    """Keys of the images that a student was taught on."""
    if surrogate is None:
        return set()
    return {surrogate} if isinstance(surrogate, str) else {str(key) for key, _ in surrogate}


def read_ledger(out: Path) -> Ledger:
    """What a run folder remembers; of one that has no ledger yet, what its only cohort must be.

    Raises:
        ArtifactError: the ledger is malformed.
    """
    stored = _stored_task(out)
    if stored is None:
        return Ledger()
    if COHORTS in stored:
        return Ledger.from_json(stored[COHORTS])
    ledger = _first_ledger(out, stored)
    # Meanwhile another rank may have written one, and other settings.
    again = _stored_task(out)
    return Ledger.from_json(again[COHORTS]) if again is not None and COHORTS in again else ledger


def in_use(out: Path, config: Settings, task: Task) -> Growth | None:
    """The cohorts that a finished run uses; None where it has but one of each, wherever its photos lie now.

    Raises:
        ArtifactError: the ledger is malformed.
        DataError: the folder has grown, and photos that it learned from are not where they were.
    """
    from clipstill.assembly.photos import examples_of, unlabelled_of

    ledger = read_ledger(out)
    if max(len(ledger.images), len(ledger.near_misses)) <= 1:
        return None
    return grown(SettingKeys(config), task, examples_of(config, task), unlabelled_of(config), ledger)[0]


def _stored_task(out: Path) -> dict[str, Any] | None:
    path = out / TASK_FILE
    stored = read_json(path) if path.is_file() else None
    return stored if isinstance(stored, dict) else None


def _first_ledger(out: Path, stored: Mapping[str, Any]) -> Ledger:
    """Of a folder that an earlier version of clipstill wrote. Whatever is not as it was is no cohort."""
    from clipstill.assembly.photos import examples_of

    try:
        task = Task.from_json(stored)
        config: Settings = load_settings(file=out / CONFIG_FILE)
        keys: Mapping[str, str] = read_json(out / STAGES_FOLDER / STAGE_KEYS)
        evidence = SettingKeys(config).evidence(task, examples_of(config, task))

        def cohorts(stage: str) -> tuple[Cohort, ...]:
            if stage not in keys:
                return ()
            return (Cohort(1, task, task.names, evidence, keys[stage], _is_done(out, stage, keys[stage])),)

        taught: tuple[Taught, ...] = ()
        if STUDENT in keys and _is_done(out, STUDENT, keys[STUDENT]):
            taught = (Taught(task, evidence, keys.get(SURROGATE), keys[STUDENT]),)
        return Ledger(cohorts(SURROGATE), cohorts(NEAR_MISSES), taught)
    except (ClipstillError, AttributeError):
        return Ledger()


def _is_done(out: Path, stage: str, key: str) -> bool:
    manifest = read_manifest(out / STAGES_FOLDER / stage)
    return manifest is not None and manifest.key == key
