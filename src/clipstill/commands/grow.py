"""Classes that come to a run, or leave it: the run's own settings, another task, the same folder.

What is done again follows from ``growth.grown``, as for ``clipstill run`` with another list of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.commands.run import RunResult, is_done, run
from clipstill.core.errors import ArtifactError, ConfigError, TaskError, did_you_mean
from clipstill.core.files import read_json
from clipstill.core.images import ImageFolder
from clipstill.core.names import class_key
from clipstill.core.progress import say
from clipstill.distributed.launch import rank
from clipstill.text.task import Task, parse_class, parse_task
from clipstill.workflow.growth import CONFIG_FILE, PHOTOS_GIVEN, TASK_FILE, read_ledger
from clipstill.workflow.recipes import load_config
from clipstill.workflow.store import read_run_marker

if TYPE_CHECKING:
    from clipstill.workflow.settings import RunConfig


def add_classes(
    out: Path,
    classes: Sequence[str],
    examples: Path | None = None,
    images: Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> RunResult:
    """Add classes to a run; they come last. A call that was killed goes on by the same call.

    Args:
        out: the run folder, finished or not.
        classes: ``name`` or ``name: description`` each.
        examples: example images, one sub-folder a class; of the classes that are added, or of others too.
        images: real photos to measure on, instead of those that the run has.
        overrides: settings that are to differ from the run's, such as ``"growth.by_vector=false"``.
        device: instead of the run's.

    Raises:
        TaskError: a class is there already, or its name is empty.
        ConfigError: the run's settings cannot be used, or it has other examples already.
        ArtifactError: ``out`` is no run.
        ClipstillError: as ``clipstill.commands.run.run``.
    """
    config, task = _of_run(out, overrides, {"examples": examples, "evaluation": images}, device)
    entries = [parse_class(text) for text in classes]
    there = {class_key(name): (name, told) for name, told in zip(task.names, task.descriptions, strict=True)}
    known = [entry for entry in entries if class_key(entry[0]) in there]
    if known:
        # Its own call may have been killed before the work was done.
        goes_on = all(there.get(class_key(entry[0])) == entry for entry in entries)
        if not goes_on or _was_done(config, task, out):
            raise _exists(out, known[0][0], *there[class_key(known[0][0])])
        grown = task
    else:
        grown = parse_task([*_lines(task), *(_line(name, told) for name, told in entries)])
    return run(_without_clashes(config, grown), grown, out)


def remove_classes(
    out: Path, names: Sequence[str], overrides: Sequence[str] = (), device: str | None = None
) -> RunResult:
    """Take classes out of a run; their images stay in the folder. A call that was killed goes on by the same call.

    Args:
        out: the run folder, finished or not.
        names: of the classes; case, spaces, underscores and hyphens do not count.
        overrides: settings that are to differ from the run's.
        device: instead of the run's.

    Raises:
        TaskError: no such class, or fewer than two would be left.
        ConfigError: the run's settings cannot be used.
        ArtifactError: ``out`` is no run.
        ClipstillError: as ``clipstill.commands.run.run``.
    """
    config, task = _of_run(out, overrides, {}, device)
    gone = {class_key(name) for name in names}
    there = {class_key(name) for name in task.names}
    if not gone & there:
        drawn = {class_key(name) for cohort in read_ledger(out).images for name in cohort.drawn}
        if gone and gone <= drawn and not _was_done(config, task, out):
            return run(config, task, out)
    for name in names:
        if class_key(name) not in there:
            raise TaskError(
                f"{out} has no class '{name}'.{did_you_mean(name, task.names)} Its classes: {', '.join(task.names)}."
            )
    left = [place for place, name in enumerate(task.names) if class_key(name) not in gone]
    if len(left) < 2:
        raise TaskError(
            f"{out} has {len(task.names)} classes, and {len(left)} would be left. A classifier needs at least two; add "
            f"what else it is to know first."
        )
    rest = Task(tuple(task.names[place] for place in left), tuple(task.descriptions[place] for place in left))
    return run(_without_photos_of_others(config, task, rest), rest, out)


def _of_run(
    out: Path, overrides: Sequence[str], folders: Mapping[str, Path | None], device: str | None
) -> tuple[RunConfig, Task]:
    """Settings, with what the call sets otherwise, and classes of a run."""
    read_run_marker(out)
    settings, stored = out / CONFIG_FILE, out / TASK_FILE
    if not settings.is_file() or not stored.is_file():
        raise ArtifactError(f"{out} was not begun: it has no settings yet. Run 'clipstill run --out {out}' first.")
    told = read_json(stored)
    task = Task.from_json(told)
    if told.get(PHOTOS_GIVEN):
        raise ConfigError(
            f"{out} is a run of a protocol, whose photos are not among its settings. Add and remove classes in a run "
            f"of 'clipstill run'."
        )
    before = load_config(file=settings)
    values: dict[str, Any] = {} if device is None else {"device": device}
    for section, folder in folders.items():
        if folder is not None:
            values[section] = {"images": str(folder.resolve())}
    old = before.examples.images
    if "examples" in values and old is not None and old.resolve() != Path(values["examples"]["images"]):
        raise ConfigError(
            f"{out} learns from the examples in {old} already, and a run has one folder of them. Put those of the new "
            f"classes there, into sub-folders of their own, and leave --examples out."
        )
    return load_config(file=settings, overrides=overrides, values=values), task


def _was_done(config: RunConfig, task: Task, out: Path) -> bool:
    """Whether an earlier call brought the run to its end; another rank's first one may have, a moment ago."""
    return rank() == 0 and is_done(config, task, out)


def _exists(out: Path, asked: str, name: str, description: str) -> TaskError:
    spelling = "" if asked == name else f", spelled '{name}'"
    told = f" ({description})" if description else ""
    return TaskError(
        f"{out} has the class '{asked}' already{spelling}{told}. Give the new one another name, or remove that one "
        f"first: clipstill remove-class {out} '{name}'."
    )


def _line(name: str, description: str) -> str:
    return f"{name}: {description}" if description else name


def _lines(task: Task) -> list[str]:
    return [_line(name, description) for name, description in zip(task.names, task.descriptions, strict=True)]


def _without_clashes(config: RunConfig, task: Task) -> RunConfig:
    """Settings whose given near misses are none of the classes."""
    given = config.refusal.near_misses
    if not isinstance(given, list):
        return config
    classes = {class_key(name) for name in task.names}
    left = [name for name in given if class_key(name) not in classes]
    if left == given:
        return config
    say(f"near misses: left out, since they are classes now: {', '.join(name for name in given if name not in left)}")
    return config.model_copy(update={"refusal": config.refusal.model_copy(update={"near_misses": left})})


def _without_photos_of_others(config: RunConfig, task: Task, rest: Task) -> RunConfig:
    """Settings without a folder of examples or photos that shows none of the classes any more."""
    for section in ("examples", "evaluation"):
        folder = getattr(config, section).images
        if folder is None or not folder.is_dir():
            continue
        if set(rest.names) <= set(ImageFolder.open(folder, task.names).classes_without_images):
            say(f"{section}: {folder} shows none of the classes that are left, and is left out")
            changed = getattr(config, section).model_copy(update={"images": None})
            config = config.model_copy(update={section: changed})
    return config
