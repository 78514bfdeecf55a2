"""The key of a stage: one hash of everything that its result depends on. Equal keys mean that the work is done.

A key holds the stage's version, the settings that it declares, the keys of its inputs, and the content of the files and
photos behind these settings. Settings that change only speed or place (device, threads, launch) are left out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from clipstill.core.checkpoints import checkpoint_in
from clipstill.core.errors import ConfigError
from clipstill.core.file_names import visible
from clipstill.core.files import sha256_file, sha256_json
from clipstill.core.paths import user_path
from clipstill.core.registry import Registry
from clipstill.core.weights_store import stored_weights
from clipstill.generators import generators
from clipstill.teachers import teachers
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, CohortsInUse, Evidence, StudentRecord
from clipstill.workflow.photos import Photos, digests_by_class, photos_digest
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import Stage, Step

TASK = "task"
# Stages that cohorts are about; their names in the list of stages.
TEACHER_PROMPTS, IMAGES, STUDENT = "teacher_prompts", "surrogate", "student"


class Keys:
    """Keys of the stages of a run; each file is hashed once.

    ``built`` holds the hashes of parts that the caller built, by the setting that names them. Of several ``stages``
    with one name a run needs at most one.
    """

    def __init__(
        self, stages: Sequence[Stage], settings: Settings, photos: Photos, built: Mapping[str, str] | None = None
    ) -> None:
        self.settings, self.photos, self._built = settings, photos, built or {}
        self.stages = {stage.name: stage for stage in stages if stage.needed(settings, photos)}
        self._values: dict[str, Any] = {}
        self._examples = None if photos.examples is None else photos_digest(photos.examples)

    def evidence(self, task: Task) -> Evidence:
        """What the class vectors of the present classes come from, beside their texts."""
        if TEACHER_PROMPTS in self.stages:
            learned = self.of(TEACHER_PROMPTS, Cohort(task, task.names, Evidence(examples=self._examples)))
            return Evidence(learned, self._examples)
        examples = self.photos.examples
        return Evidence(None, self._examples, {} if examples is None else digests_by_class(examples))

    def of(self, name: str, cohort: Cohort, in_use: CohortsInUse | None = None) -> str:
        """Key of one stage for a cohort; stages behind the images need the cohorts ``in_use`` too."""
        stage = self.stages[name]
        if name == STUDENT and in_use is not None and in_use.student is not None:
            return self._key(stage, {"student": in_use.student.cohort.key, **self._vectors(cohort)})
        inputs = {each: self._input(each, cohort, in_use) for each in stage.inputs if each in self.stages}
        return self._key(stage, self._content(stage, cohort, inputs))

    def of_student(self, record: StudentRecord) -> str:
        """Key that the present settings give to a student of an earlier call."""
        cohort = record.cohort
        inputs = self._vectors(cohort)
        if IMAGES in self.stages:
            inputs[IMAGES] = record.images
        stage = self.stages[STUDENT]
        return self._key(stage, self._content(stage, cohort, inputs))

    def _vectors(self, cohort: Cohort) -> dict[str, Any]:
        """Keys of the class vectors that a student is taught by: its inputs beside the images."""
        inputs = (each for each in self.stages[STUDENT].inputs if each in self.stages and each != IMAGES)
        return {each: self.of(each, cohort) for each in inputs}

    def of_cohorts(self, name: str, task: Task, cohorts: Sequence[Cohort]) -> Any:
        """What later stages take of a stage's cohorts: None without any, one key where it is all of a single one."""
        if not cohorts:
            return None
        if len(cohorts) == 1 and cohorts[0].drawn == task.names:
            return self.of(name, cohorts[0])
        return [[self.of(name, each), list(each.used)] for each in cohorts]

    def steps(self, task: Task, in_use: CohortsInUse) -> tuple[Step, ...]:
        """All steps of a run in the order of work."""
        whole = Cohort(task, task.names, in_use.evidence)
        steps = []
        for stage in self.stages.values():
            if stage.per_cohort:
                steps += [Step(stage, self.of(stage.name, each), each) for each in in_use.of(stage.name)]
            else:
                steps.append(Step(stage, self.of(stage.name, whole, in_use), whole))
        return tuple(steps)

    def _input(self, name: str, cohort: Cohort, in_use: CohortsInUse | None) -> Any:
        if self.stages[name].per_cohort and in_use is not None:
            return self.of_cohorts(name, cohort.task, in_use.of(name))
        if name == TEACHER_PROMPTS:
            # A cohort of an earlier call may come from other prompts than the present ones.
            return cohort.evidence.learned
        return self.of(name, cohort, in_use)

    @staticmethod
    def _key(stage: Stage, content: Mapping[str, Any]) -> str:
        return sha256_json({"stage": stage.name, "version": stage.version, **content})

    def _content(self, stage: Stage, cohort: Cohort, inputs: Mapping[str, Any]) -> dict[str, Any]:
        drawn = None if cohort.is_whole or not stage.per_cohort else list(cohort.drawn)
        settings = {each: self._value(each, cohort) for each in stage.settings}
        return {"settings": settings, "drawn": drawn, "inputs": dict(inputs)}

    def _value(self, name: str, cohort: Cohort) -> Any:
        if name == TASK:
            return cohort.task.to_json()
        if name == "examples.images":
            return cohort.evidence.examples
        if name.startswith("examples.") and cohort.evidence.examples is None:
            return None
        if name not in self._values:
            self._values[name] = self._setting(name)
        return self._values[name]

    def _setting(self, name: str) -> Any:
        """The value of a section or a setting; folders of photos and files of weights count by their content."""
        folders = {"evaluation.images": self.photos.measured, "unlabelled.images": self.photos.unlabelled}
        if name in folders:
            folder = folders[name]
            return None if folder is None else photos_digest(folder)
        value = self.settings.section_values(name)
        if isinstance(value, dict):
            named = (setting for setting in _FILES if setting.startswith(f"{name}."))
            return value | {setting.partition(".")[2]: self._setting(setting) for setting in named}
        if name not in _FILES:
            return value
        content, with_name = _FILES[name]
        digest = self._built[name] if name in self._built else content(value)
        return [value, digest] if with_name else digest


