"""Add classes to a run, or remove some: the run's own settings, another task, the same folder.

What is done again follows from the cohorts of the folder, as for ``clipstill run`` with another list of classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from clipstill.commands.results import RunResult
from clipstill.commands.run import Job, is_done, run
from clipstill.core.errors import ConfigError, TaskError, did_you_mean
from clipstill.core.files import read_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import class_key
from clipstill.core.progress import say
from clipstill.distributed.torchrun import rank
from clipstill.text.task import Task, parse_class, parse_task
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.records import read_events
from clipstill.workflow.run import PHOTOS_LISTED
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import CONFIG_FILE, TASK_FILE, Store, read_task


def add_classes(
    out: Path,
    classes: Sequence[str],
    *,
    examples: Path | None = None,
    images: Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> RunResult:
    """Add classes to a run; arguments as for ``clipstill.add_class``. The same call resumes after a kill.

    Raises:
        TaskError: A class is there already, or its name is empty.
        ConfigError: The settings cannot be used, or the run has another folder of examples.
        ArtifactError: ``out`` is no run.
    """
    settings, task = _of_run(out, overrides, device, examples=examples, images=images)
    entries = [parse_class(text) for text in classes]
    there = {class_key(name): (name, text) for name, text in zip(task.names, task.descriptions, strict=True)}
    known = [entry for entry in entries if class_key(entry[0]) in there]
    grown = task
    if known:
        # An equal call may have been killed before its work was done.
        resumes = all(there.get(class_key(entry[0])) == entry for entry in entries)
        if not resumes or _was_done(settings, task, out):
            raise _exists(out, known[0][0], *there[class_key(known[0][0])])
    else:
        before = zip(task.names, task.descriptions, strict=True)
        grown = parse_task([f"{name}: {text}" if text else name for name, text in [*before, *entries]])
    return run(Job.of(_without_clashes(settings, grown), grown, out))


def remove_classes(
    out: Path, names: Sequence[str], *, overrides: Sequence[str] = (), device: str | None = None
) -> RunResult:
    """Remove classes from a run; their images stay in the folder. The same call resumes after a kill.

    Case, spaces, underscores and hyphens in the names do not count.

    Raises:
        TaskError: There is no such class, or fewer than two would be left.
        ConfigError: The settings cannot be used.
        ArtifactError: ``out`` is no run.
    """
    settings, task = _of_run(out, overrides, device)
    gone = {class_key(name) for name in names}
    there = {class_key(name) for name in task.names}
    if gone and not gone & there:
        drawn = {class_key(name) for cohort in Store(out).history().images for name in cohort.drawn}
        if gone <= drawn and not _was_done(settings, task, out):
            return run(Job.of(settings, task, out))
    for name in names:
        if class_key(name) not in there:
            raise TaskError(
                f"{out} has no class '{name}'.{did_you_mean(name, task.names)} Its classes: {', '.join(task.names)}."
            )
    left = [place for place, name in enumerate(task.names) if class_key(name) not in gone]
    if len(left) < 2:
        raise TaskError(
            f"{out} has {len(task.names)} classes, and {len(left)} would be left. A classifier needs at least two; add "
            f"another class first."
        )
    rest = Task(tuple(task.names[place] for place in left), tuple(task.descriptions[place] for place in left))
    return run(Job.of(_without_photos_of_others(settings, task, rest), rest, out))


def _of_run(
    out: Path, overrides: Sequence[str], device: str | None, examples: Path | None = None, images: Path | None = None
) -> tuple[Settings, Task]:
    """Settings and classes of a run, with what the call sets otherwise."""
    task = read_task(out)
    if read_json(out / TASK_FILE).get(PHOTOS_LISTED):
        raise ConfigError(
            f"{out} is a run of a protocol, whose photos are not among its settings. Add and remove classes in a run "
            f"of 'clipstill run'."
        )
    file = out / CONFIG_FILE
    old = load_settings(file=file).examples.images
    values: dict[str, Any] = {} if device is None else {"device": device}
    for section, folder in (("examples", examples), ("evaluation", images)):
        if folder is not None:
            values[section] = {"images": folder}
    if examples is not None and old is not None and old != examples.resolve():
        raise ConfigError(
            f"{out} learns from the examples in {old} already, and a run has one folder of them. Put those of the new "
            f"classes there, into sub-folders of their own, and leave --examples out."
        )
    return load_settings(file=file, overrides=overrides, values=values), task


def _was_done(settings: Settings, task: Task, out: Path) -> bool:
    """Whether an earlier call brought the run to its end; other ranks cannot tell it from the first rank's work."""
    if rank() > 0 or not is_done(Job.of(settings, task, out)):
        return False
    # A kill behind the last stage leaves all stages done and no end.
    return any(event["event"] == "end" for event in read_events(out)[-1:])


def _exists(out: Path, asked: str, name: str, description: str) -> TaskError:
    spelling = "" if asked == name else f", spelled '{name}'"
    described = f" ({description})" if description else ""
    return TaskError(
        f"{out} has the class '{asked}' already{spelling}{described}. Give the new one another name, or remove that "
        f"one first: clipstill remove-class {out} '{name}'."
    )


def _without_clashes(settings: Settings, task: Task) -> Settings:
    """Settings whose given near misses are none of the classes."""
    given = settings.refusal.near_misses
    if not isinstance(given, list):
        return settings
    classes = {class_key(name) for name in task.names}
    left = [name for name in given if class_key(name) not in classes]
    if left == given:
        return settings
    say(f"near misses: left out, since they are classes now: {', '.join(name for name in given if name not in left)}")
    return settings.changed(**{"refusal.near_misses": left})


def _without_photos_of_others(settings: Settings, task: Task, rest: Task) -> Settings:
    """Settings without a folder of examples or photos that shows none of the classes that are left."""
    for section, folder in (("examples", settings.examples.images), ("evaluation", settings.evaluation.images)):
        if folder is None or not folder.is_dir():
            continue
        shown = ImageFolder.open(folder, task.names, allow_unmatched=settings.allow_unmatched)
        if set(rest.names) <= set(shown.classes_without_images):
            say(f"{section}: {folder} shows none of the classes that are left, and is left out")
            settings = settings.changed(**{f"{section}.images": None})
    return settings
