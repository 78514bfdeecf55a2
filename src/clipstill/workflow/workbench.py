"""What the stages of a run share: settings, the folder, and models that are loaded when a stage first needs them."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import platform
import time
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.core.files import commit_manifest, read_json, read_manifest, write_bytes
from clipstill.core.images import ImageFolder
from clipstill.core.protocols import Provenance
from clipstill.distributed.launch import local_device
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Cohort, Evidence, Growth, Part, kind_of, stage_of
from clipstill.workflow.keys import (
    CALIBRATION,
    CLASS_VECTORS,
    NEAR_MISSES,
    PROMPTS,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
)
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import RunFolder

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.assembly.training import Lesson
    from clipstill.core.protocols import Generator, Sampler, Teacher
    from clipstill.distillation.trainer import Watch
    from clipstill.planning.cost import Models
    from clipstill.students.student import Student
    from clipstill.surrogate.dataset import SurrogateSet

VECTORS_FILE = "class_vectors.safetensors"
VECTORS_NAME = "class_vectors"
TEXT_VECTORS_NAME = "text_vectors"
TEACHER_FILE = "teacher.json"
STUDENT_FILE = "student.safetensors"
HISTORY_FILE = "history.json"
CALIBRATION_FILE = "calibration.json"
TEACHER_PROMPTS_FILE = "prompts.safetensors"
STYLES_FILE = "styles.json"


@dataclasses.dataclass(frozen=True)
class Workbench:
    """One run at work.

    Attributes:
        config: all settings.
        task: the class names.
        run: the open run folder.
        keys: the key of each stage.
        photos: real photos to measure on, where there are any.
        examples: example images of the classes, where there are any.
        unlabelled: photos without labels, where there are any.
        watch: is shown the student's weights while it is taught.
        growth: which cohorts of the folder are in use; None for a new folder.
    """

    config: Settings
    task: Task
    run: RunFolder
    keys: dict[str, str]
    photos: ImageFolder | None
    examples: ImageFolder | None = None
    unlabelled: ImageFolder | None = None
    watch: Watch | None = None
    growth: Growth | None = None

    @property
    def image_parts(self) -> tuple[Part, ...]:
        """Cohorts whose images are in use; none where the run makes no images."""
        return self.growth.images if self.growth is not None else self._whole(SURROGATE)

    @property
    def near_parts(self) -> tuple[Part, ...]:
        """Cohorts whose near misses are in use; none where the student always answers."""
        return self.growth.near_misses if self.growth is not None else self._whole(NEAR_MISSES)

    def _whole(self, stage: str) -> tuple[Part, ...]:
        if stage not in self.keys:
            return ()
        return (Part(Cohort(1, self.task, self.task.names, Evidence(), self.keys[stage]), self.task.names),)

    def cohort_of(self, stage: str) -> Cohort:
        """The cohort that a stage of prompts, images or near misses belongs to."""
        kind = kind_of(stage)
        parts = self.near_parts if kind == NEAR_MISSES else self.image_parts
        return next(part.cohort for part in parts if stage == stage_of(kind, part.cohort))

    def made_images(self, before: Cohort | None = None) -> SurrogateSet | None:
        """The synthetic images of all classes, the oldest cohort first, numbered as the task is; None without any.

        Args:
            before: those of the cohorts before this one alone.
        """
        from clipstill.surrogate.dataset import SurrogateSet

        found = [
            SurrogateSet.open(self.run.stage(stage_of(SURROGATE, part.cohort))).of_classes(part.position_of(self.task))
            for part in itertools.takewhile(lambda part: part.cohort != before, self.image_parts)
        ]
        return SurrogateSet.joined(found) if found else None

    @cached_property
    def device(self) -> torch.device:
        """Where models run."""
        from clipstill.core.device import pick_device

        return pick_device(local_device(self.config.device))

    @cached_property
    def plain_teacher(self) -> Teacher:
        """The teacher without any prompts, loaded on first use: what images are made by."""
        from clipstill.teachers import load_teacher

        return load_teacher(self.config.teacher.name, self.device, self.config.teacher.precision)

    @cached_property
    def teacher(self) -> Teacher:
        """What the student learns from: the teacher, with its prompts where it has learned some."""
        if TEACHER_PROMPTS not in self.keys:
            return self.plain_teacher
        from clipstill.teachers.prompted import load_prompts

        return load_prompts(self.plain_teacher, self.run.stage(TEACHER_PROMPTS) / TEACHER_PROMPTS_FILE)

    @cached_property
    def generators(self) -> list[Generator | Sampler]:
        """The generators that take turns, loaded on first use."""
        from clipstill.generators import load_generators

        return load_generators(self.config.generator.name, self.device)

    def models(self) -> Models:
        """What a plan counts on; the student of the moment is a new one."""
        from clipstill.planning.cost import Models

        classes, threads = len(self.task.names), self.run.threads
        generators = self.generators if SURROGATE in self.keys else []
        return Models.around(self.config, classes, self.plain_teacher, generators, self.device, threads)

    @cached_property
    def _vectors(self) -> dict[str, Tensor]:
        """What the stage of class vectors stored, on the CPU."""
        from safetensors.torch import load_file

        return load_file(self.run.stage(CLASS_VECTORS) / VECTORS_FILE)

    @property
    def class_vectors_CD(self) -> Tensor:
        """What the teacher tells the classes apart by."""
        return self._vectors[VECTORS_NAME]

    @property
    def text_vectors_CD(self) -> Tensor:
        """The same from texts alone; what prompts are measured by."""
        return self._vectors[TEXT_VECTORS_NAME]

    @property
    def drawn_vectors_CD(self) -> Tensor:
        """What images are drawn towards: those of the teacher without prompts, which sees the images that are made."""
        return self.text_vectors_CD if TEACHER_PROMPTS in self.keys else self.class_vectors_CD

    def towards_examples(self, targets_ND: Tensor, class_ids: Sequence[int]) -> Tensor:
        """Targets of texts -> targets of image mode; the same ones without examples, or where prompts learn by them."""
        if self.examples is None or TEACHER_PROMPTS in self.keys:
            return targets_ND
        from clipstill.teachers.prototypes import ExampleVectors, targets_with_examples

        stored = self._vectors
        found = ExampleVectors(stored["prototypes"], stored["counts"], stored["shift"])
        share = self.config.examples.style_share
        return targets_with_examples(targets_ND, class_ids, self.text_vectors_CD, found, share)

    @cached_property
    def student(self) -> Student:
        """The trained student, on the CPU."""
        from clipstill.assembly.students import new_student

        stored = self.run.stage(STUDENT) / STUDENT_FILE
        return new_student(self.config.student, len(self.task.names), stored, self.config.seed).eval()

    def lesson(self, with_examples: bool, most_photos: int | None = None) -> Lesson:
        """What is taught, with the examples among it or without; of unlabelled photos a part, where that is enough."""
        from clipstill.assembly.photos import limited
        from clipstill.assembly.training import Lesson

        examples = self.examples if with_examples else None
        unlabelled = None if self.unlabelled is None else limited(self.unlabelled, most_photos, self.config.seed)
        return Lesson.of(self.config, self.made_images(), examples, unlabelled, len(self.style_names))

    @property
    def style_names(self) -> tuple[str, ...]:
        """Of the synthetic images; empty where they have none, or where there are none."""
        # Cohorts have equal ones, since these follow from the settings.
        parts = self.image_parts
        return read_style_names(self.run.stage(stage_of(PROMPTS, parts[0].cohort))) if parts else ()

    @cached_property
    def calibration(self) -> dict[str, Any]:
        """What the stage of calibration found."""
        return dict(read_json(self.run.stage(CALIBRATION) / CALIBRATION_FILE))

    @property
    def refusal_threshold(self) -> float | None:
        """Of the student that ships; None where it always answers."""
        refusal = self.calibration["refusal"]
        return None if refusal is None else float(refusal["threshold"])

    def provenance(self) -> list[Provenance]:
        """Weights that the student comes from and that taught it, as the stages recorded them."""
        surrogates = [read_manifest(self.run.stage(stage_of(SURROGATE, part.cohort))) for part in self.image_parts]
        stored = [
            *read_json(self.run.stage(CLASS_VECTORS) / TEACHER_FILE)["provenance"],
            *(each for found in surrogates if found is not None for each in found.info.get("provenance", [])),
            *read_json(self.run.stage(STUDENT) / HISTORY_FILE)["provenance"],
        ]
        unique = dict.fromkeys(Provenance(**part) for part in stored)
        return list(unique)

    def facts(self) -> dict[str, Any]:
        """Seed, versions, device and names, for manifests, card and report."""
        student = self.config.student
        tower = {"prompts": student.prompts, "prompt_depth": student.prompt_depth, "tower": student.tower}
        return {
            **({"student_tower": tower} if student.tower_of or student.prompts else {}),
            "clipstill": clipstill.__version__,
            "commit": source_commit(),
            "python": platform.python_version(),
            "torch": _torch_version(),
            "device": str(self.device),
            "threads": self.run.threads,
            "seed": self.config.seed,
            "teacher": self.config.teacher.name,
            "teacher_precision": self.config.teacher.precision,
            "generator": self.config.generator.name,
            "student": self.config.student.name,
            "student_init": self.config.student.init,
            "images_per_class": self.config.prompts.images_per_class,
            "unlabelled": 0 if self.unlabelled is None else len(self.unlabelled.items),
        }


def read_style_names(folder: Path) -> tuple[str, ...]:
    """The name of each style id, as the stage of prompts stored them; empty where images have no style.

    Raises:
        ArtifactError: the file is malformed.
    """
    return tuple(str(name) for name in read_json(folder / STYLES_FILE))


def as_json(provenance: Any) -> list[dict[str, str]]:
    """Provenance records as plain values."""
    return [dataclasses.asdict(part) for part in provenance]


@functools.cache
def source_commit() -> str | None:
    """The commit of a source checkout, read from ``.git`` without running git; None for an installed package."""
    root = Path(clipstill.__file__).parents[2]
    try:
        head = (root / ".git" / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head[:12]
        reference = head.removeprefix("ref: ")
        loose = root / ".git" / reference
        if loose.is_file():
            return loose.read_text(encoding="ascii").strip()[:12]
        for line in (root / ".git" / "packed-refs").read_text(encoding="ascii").splitlines():
            if line.endswith(f" {reference}"):
                return line[:12]
    except (OSError, UnicodeDecodeError):
        return None
    return None


def _torch_version() -> str:
    import torch

    return str(torch.__version__)


def commit(bench: Workbench, stage: str, folder: Path, files: list[str], start: float) -> None:
    """Complete a stage that began at ``start``, as ``time.monotonic`` counts."""
    commit_manifest(folder, bench.keys[stage], files, {"seconds": round(time.monotonic() - start, 3)})


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """One safetensors file, whole or not at all."""
    from safetensors.torch import save

    # Cloned, because safetensors refuses tensors that share memory or lie channels-last.
    write_bytes(path, save({name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}))
