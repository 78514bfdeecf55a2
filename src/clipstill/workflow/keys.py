"""What each stage depends on, as one hash a stage: equal keys mean that the work is done already.

A key holds the stage's slice of the settings, the keys of the stages before it, the identity of weights and files that
it reads, and the version of its code. Device and number of threads are left out: they change the speed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from clipstill.core.errors import ConfigError
from clipstill.core.files import sha256_file, sha256_json
from clipstill.core.images import ImageFolder
from clipstill.core.weights_store import stored_weights
from clipstill.text.bank import bank_files
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, Evidence, Growth, Part, Taught, stage_of
from clipstill.workflow.settings import Settings

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
    BUNDLE: 3,
    LADDER: 2,
    REPORT: 4,
}

# Settings of the synthesis that change how quickly images come out, and not which.
_SPEED_ONLY = ("compile",)


def stage_keys(
    config: Settings,
    task: Task,
    photos: ImageFolder | None,
    examples: ImageFolder | None = None,
    unlabelled: ImageFolder | None = None,
    growth: Growth | None = None,
    by: SettingKeys | None = None,
) -> dict[str, str]:
    """The key of every stage of a run, in the order of work.

    ``teacher_prompts`` only where the teacher learns, ``prompts`` and ``surrogate`` only where images are made,
    ``near_misses`` only where the student may refuse, ``evaluation`` and ``ladder`` only where there are photos. A
    folder that has grown has ``prompts-2`` and so on beside them.

    Args:
        growth: which cohorts are in use; None for a new folder.
        by: of the same settings, where they are at hand.
    """
    by = by or SettingKeys(config)
    evidence = by.evidence(task, examples)
    if growth is None:
        growth = Growth.plain(task, evidence, by.with_images, config.refusal.wanted)
    keys: dict[str, str] = {}
    if evidence.learned is not None:
        keys[TEACHER_PROMPTS] = evidence.learned
    vectors = keys[CLASS_VECTORS] = by.class_vectors(task, evidence)
    for part in growth.images:
        prompts, surrogate = by.images(part.cohort)
        keys[stage_of(PROMPTS, part.cohort)], keys[stage_of(SURROGATE, part.cohort)] = prompts, surrogate
    student = keys[STUDENT] = by.student(
        vectors, by.taught_on(task, growth.images), examples is not None, unlabelled, growth.taught
    )
    for part in growth.near_misses:
        keys[stage_of(NEAR_MISSES, part.cohort)] = by.near_misses(part.cohort)
    near = _in_use(task, growth.near_misses, by.near_misses)
    most_refused = config.refusal.most_refused if growth.near_misses else None
    before = keys[CALIBRATION] = _key(CALIBRATION, student=student, near_misses=near, most_refused=most_refused)
    if photos is not None:
        before = keys[EVALUATION] = _key(EVALUATION, calibration=before, photos=photos_digest(photos))
    keys[BUNDLE] = _key(BUNDLE, before=before, export=by.settings["export"])
    ladder = None
    if photos is not None and config.evaluation.ladder:
        small = config.small_teacher
        ladder = keys[LADDER] = _key(LADDER, bundle=keys[BUNDLE], small_teacher=[small, _weights_digest(small)])
    keys[REPORT] = _key(REPORT, bundle=keys[BUNDLE], ladder=ladder)
    return keys


class SettingKeys:
    """Keys that follow from the settings of a run and from what they are asked for; files are hashed once.

    Args:
        config: of the run.

    Raises:
        ConfigError: a file that the settings name cannot be read.
    """

    def __init__(self, config: Settings) -> None:
        self.config = config
        self.settings = settings = config.model_dump(mode="json")
        self._weights = {"assets": _assets_digest(), "files": _weights_digest(config.teacher.name)}
        self._prompts = dict(settings["prompts"])
        self._templates = self._prompts.pop("templates")
        # A bank counts by its content, wherever it lies.
        del self._prompts["bank"]
        words = config.prompts.styles
        self._styles = _named_file_digest(words) if isinstance(words, str) else None
        self._synthesis = {name: value for name, value in settings["synthesis"].items() if name not in _SPEED_ONLY}
        self._generator = {**settings["generator"], "files": _weights_digest(config.generator.name)}
        self._curation = settings["curation"]
        self._further = {name: self._curation.pop(name) for name in ("least_diversity", "top_up")}
        bank = config.prompts.bank
        self._bank = None if bank is None or not self.with_images else [sha256_file(file) for file in bank_files(bank)]

    @property
    def with_images(self) -> bool:
        """Whether images are made."""
        return self.config.prompts.images_per_class > 0

    def evidence(self, task: Task, examples: ImageFolder | None) -> Evidence:
        """What the class vectors of a task come from."""
        config = self.config
        digest = None if examples is None else photos_digest(examples)
        if not config.has_prompts:
            of_class = {} if examples is None else _digests_by_class(examples)
            return Evidence(None, digest, of_class)
        how = self.settings["prompt_teacher"]
        given = config.prompt_teacher.weights
        if given is not None:
            how = {"weights": _file_digest(given)}
        learned = _key(
            TEACHER_PROMPTS,
            teacher=self.settings["teacher"],
            weights=self._weights,
            how=how,
            names=None if given else list(task.names),
            examples=None if given else digest,
            seed=config.seed,
        )
        return Evidence(learned, digest)

    def class_vectors(self, task: Task, evidence: Evidence) -> str:
        """Of the stage of class vectors."""
        examples = evidence.examples
        return _key(
            CLASS_VECTORS,
            learned=evidence.learned,
            teacher=self.settings["teacher"],
            weights=self._weights,
            templates=self._templates,
            task=task.to_json(),
            examples=None if examples is None else [examples, self.config.examples.text_count],
        )

    def images(self, cohort: Cohort) -> tuple[str, str]:
        """Of the prompts and of the images of a cohort."""
        config, some = self.config, {} if cohort.is_whole else {"drawn": list(cohort.drawn)}
        prompts = _key(
            PROMPTS,
            class_vectors=self.class_vectors(cohort.task, cohort.evidence),
            prompts=self._prompts,
            styles=self._styles,
            bank=self._bank,
            seed=config.seed,
            style_share=None if cohort.evidence.examples is None else config.examples.style_share,
            **some,
        )
        surrogate = _key(
            SURROGATE,
            prompts=prompts,
            generator=self._generator,
            synthesis=self._synthesis,
            further=self._further if self._further["least_diversity"] > 0 else None,
        )
        return prompts, surrogate

    def taught_on(self, task: Task, parts: Sequence[Part]) -> Any:
        """The synthetic images of a lesson, as they stand in the key of a student."""
        return _in_use(task, parts, lambda cohort: self.images(cohort)[1])

    def student(
        self, vectors: str, surrogate: Any, with_examples: bool, unlabelled: ImageFolder | None, taught: Taught | None
    ) -> str:
        """Of a student.

        Args:
            vectors: key of its class vectors.
            surrogate: what ``taught_on`` says.
            with_examples: whether there are example images.
            unlabelled: photos that teach too.
            taught: whose weights it has, where it gets other class vectors and is not taught.
        """
        if taught is not None:
            return _key(STUDENT, of=taught.key, class_vectors=vectors)
        config = self.config
        return _key(
            STUDENT,
            surrogate=surrogate,
            curation=self._curation,
            student=self.settings["student"],
            init=_named_file_digest(config.student.init),
            tower=_weights_digest(config.student.tower_of or ""),
            class_vectors=vectors,
            unlabelled=None if unlabelled is None else [photos_digest(unlabelled), config.seed],
            distillation=self.settings["distillation"],
            teach_share=config.examples.teach_share if with_examples else None,
        )

    def near_misses(self, cohort: Cohort) -> str:
        """Of the near misses of a cohort."""
        refusal = {name: value for name, value in self.settings["refusal"].items() if name != "most_refused"}
        return _key(
            NEAR_MISSES,
            class_vectors=self.class_vectors(cohort.task, cohort.evidence),
            templates=self._templates,
            refusal=refusal,
            prompts={name: self._prompts[name] for name in ("styles", "tokens")},
            styles=self._styles,
            seed=self.config.seed,
            generator=self._generator,
            synthesis=self._synthesis,
            **({} if cohort.is_whole else {"drawn": list(cohort.drawn)}),
        )


def _key(stage: str, **parts: Any) -> str:
    return sha256_json({"stage": stage, "code": CODE_VERSIONS[stage], **parts})


def _in_use(task: Task, parts: Sequence[Part], key_of: Callable[[Cohort], str]) -> Any:
    """What a later stage takes of cohorts: None without any, one key where it is all of a plain one's."""
    if not parts:
        return None
    if len(parts) == 1 and parts[0].cohort.drawn == task.names:
        return key_of(parts[0].cohort)
    return [[key_of(part.cohort), list(part.used)] for part in parts]


def styles_of(config: Settings) -> tuple[str, ...]:
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


def templates_of(config: Settings, suited: str) -> tuple[str, ...]:
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


def _digests_by_class(examples: ImageFolder) -> dict[str, str]:
    """Which photos each class has, for the classes that have some; wherever the folder lies."""
    facts: dict[str, dict[str, tuple[int, int]]] = {}
    for path, label in examples.items:
        stat = path.stat()
        of_class = facts.setdefault(examples.classes[label], {})
        of_class[str(path.relative_to(examples.path))] = (stat.st_size, stat.st_mtime_ns)
    return {name: sha256_json(of_class) for name, of_class in facts.items()}
