"""A classifier without training: a teacher's image tower, and one stored vector a class.

Shapes: C classes, D teacher dimensions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import clipstill
from clipstill.assembly.bundles import write_described_bundle
from clipstill.assembly.class_vectors import vectors_with_examples
from clipstill.core.description import Description
from clipstill.core.images import ImageFolder
from clipstill.core.notebook import html_table, percent
from clipstill.evaluation.evaluate import EvaluationResult, evaluate, side_by_side, student_predictor
from clipstill.export.bundle import BundleContent
from clipstill.export.measure import FormatRequest
from clipstill.students.student import Backbone
from clipstill.students.tower_student import TowerStudent
from clipstill.teachers import load_teacher, resolve_teachers
from clipstill.teachers.image_backbones import image_backbone
from clipstill.workflow.photos import limited, refuse_overlap

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings


@dataclass(frozen=True)
class ZeroShot:
    """What came out.

    Attributes:
        out: The bundle.
        classes: Class names.
        teacher: Name of the teacher whose tower it is.
        examples: Number of labelled photos that moved the class vectors.
        seconds: Seconds of work.
        parameters: Number of parameters of the tower.
        onnx_bytes: Size of the exported model.
        latency_ms: Median time for one picture on one core.
        evaluation: Result on photos; None where none were given.
    """

    out: Path
    classes: tuple[str, ...]
    teacher: str
    examples: int
    seconds: float
    parameters: int
    onnx_bytes: int
    latency_ms: float
    evaluation: EvaluationResult | None

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("teacher", "examples", "seconds", "parameters", "onnx_bytes", "latency_ms")
        return {
            **{name: getattr(self, name) for name in names},
            "out": str(self.out),
            "classes": list(self.classes),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }

    def _repr_html_(self) -> str:
        return html_table(
            {
                "teacher": self.teacher,
                "classes": ", ".join(self.classes),
                "examples": self.examples or None,
                "top-1": None if self.evaluation is None else percent(self.evaluation.top1),
                "size": f"{self.onnx_bytes / 1e6:.1f} MB",
                "latency": f"{self.latency_ms:.1f} ms on one core",
                "bundle": self.out,
            }
        )


def zero_shot_student(teacher: Teacher, class_vectors_CD: Tensor) -> TowerStudent:
    """The teacher as a classifier: its logit scale times its cosines; on the CPU, in evaluation mode.

    Args:
        teacher: Teacher on the CPU in full precision; the tower's weights are shared with it.
        class_vectors_CD: Unit vectors, one a class.

    Raises:
        ConfigError: This teacher's tower cannot be taken out of it (of several teachers at once, say).
    """
    network = image_backbone(teacher, image_size=teacher.preprocess.size)
    name, scale = f"tower:{teacher.name}", float(teacher.logit_scale)
    backbone = Backbone(name, network, teacher.preprocess, teacher.provenance, scale)
    student = TowerStudent(backbone, len(class_vectors_CD))
    student.use_class_vectors(class_vectors_CD, scale, layers=0)
    return student.eval()


def make_zero_shot(
    task: Task, settings: Settings, out: Path, *, examples: Path | None = None, images: Path | None = None
) -> ZeroShot:
    """Export a teacher's tower with stored class vectors as a bundle. Nothing is trained and no image is made.

    Args:
        task: At least two classes.
        settings: ``teacher``, ``prompts.templates``, ``examples``, ``evaluation.batch`` and ``export`` are used.
        out: The bundle; absent, empty, or an earlier bundle, which is replaced at the end.
        examples: Labelled photos of some or all classes, which move the class vectors.
        images: Other labelled photos, which the exported model is measured on.

    Raises:
        UnknownNameError: There is no such teacher.
        ConfigError: The teacher's tower cannot be taken out of it.
        DataError: A folder of photos is missing or empty, or photos lie in both folders.
        ArtifactError: ``out`` holds something that is no bundle.
        ExportError: The exported model does not behave as the teacher.
    """
    resolve_teachers(settings.teacher.name)
    shown = None
    if examples is not None:
        shown = limited(ImageFolder.open(examples, task.names), settings.examples.per_class, settings.seed)
        if images is not None:
            refuse_overlap(shown, images)
    photos = None if images is None else ImageFolder.open(images, task.names)
    start = time.monotonic()
    teacher = load_teacher(settings.teacher.name, torch.device("cpu"))
    vectors_CD = vectors_with_examples(teacher, task, settings, shown)
    student = zero_shot_student(teacher, vectors_CD)
    count = 0 if shown is None else len(shown.items)
    info = {
        "clipstill": clipstill.__version__,
        "teacher": teacher.name,
        "teacher_precision": "fp32",
        "student": student.name,
        "seed": settings.seed,
        "zero_shot": True,
    }
    found = None
    if photos is not None:
        # Before the export, whose parity check makes sure that the file gives the same answers.
        found = evaluate(student_predictor(student), photos, student.preprocess, batch=settings.evaluation.batch)
    description = Description(
        labels=task.names,
        preprocess=student.preprocess,
        provenance=teacher.provenance,
        evaluation=None if found is None else side_by_side(found),
        examples=count,
        info=info,
    )
    formats = FormatRequest(limits=settings.export)
    facts = write_described_bundle(
        out, BundleContent(student, vectors_CD, description, formats, page=settings.export.page)
    )
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
