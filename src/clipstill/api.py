"""The public API: what the command line does, from Python.

All functions take keywords. Results are typed, show themselves in a notebook, and give JSON values by ``to_json``.
A mistake raises a kind of ``ClipstillError``, whose message says what is wrong, where, and what to do. Notes of
progress go to the logger ``clipstill``: ``logging.basicConfig(level="INFO")`` shows them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from clipstill.core.config import dotted, merge, nested
from clipstill.core.duration import budget_seconds
from clipstill.core.errors import (
    ArtifactError,
    ClipstillError,
    ConfigError,
    DataError,
    ExportError,
    ResourceError,
    TaskError,
    UnknownNameError,
    did_you_mean,
)
from clipstill.core.paths import user_path
from clipstill.core.progress import ProgressEvent, listening, say
from clipstill.evaluation.ladder import Ladder, LadderOptions
from clipstill.runtime import Bundle, Prediction, load_bundle
from clipstill.text.task import Task, parse_task
from clipstill.workflow.recipes import LoadedSettings, load_with_origins
from clipstill.workflow.store import default_out

if TYPE_CHECKING:
    from clipstill.assembly.fine_tuning import FineTuned
    from clipstill.assembly.zero_shot import ZeroShot
    from clipstill.commands.export import Exported
    from clipstill.commands.results import QuickResult, RunResult
    from clipstill.commands.run import Job
    from clipstill.core.protocols import Generator, Sampler, Teacher
    from clipstill.evaluation.evaluate import Evaluation
    from clipstill.planning.plan import Plan
    from clipstill.students.student import Student

__all__ = [
    "ArtifactError",
    "Bundle",
    "ClipstillError",
    "ConfigError",
    "DataError",
    "ExportError",
    "LadderOptions",
    "Prediction",
    "ProgressEvent",
    "ResourceError",
    "RunOptions",
    "TaskError",
    "UnknownNameError",
    "add_class",
    "distil",
    "evaluate",
    "export_formats",
    "fine_tune",
    "ladder",
    "load_bundle",
    "plan",
    "quick",
    "remove_class",
    "zero_shot",
]

# Names, a comma-separated text, or a file or folder, see ``parse_task``.
Classes = Task | str | Sequence[str] | Path
# Nested settings, or texts such as "synthesis.steps=40".
Overrides = Mapping[str, Any] | Sequence[str]
AnyPath = str | Path


class RunOptions(TypedDict, total=False):
    """Options that ``distil`` and ``plan`` share.

    Attributes:
        images: Folder of real photos to measure on, one sub-folder a class.
        examples: Folder of a few example images of some or all classes, one sub-folder a class.
        unlabelled: Folder of photos without labels to learn from.
        teacher: Name such as ``"openclip:ViT-B-32/openai"``, or a teacher that you built.
        generator: Name such as ``"pixels"``, several joined by ``+``, or a generator that you built.
        student: Name such as ``"resnet18"``, or a student that you built for these classes.
        recipe: Shipped recipe or YAML file.
        config: YAML file of settings, which wins over the recipe.
        settings: Nested settings or texts such as ``"synthesis.steps=40"``, which win over the file.
        seed: Seed of everything random.
        device: ``"auto"``, ``"cpu"``, ``"cuda"`` or ``"mps"``.
        budget: Time for the whole run, such as ``"30min"``; settings that nobody gave are chosen by it.
        allow_unmatched: Whether to go on where a class has no photo and a folder nearly has its name.
        progress: Function that is called with each ``ProgressEvent``.
    """

    images: AnyPath | None
    examples: AnyPath | None
    unlabelled: AnyPath | None
    teacher: str | Teacher | None
    generator: str | Generator | Sampler | None
    student: str | Student | None
    recipe: str
    config: AnyPath | None
    settings: Overrides
    seed: int | None
    device: str | None
    budget: str | None
    allow_unmatched: bool | None
    progress: Callable[[ProgressEvent], None] | None


def distil(*, classes: Classes, out: AnyPath | None = None, **options: Unpack[RunOptions]) -> RunResult:
    """Make an image classifier from class names.

    An interrupted call is continued; a call that was done before returns at once.

    Args:
        classes: Names, a comma-separated text, a file of names (``.txt``, ``.yaml``, ``.json``, ``.csv``, or Label
            Studio's ``.xml``), or a folder with one sub-folder per class.
        out: The run folder; ``runs/FIRST-CLASSES-HASH`` below the working folder where None.
        options: See ``RunOptions``.

    Example:
        >>> result = distil(classes=["dog", "elephant", "giraffe"], out="runs/zoo")  # doctest: +SKIP
        >>> result.bundle.predict("photo.jpg")[0].label  # doctest: +SKIP
        'dog'
    """
    from clipstill.commands.run import run

    task = _task(classes)
    with listening(options.get("progress")):
        job, loaded = _job(task, default_out(task) if out is None else user_path(out), options)
        return run(job, budget_seconds=budget_seconds(options.get("budget")), fixed=loaded.given)


def quick(*, classes: Classes, out: AnyPath | None = None, **options: Unpack[RunOptions]) -> QuickResult:
    """Make the part of ``distil`` that takes seconds: the bundle of a small teacher with stored class vectors.

    Its arguments are those of ``distil``, which goes on from there in the same folder.
    """
    from clipstill.commands.run import run_quick

    task = _task(classes)
    if options.get("budget") is not None:
        raise ConfigError("a quick run chooses no settings by a time. Leave out the budget, or quick.")
    with listening(options.get("progress")):
        return run_quick(_job(task, default_out(task) if out is None else user_path(out), options)[0])


def plan(*, classes: Classes, **options: Unpack[RunOptions]) -> Plan:
    """Look at class names and settings before a run: what is doubtful, how well it may go, what it takes here.

    Args:
        classes: As ``distil`` takes them.
        options: See ``RunOptions``.

    Example:
        >>> plan(classes="crane,heron,stork").findings[0].kind  # doctest: +SKIP
        'ambiguous'
    """
    from clipstill.commands.run import check_names
    from clipstill.core.device import configure_torch
    from clipstill.planning.plan import plan as make_plan
    from clipstill.teachers import teachers

    with listening(options.get("progress")):
        job, loaded = _job(_task(classes), Path(), options)
        budget_s = budget_seconds(options.get("budget"))
        if "teacher" not in job.models.built:
            teachers.check(*teachers.split(job.settings.teacher.name))
        say("plan: loading the models")  # What comes next imports torch, which takes seconds.
        check_names(job)
        configure_torch(job.threads, job.settings.device, job.settings.deterministic)
        given, models = loaded.given, job.models
        return make_plan(job.settings, job.task, job.photos, models=models, budget_seconds=budget_s, fixed=given)


def evaluate(
    *,
    run: AnyPath,
    images: AnyPath,
    device: str = "auto",
    format: str = "fp32",  # noqa: A002
    allow_unmatched: bool = False,
) -> Evaluation:
    """Measure an exported bundle, and its teacher beside it, on real photos.

    Args:
        run: A bundle or a run folder.
        images: Labelled photos, one sub-folder a class.
        device: Device of the teacher; the student runs on the CPU.
        format: ONNX model of the bundle: ``"fp32"``, ``"fp16"`` or ``"int8"``.
        allow_unmatched: Whether to go on where a class has no photo and a folder nearly has its name.
    """
    from clipstill.commands.evaluate import measure_bundle

    return measure_bundle(
        user_path(run), user_path(images), device=device, model=format, allow_unmatched=allow_unmatched
    )


def fine_tune(
    *,
    run: AnyPath,
    examples: AnyPath,
    out: AnyPath,
    images: AnyPath | None = None,
    per_class: int | None = None,
    recipe: str = "fine-tune",
    settings: Overrides = (),
) -> FineTuned:
    """Train a finished student on the labels of a few photos of its classes, and write a new bundle.

    Args:
        run: A bundle or a run folder.
        examples: Labelled photos, one sub-folder a class; every class has some.
        out: The new bundle.
        images: Other labelled photos, which the student is measured on before and after.
        per_class: Most photos of a class that are trained on; None for all.
        recipe: Shipped recipe or YAML file.
        settings: Nested settings or texts such as ``"distillation.steps=100"``.
    """
    from clipstill.assembly.fine_tuning import fine_tune as tune

    loaded = _load(recipe, None, settings).settings
    return tune(
        *(user_path(run), user_path(examples), user_path(out)),
        settings=loaded,
        per_class=per_class,
        images=_path(images),
    )


def zero_shot(
    *,
    classes: Classes,
    out: AnyPath,
    teacher: str | None = None,
    examples: AnyPath | None = None,
    unlabelled: AnyPath | None = None,
    images: AnyPath | None = None,
    recipe: str = "default",
    settings: Overrides = (),
) -> ZeroShot:
    """Export a teacher's image tower with stored class vectors as a bundle; nothing is trained.

    Args:
        classes: As ``distil`` takes them.
        out: The bundle.
        teacher: Name of the teacher; that of the settings where None.
        examples: Labelled photos of some or all classes, which move the class vectors.
        unlabelled: Photos without labels, which move them too.
        images: Other labelled photos to measure on.
        recipe: Shipped recipe or YAML file, such as ``config.yaml`` of a run.
        settings: Nested settings or texts such as ``"examples.per_class=5"``.
    """
    from clipstill.assembly.zero_shot import make_zero_shot

    loaded = _load(recipe, None, settings, {"teacher.name": teacher}).settings
    folders = {"examples": _path(examples), "unlabelled": _path(unlabelled), "images": _path(images)}
    return make_zero_shot(_task(classes), loaded, user_path(out), **folders)


def export_formats(
    *,
    run: AnyPath,
    formats: Sequence[str],
    out: AnyPath | None = None,
    images: Mapping[str, AnyPath] | None = None,
    calibration: AnyPath | None = None,
    settings: Sequence[str] = (),
) -> Exported:
    """Write further formats of a finished student, each measured beside ``model.onnx``.

    Args:
        run: A bundle or a run folder.
        formats: Names of formats, such as ``"onnx-fp16"``.
        out: A new bundle; None writes into the bundle itself.
        images: Name -> folder of labelled photos to compare answers and accuracy on.
        calibration: Photos like those in use for int8, labels not needed; None takes the run's synthetic images.
        settings: Texts such as ``"export.int8_refuse=0.3"``.
    """
    from clipstill.commands.export import export as write

    folders = {name: user_path(folder) for name, folder in (images or {}).items()}
    return write(
        user_path(run),
        formats,
        out=_path(out),
        images=folders,
        calibration=_path(calibration),
        overrides=settings,
    )


def ladder(*, run: AnyPath, images: AnyPath, **options: Unpack[LadderOptions]) -> Ladder:
    """Measure simpler and richer ways to a finished classifier on real photos, and recommend one.

    An interrupted call is continued.

    Args:
        run: A finished run folder.
        images: Labelled photos to measure on, one sub-folder a class.
        options: See ``LadderOptions``.
    """
    from clipstill.commands.ladder import measure_ladder

    _check_names(options, LadderOptions)
    return measure_ladder(user_path(run), user_path(images), options)


def add_class(
    *,
    run: AnyPath,
    classes: str | Sequence[str],
    examples: AnyPath | None = None,
    images: AnyPath | None = None,
    settings: Sequence[str] = (),
    device: str | None = None,
) -> RunResult:
    """Add classes to a run; images are made of them alone.

    Args:
        run: The run folder.
        classes: One class, or several: ``"name"`` or ``"name: description"`` each.
        examples: Example images, one sub-folder a class.
        images: Photos to measure on, instead of those that the run has.
        settings: Settings that differ from the run's, such as ``"distillation.steps=500"``.
        device: Device, instead of the run's.

    Example:
        >>> add_class(run="runs/zoo", classes="crane: a large wading bird")  # doctest: +SKIP
    """
    from clipstill.commands.grow import add_classes

    names = [classes] if isinstance(classes, str) else list(classes)
    return add_classes(
        user_path(run), names, examples=_path(examples), images=_path(images), overrides=settings, device=device
    )


def remove_class(
    *, run: AnyPath, classes: str | Sequence[str], settings: Sequence[str] = (), device: str | None = None
) -> RunResult:
    """Remove classes from a run; no image is made, and none is deleted.

    Args:
        run: The run folder.
        classes: Name of one class, or of several.
        settings: Settings that differ from the run's.
        device: Device, instead of the run's.
    """
    from clipstill.commands.grow import remove_classes

    names = [classes] if isinstance(classes, str) else list(classes)
    return remove_classes(user_path(run), names, overrides=settings, device=device)


def _job(task: Task, out: Path, options: RunOptions) -> tuple[Job, LoadedSettings]:
    """The settings, photos and models that the options ask for."""
    from clipstill.commands.run import Job

    _check_names(options, RunOptions)
    given = {name: options.get(name) for name in ("teacher", "generator", "student")}
    built = {name: part for name, part in given.items() if part is not None and not isinstance(part, str)}
    values: dict[str, Any] = {f"{name}.name": getattr(part, "name", part) for name, part in given.items()}
    for name, section in (("images", "evaluation"), ("examples", "examples"), ("unlabelled", "unlabelled")):
        values[f"{section}.images"] = options.get(name)
    values |= {name: options.get(name) for name in ("seed", "device", "allow_unmatched")}
    loaded = _load(options.get("recipe", "default"), options.get("config"), options.get("settings", ()), values)
    return Job.of(loaded.settings, task, out, built=built), loaded


def _check_names(options: Mapping[str, Any], known: type) -> None:
    for name in options:
        if name not in known.__annotations__:
            raise TypeError(f"there is no option '{name}'.{did_you_mean(name, known.__annotations__)}")


def _load(
    recipe: str, config: AnyPath | None, overrides: Overrides, flags: Mapping[str, Any] | None = None
) -> LoadedSettings:
    """Settings by recipe, file, overrides and flags, the later ones winning; flags that are None say nothing."""
    given = [(name, value) for name, value in (flags or {}).items() if value is not None]
    if isinstance(overrides, Mapping):
        given, overrides = [*dotted(overrides), *given], ()
    values: dict[str, Any] = {}
    for name, value in given:
        values = merge(values, nested(name, value))
    return load_with_origins(recipe, _path(config), overrides, values)


def _task(classes: Classes) -> Task:
    return classes if isinstance(classes, Task) else parse_task(classes)


def _path(path: AnyPath | None) -> Path | None:
    return None if path is None else user_path(path)
