"""A classifier without training: a teacher's image tower, and one stored vector a class.

Shapes: C classes, D teacher dimensions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import clipstill
from clipstill.assembly.bundles import write_described_bundle
from clipstill.assembly.class_vectors import refuse_equal, vectors_with_examples
from clipstill.core.description import Description
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import plain
from clipstill.core.notebook import html_table, percent
from clipstill.core.progress import listed, warn
from clipstill.evaluation.evaluate import Evaluation, EvaluationResult, evaluate, student_predictor
from clipstill.export.bundle import BundleContent, check_replaceable
from clipstill.students.student import Backbone, TowerStudent
from clipstill.teachers import load_teacher, resolve_teachers
from clipstill.teachers.image_backbones import image_backbone
from clipstill.text.reading import unread
from clipstill.workflow.photos import check_told_apart, limited, refuse_overlap

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings


@dataclass(frozen=True)
class ZeroShot:
    """What came out."""

    out: Path
    classes: tuple[str, ...]
    teacher: str  # Name of the teacher whose tower it is.
    examples: int  # Number of labelled photos that moved the class vectors.
    seconds: float
    parameters: int
    onnx_bytes: int
    latency_ms: float  # Median time for one picture on one core.
    evaluation: EvaluationResult | None  # Result on photos; None where none were given.

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("teacher", "examples", "seconds", "parameters", "onnx_bytes", "latency_ms")
        return {
            **{name: getattr(self, name) for name in names},
            "out": plain(self.out),
            "classes": list(self.classes),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def facts(self) -> dict[str, str | None]:
        """What people want to know, by name; None where it was not measured."""
        found = self.evaluation
        return {
            "classes": str(len(self.classes)),
            "teacher": self.teacher,
            "examples": str(self.examples) if self.examples else None,
            "top-1": None if found is None else f"{percent(found.top1)} on {found.n} real photos",
            "size": f"{self.onnx_bytes / 1e6:.1f} MB, {self.parameters / 1e6:.1f} million parameters",
            "latency": f"{self.latency_ms:.1f} ms a picture on one core",
            "bundle": str(self.out),
        }

    def _repr_html_(self) -> str:
        return html_table(self.facts())


def zero_shot_student(teacher: Teacher, class_vectors_CD: Tensor) -> TowerStudent:
    """The teacher as a classifier: its logit scale times its cosines; on the CPU, in evaluation mode.

    The teacher is on the CPU in full precision; the student shares the weights of its tower.

    Raises:
        ConfigError: This teacher's tower cannot be taken out of it (of several teachers at once, say).
    """
    network = image_backbone(teacher, image_size=teacher.image_size)
    name, scale = f"tower:{teacher.name}", float(teacher.logit_scale)
    backbone = Backbone(name, network, teacher.preprocess, provenance=teacher.provenance, logit_scale=scale)
    student = TowerStudent(backbone, len(class_vectors_CD))
    student.use_class_vectors(class_vectors_CD, scale, layers=0)
    return student.eval()


def make_zero_shot(
    task: Task, settings: Settings, out: Path, *, examples: Path | None = None, images: Path | None = None
) -> ZeroShot:
    """Export a teacher's tower with stored class vectors as a bundle; arguments as for ``clipstill.zero_shot``.

    Of ``settings``, ``teacher``, ``prompts.templates``, ``examples`` and ``export.page`` count.

    Raises:
        ClipstillError: The teacher, a folder of photos or ``out`` cannot be used, or the export fails its check.
    """
    resolve_teachers(settings.teacher.name)
    labelled = partial(ImageFolder.open, classes=task.names, allow_unmatched=settings.allow_unmatched)
    shown, photos = None, None if images is None else labelled(images)
    if examples is not None:
        shown = limited(labelled(examples), settings.examples.per_class, settings.seed)
        if photos is not None:
            refuse_overlap(shown, photos)
    check_told_apart(task, shown)
    check_replaceable(out)
    start = time.monotonic()
    teacher = load_teacher(settings.teacher.name, torch.device("cpu"))
    vectors_CD = vectors_with_examples(teacher, task, settings, shown)
    refuse_equal(task, vectors_CD, shown)
    foreign = [] if shown else [task.names[place] for place in unread(task, teacher.multilingual)]
    if foreign:
        warn(f"the teacher knows no word of {listed(foreign)}. Say in English what each is: '{foreign[0]}: dog'")
    student = zero_shot_student(teacher, vectors_CD)
    count, found = 0 if shown is None else len(shown.items), None
    if photos is not None:
        # Before the export, whose parity check makes sure that the file gives the same answers.
        found = evaluate(student_predictor(student), photos, student.preprocess)
    content = BundleContent(
        student=student,
        class_vectors_CD=vectors_CD,
        description=_description(task, settings, teacher, examples=count, found=found),
        page=settings.export.page,
    )
    facts = write_described_bundle(out, content)
    return ZeroShot(
        out=out,
        classes=task.names,
        teacher=teacher.name,
        examples=count,
        seconds=round(time.monotonic() - start, 3),
        parameters=facts.parameters,
        onnx_bytes=facts.onnx_bytes,
        latency_ms=facts.latency_ms,
        evaluation=found,
    )


def _description(
    task: Task, settings: Settings, teacher: Teacher, *, examples: int, found: EvaluationResult | None
) -> Description:
    return Description(
        labels=task.names,
        preprocess=teacher.preprocess,
        provenance=teacher.provenance,
        evaluation=None if found is None else Evaluation(found).to_json(),
        examples=examples,
        info={
            "clipstill": clipstill.__version__,
            "teacher": teacher.name,
            "teacher_precision": "fp32",
            "student": f"tower:{teacher.name}",
            "seed": settings.seed,
            "zero_shot": True,
        },
    )