def _file_content(name: Any) -> str | None:
    """Hash of the file that a setting names; None where it names none."""
    try:
        path = user_path(name) if isinstance(name, str) and name else None
        return sha256_file(path) if path is not None and path.is_file() else None
    except OSError as error:
        raise ConfigError(
            f"the file {name} cannot be read ({error.strerror or error}). Check its permissions."
        ) from None


def _checkpoint_content(name: Any) -> str | None:
    """As ``_file_content``; a folder counts by the checkpoint that is taken from it."""
    is_folder = isinstance(name, str) and Path(name).is_absolute() and Path(name).is_dir()
    return _file_content(str(checkpoint_in(Path(name))) if is_folder else name)


def _learned_prompts_content(name: Any) -> str | None:
    if name is not None and not user_path(name).exists():
        raise ConfigError(f"there is no file or folder {name} of learned prompts. Check prompt_teacher.weights.")
    return _checkpoint_content(name)


# Files that count in a folder of weights.
_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth")


def _weights_content(registry: Registry, names: Any) -> list[str]:
    """Hashes of the weights on this machine behind the names of parts: a file, a folder, or what was imported."""
    digests = [_assets_content()]
    for name in registry.split(str(names)):
        kind, _, rest = name.partition(":")
        digests += [stored.facts.sha256 for stored in stored_weights(kind) if rest in ("", stored.name)]
        # Names of open_clip hold an architecture before the path, a tag too, or "local-dir".
        after = rest.partition("/")[2]
        for text in (rest, after, after.partition("/")[2], rest.partition(":")[2]):
            if text and user_path(text).is_dir():
                files = visible(user_path(text).rglob("*"))
                digests += [sha256_file(file) for file in files if file.suffix in _WEIGHTS]
                break
            digest = _file_content(text)
            if digest is not None:
                digests.append(digest)
                break
    return digests


@cache
def _assets_content() -> str:
    """The weights that clipstill ships: an update of them makes earlier work stale."""
    folder = Path(str(resources.files("clipstill"))) / "assets"
    return sha256_json({path.name: sha256_file(path) for path in sorted(folder.glob("*.safetensors"))})


# Settings that may name files: what hashes their content, and whether the name counts too.
_FILES: dict[str, tuple[Callable[[Any], Any], bool]] = {
    "teacher.name": (partial(_weights_content, teachers), True),
    "generator.name": (partial(_weights_content, generators), True),
    "student.name": (partial(_weights_content, teachers), True),
    "student.init": (_checkpoint_content, True),
    "evaluation.small_teacher": (partial(_weights_content, teachers), True),
    "prompt_teacher.weights": (_learned_prompts_content, False),
}
