"""What each stage depends on, as one hash a stage: equal keys mean that the work is done already.

A key holds the stage's slice of the settings, the keys of the stages before it, the identity of weights and files that
it reads, and the version of its code. Device and number of threads are left out: they change the speed.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from clipstill.core.errors import ConfigError
from clipstill.core.files import sha256_file, sha256_json
from clipstill.core.images import ImageFolder
from clipstill.core.weights_store import stored_weights
from clipstill.pipeline.config import RunConfig
from clipstill.text.bank import bank_files
from clipstill.text.task import Task

TEACHER_PROMPTS = "teacher_prompts"
CLASS_VECTORS = "class_vectors"
PROMPTS = "prompts"
SURROGATE = "surrogate"
STUDENT = "student"
NEAR_MISSES = "near_misses"
CALIBRATION = "calibration"
EVALUATION = "evaluation"
BUNDLE = "bundle"
LADDER = "ladder"
REPORT = "report"
STAGES = (
    TEACHER_PROMPTS,
    CLASS_VECTORS,
    PROMPTS,
    SURROGATE,
    STUDENT,
    NEAR_MISSES,
    CALIBRATION,
    EVALUATION,
    BUNDLE,
    LADDER,
    REPORT,
)

# Raised by one where a stage's code changes what it makes from equal settings.
CODE_VERSIONS = {
    TEACHER_PROMPTS: 1,
    CLASS_VECTORS: 2,
    PROMPTS: 2,
    SURROGATE: 3,
    STUDENT: 4,
    NEAR_MISSES: 1,
    CALIBRATION: 2,
    EVALUATION: 2,
    BUNDLE: 2,
    LADDER: 1,
    REPORT: 4,
}

# Settings of the synthesis that change how quickly images come out, and not which.
_SPEED_ONLY = ("compile",)


def stage_keys(
    config: RunConfig,
    task: Task,
    photos: ImageFolder | None,
    examples: ImageFolder | None = None,
    unlabelled: ImageFolder | None = None,
) -> dict[str, str]:
    """The key of every stage of a run, in the order of work.

    ``teacher_prompts`` only where the teacher learns, ``prompts`` and ``surrogate`` only where images are made,
    ``near_misses`` only where the student may refuse, ``evaluation`` and ``ladder`` only where there are photos.
    """
    keys: dict[str, str] = {}

    def add(stage: str, **parts: Any) -> str:
        keys[stage] = sha256_json({"stage": stage, "code": CODE_VERSIONS[stage], **parts})
        return keys[stage]

    settings = config.model_dump(mode="json")
    weights = {"assets": _assets_digest(), "files": _weights_digest(config.teacher.name)}
    prompts = dict(settings["prompts"])
    templates = prompts.pop("templates")
    # A bank counts by its content, wherever it lies.
    del prompts["bank"]
    learned = None
    if config.has_prompts:
        how = settings["prompt_teacher"]
        given = config.prompt_teacher.weights
        if given is not None:
            how = {"weights": _file_digest(given)}
        learned = add(
            TEACHER_PROMPTS,
            teacher=settings["teacher"],
            weights=weights,
            how=how,
            names=None if given else list(task.names),
            examples=None if given or examples is None else photos_digest(examples),
            seed=config.seed,
        )
    vectors = add(
        CLASS_VECTORS,
        learned=learned,
        teacher=settings["teacher"],
        weights=weights,
        templates=templates,
        task=task.to_json(),
        examples=None if examples is None else [photos_digest(examples), config.examples.text_count],
    )
    styles = _named_file_digest(config.prompts.styles) if isinstance(config.prompts.styles, str) else None
    synthesis = {name: value for name, value in settings["synthesis"].items() if name not in _SPEED_ONLY}
    generator = {**settings["generator"], "files": _weights_digest(config.generator.name)}
    curation = settings["curation"]
    further = {name: curation.pop(name) for name in ("least_diversity", "top_up")}
    surrogate = None
    if prompts["images_per_class"] > 0:
        bank = config.prompts.bank
        prompt = add(
            PROMPTS,
            class_vectors=vectors,
            prompts=prompts,
            styles=styles,
            bank=None if bank is None else [sha256_file(file) for file in bank_files(bank)],
            seed=config.seed,
            style_share=None if examples is None else config.examples.style_share,
        )
        surrogate = add(
            SURROGATE,
            prompts=prompt,
            generator=generator,
            synthesis=synthesis,
            further=further if further["least_diversity"] > 0 else None,
        )
    student = add(
        STUDENT,
        surrogate=surrogate,
        curation=curation,
        student=settings["student"],
        init=_named_file_digest(config.student.init),
        tower=_weights_digest(config.student.tower_of or ""),
        class_vectors=vectors,
        unlabelled=None if unlabelled is None else [photos_digest(unlabelled), config.seed],
        distillation=settings["distillation"],
        teach_share=None if examples is None else config.examples.teach_share,
    )
    refusal, near = dict(settings["refusal"]), None
    most_refused = refusal.pop("most_refused")
    if config.refusal.wanted:
        near = add(
            NEAR_MISSES,
            class_vectors=vectors,
            templates=templates,
            refusal=refusal,
            prompts={name: prompts[name] for name in ("styles", "tokens")},
            styles=styles,
            seed=config.seed,
            generator=generator,
            synthesis=synthesis,
        )
    before = add(CALIBRATION, student=student, near_misses=near, most_refused=most_refused if near else None)
    if photos is not None:
        before = add(EVALUATION, calibration=before, photos=photos_digest(photos))
    bundle = add(BUNDLE, before=before, export=settings["export"])
    ladder = None
    if photos is not None and config.evaluation.ladder:
        small = config.small_teacher
        ladder = add(LADDER, bundle=bundle, small_teacher=[small, _weights_digest(small)])
    add(REPORT, bundle=bundle, ladder=ladder)
    return keys


def styles_of(config: RunConfig) -> tuple[str, ...]:
    """The style words of a run.

    Raises:
        ConfigError: the list is empty, or the file cannot be read.
    """
    from clipstill.text.styles import STYLES, load_styles

    styles = config.prompts.styles
    if isinstance(styles, str):
        return STYLES if styles == "default" else load_styles(Path(styles))
    if not styles:
        raise ConfigError("prompts.styles is an empty list. Give at least one style, or 'default'.")
    return tuple(styles)


def templates_of(config: RunConfig, suited: str) -> tuple[str, ...]:
    """The sentences whose mean is a class vector.

    Args:
        config: of the run.
        suited: the template set that suits the teacher.

    Raises:
        UnknownNameError: no template set of that name.
    """
    from clipstill.text.templates import template_set

    templates = config.prompts.templates
    return template_set(templates, suited) if isinstance(templates, str) else tuple(templates)


def _file_digest(path: Path) -> str:
    if not path.is_file():
        raise ConfigError(f"there is no file {path} of learned prompts. Check prompt_teacher.weights.")
    return sha256_file(path)


def _named_file_digest(name: str) -> str | None:
    """Hash of the file behind a setting that may be a path; None where it is a name."""
    path = Path(name)
    try:
        return sha256_file(path) if name and path.is_file() else None
    except OSError as error:
        raise ConfigError(
            f"the file {path} cannot be read ({error.strerror or error}). Check its permissions."
        ) from None


def _weights_digest(names: str) -> list[str]:
    """Hashes of the weights on this machine that parts' names lead to: a file, a folder, or what was imported."""
    digests = []
    for name in names.split("+"):
        kind, _, rest = name.strip().partition(":")
        digests += [stored.facts.sha256 for stored in stored_weights(kind) if rest in ("", stored.name)]
        # open_clip's names hold an architecture before the path.
        for text in (rest, rest.partition("/")[2]):
            path = Path(text)
            if text and path.is_dir():
                digests += [sha256_file(file) for file in sorted(path.rglob("*.safetensors"))]
                break
            digest = _named_file_digest(text)
            if digest is not None:
                digests.append(digest)
                break
    return digests


def _assets_digest() -> str:
    """Weights that clipstill ships: an update of them makes earlier work stale."""
    folder = Path(str(resources.files("clipstill"))) / "assets"
    files = sorted(path for path in folder.rglob("*.safetensors") if path.is_file())
    return sha256_json({str(path.relative_to(folder)): sha256_file(path) for path in files})


def photos_digest(photos: ImageFolder) -> str:
    """Which photos, by name, size and time of change: hashing gigabytes at each start would take too long."""
    facts: Mapping[str, tuple[int, int, int]] = {
        str(path.relative_to(photos.path)): (label, path.stat().st_size, path.stat().st_mtime_ns)
        for path, label in photos.items
    }
    return sha256_json({"folder": str(photos.path.resolve()), "files": facts})
