"""The same from Python as from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.duration import minutes_of
from clipstill.core.errors import ConfigError
from clipstill.core.files import sha256_json
from clipstill.runtime import Bundle, load_bundle
from clipstill.text.task import Task, parse_task
from clipstill.workflow.recipes import load_with_origins

if TYPE_CHECKING:
    from clipstill.commands.run import RunResult
    from clipstill.planning.plan import Plan
    from clipstill.workflow.settings import Settings

__all__ = ["add_class", "customize", "load_bundle", "plan", "remove_class", "run"]


def customize(
    classes: str | Sequence[str] | Path,
    out: str | Path | None = None,
    images: str | Path | None = None,
    examples: str | Path | None = None,
    unlabelled: str | Path | None = None,
    teacher: str | None = None,
    generator: str | None = None,
    student: str | None = None,
    recipe: str = "default",
    overrides: Mapping[str, Any] | Sequence[str] = (),
    seed: int | None = None,
    device: str | None = None,
) -> Bundle:
    """Make an image classifier from class names.

    A call that was interrupted goes on where it was; a call that was done before returns at once.

    Args:
        classes: names, a comma-separated text, or a ``.txt`` or ``.yaml`` file.
        out: the run folder; ``runs/FIRST-CLASSES-HASH`` below the working folder where None.
        images: real photos to measure on, one sub-folder a class.
        examples: a few example images of some or all classes, one sub-folder a class.
        unlabelled: a folder of photos without labels, which teach beside the synthetic images.
        teacher: such as ``"embedded-s"`` or ``"openclip:ViT-B-32/openai"``; the recipe's where None.
        generator: such as ``"pixels"``; joined by ``+``, several take turns; the recipe's where None.
        student: the recipe's where None.
        recipe: a shipped recipe or a YAML file.
        overrides: nested settings, or texts such as ``"synthesis.steps=40"``.
        seed: of everything random, at least 0; the recipe's where None.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``; the recipe's where None.

    Returns:
        The exported bundle, opened.

    Raises:
        ClipstillError: one of its kinds; the message says what is wrong, where, and what to do.

    Example:
        >>> bundle = customize(["dog", "elephant", "giraffe"], out="runs/zoo")  # doctest: +SKIP
        >>> bundle.predict("photo.jpg")[0].label  # doctest: +SKIP
        'dog'
    """
    task = parse_task(classes)
    return load_bundle(
        run(
            task,
            default_out(task) if out is None else Path(out),
            recipe=recipe,
            overrides=overrides,
            images=images,
            examples=examples,
            unlabelled=unlabelled,
            teacher=teacher,
            generator=generator,
            student=student,
            seed=seed,
            device=device,
        ).bundle
    )


def add_class(
    run: str | Path,
    classes: str | Sequence[str],
    examples: str | Path | None = None,
    images: str | Path | None = None,
    overrides: Sequence[str] = (),
    device: str | None = None,
) -> Bundle:
    """Add classes to a run; images are made of them alone.

    Args:
        run: the run folder.
        classes: one class, or several: ``"name"`` or ``"name: description"`` each.
        examples: example images, one sub-folder a class.
        images: real photos to measure on, instead of those that the run has.
        overrides: settings that are to differ from the run's, such as ``"growth.by_vector=false"``.
        device: instead of the run's.

    Returns:
        The new bundle, opened.

    Raises:
        ClipstillError: one of its kinds.

    Example:
        >>> bundle = add_class("runs/zoo", "crane: a large wading bird")  # doctest: +SKIP
    """
    from clipstill.commands.grow import add_classes

    names = [classes] if isinstance(classes, str) else list(classes)
    shown, measured = (None if folder is None else Path(folder) for folder in (examples, images))
    return load_bundle(add_classes(Path(run), names, shown, measured, overrides, device).bundle)


def remove_class(
    run: str | Path, names: str | Sequence[str], overrides: Sequence[str] = (), device: str | None = None
) -> Bundle:
    """Take classes out of a run; no image is made, and none is deleted.

    Args:
        run: the run folder.
        names: of one class, or of several.
        overrides: settings that are to differ from the run's.
        device: instead of the run's.

    Returns:
        The new bundle, opened.

    Raises:
        ClipstillError: one of its kinds.
    """
    from clipstill.commands.grow import remove_classes

    asked = [names] if isinstance(names, str) else list(names)
    return load_bundle(remove_classes(Path(run), asked, overrides, device).bundle)


def run(
    task: Task,
    out: Path,
    *,
    recipe: str = "default",
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    images: str | Path | None = None,
    examples: str | Path | None = None,
    unlabelled: str | Path | None = None,
    teacher: str | None = None,
    generator: str | None = None,
    student: str | None = None,
    budget: str | None = None,
    meta: str | None = None,
    launcher: str | None = None,
    address: str | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> RunResult:
    """As ``customize``, with a parsed task, a settings file, and everything that the run measured as its result.

    ``budget`` is the time for the whole run, such as ``"30min"``, by which settings that nobody gave are chosen;
    ``meta`` the kind of meta distillation.

    Raises:
        ClipstillError: one of its kinds.
    """
    from clipstill.commands.run import run as run_pipeline

    config, given = _settings(
        recipe,
        config_file,
        overrides,
        {
            "teacher.name": teacher,
            "generator.name": generator,
            "student.name": student,
            "distillation.meta": meta,
            "launch.launcher": launcher,
            "launch.address": address,
            "evaluation.images": _whole(images),
            "examples.images": _whole(examples),
            "unlabelled.images": _whole(unlabelled),
            "seed": seed,
            "device": device,
        },
    )
    return run_pipeline(config, task, out, budget_seconds=_seconds(budget), given=given)


def plan(
    classes: Task | str | Sequence[str] | Path,
    *,
    recipe: str = "default",
    config_file: Path | None = None,
    overrides: Mapping[str, Any] | Sequence[str] = (),
    images: str | Path | None = None,
    examples: str | Path | None = None,
    unlabelled: str | Path | None = None,
    teacher: str | None = None,
    generator: str | None = None,
    student: str | None = None,
    budget: str | None = None,
    seed: int | None = None,
    device: str | None = None,
    probe: bool = True,
) -> Plan:
    """Look at class names and settings before a run: what is doubtful, how well it may go, what it takes here.

    Args:
        classes: a task, or what ``customize`` takes.
        recipe: as ``customize``, and so are those not named here.
        budget: time for the whole run, such as ``"30min"``: the best settings that fit are chosen.
        probe: whether a few steps of the models are timed; else stored rates serve.

    Raises:
        ClipstillError: one of its kinds.

    Example:
        >>> plan("crane,heron,stork").findings[0].kind  # doctest: +SKIP
        'ambiguous'
    """
    from clipstill.commands.run import check_names, photos_of
    from clipstill.planning.plan import plan as plan_pipeline

    task = classes if isinstance(classes, Task) else parse_task(classes)
    config, given = _settings(
        recipe,
        config_file,
        overrides,
        {
            "teacher.name": teacher,
            "generator.name": generator,
            "student.name": student,
            "evaluation.images": _whole(images),
            "examples.images": _whole(examples),
            "unlabelled.images": _whole(unlabelled),
            "seed": seed,
            "device": device,
        },
    )
    config.check_together()
    seconds = _seconds(budget)
    photos = photos_of(config, task)
    check_names(config)
    return plan_pipeline(
        config,
        task,
        photos.measured,
        photos.examples,
        photos.unlabelled,
        budget_seconds=seconds,
        given=given,
        with_probe=probe,
    )


def _settings(
    recipe: str,
    config_file: Path | None,
    overrides: Mapping[str, Any] | Sequence[str],
    arguments: Mapping[str, Any],
) -> tuple[Settings, frozenset[str]]:
    """All settings, and the dotted names of those that were given beside the recipe."""
    texts = () if isinstance(overrides, Mapping) else tuple(overrides)
    values = dict(overrides) if isinstance(overrides, Mapping) else {}
    for name, value in arguments.items():
        section, _, key = name.partition(".")
        if value is not None:
            values[section] = {**values.get(section, {}), key: value} if key else value
    loaded = load_with_origins(recipe, config_file, texts, values)
    return loaded.settings, loaded.given


def _whole(path: str | Path | None) -> str | None:
    """A path that means the same from every folder."""
    return None if path is None else str(Path(path).resolve())


def _seconds(budget: str | None) -> float | None:
    """Of a budget.

    Raises:
        ConfigError: it is no duration, or none at all.
    """
    if budget is None:
        return None
    minutes = minutes_of(budget)
    if minutes <= 0:
        raise ConfigError(f"the budget '{budget}' leaves no time. Write it like 10min, 90s or 1h30min.")
    return 60 * minutes


def default_out(task: Task) -> Path:
    """``runs/dog-elephant-giraffe-1a2b3c4d``: the same classes lead to the same folder."""
    words = ["".join(letter if letter.isalnum() else "_" for letter in name.lower()) for name in task.names[:3]]
    return Path("runs") / f"{'-'.join(words)[:60]}-{sha256_json(task.to_json())[:8]}"
