"""The same from Python as from the command line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.files import sha256_json
from clipstill.pipeline.recipes import load_config
from clipstill.runtime import Bundle, load_bundle
from clipstill.text.task import Task, parse_task

if TYPE_CHECKING:
    from clipstill.pipeline.run import RunResult

__all__ = ["add_class", "customize", "load_bundle", "remove_class", "run"]


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
    from clipstill.pipeline.growing import add_classes

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
    from clipstill.pipeline.growing import remove_classes

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

    ``budget`` is the time to teach the student, such as ``"10min"``; ``meta`` the kind of meta distillation.

    Raises:
        ClipstillError: one of its kinds.
    """
    from clipstill.pipeline.run import run as run_pipeline

    texts = () if isinstance(overrides, Mapping) else tuple(overrides)
    values = dict(overrides) if isinstance(overrides, Mapping) else {}
    named = {
        ("teacher", "name"): teacher,
        ("generator", "name"): generator,
        ("student", "name"): student,
        ("distillation", "minutes"): budget,
        ("distillation", "meta"): meta,
        ("launch", "launcher"): launcher,
        ("launch", "address"): address,
        ("evaluation", "images"): None if images is None else str(Path(images).resolve()),
        ("examples", "images"): None if examples is None else str(Path(examples).resolve()),
        ("unlabelled", "images"): None if unlabelled is None else str(Path(unlabelled).resolve()),
    }
    for (section, key), value in named.items():
        if value is not None:
            values[section] = {**values.get(section, {}), key: value}
    values.update({key: value for key, value in (("seed", seed), ("device", device)) if value is not None})
    return run_pipeline(load_config(recipe, config_file, texts, values), task, out)


def default_out(task: Task) -> Path:
    """``runs/dog-elephant-giraffe-1a2b3c4d``: the same classes lead to the same folder."""
    words = ["".join(letter if letter.isalnum() else "_" for letter in name.lower()) for name in task.names[:3]]
    return Path("runs") / f"{'-'.join(words)[:60]}-{sha256_json(task.to_json())[:8]}"
