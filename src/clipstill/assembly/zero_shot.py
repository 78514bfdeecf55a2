"""A classifier without training: a teacher's image tower, and one stored vector a class.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.assembly.photos import refuse_overlap
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import read_json
from clipstill.core.images import ImageFolder, iterate
from clipstill.core.progress import Progress, say
from clipstill.workflow.keys import templates_of

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.evaluation.evaluate import EvaluationResult
    from clipstill.export.bundle import ExportFacts
    from clipstill.students.tower_student import TowerStudent
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings


@dataclass(frozen=True)
class ZeroShot:
    """What came out.

    Attributes:
        out: the bundle.
        classes: their names.
        teacher: whose tower it is.
        examples: labelled photos that moved the class vectors.
        seconds: it took.
        parameters: of the tower.
        onnx_bytes: size of the exported model.
        latency_ms: median for one picture on one core.
        evaluation: on real photos; None where none were given.
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
        return {
            **{name: getattr(self, name) for name in ("teacher", "examples", "seconds", "parameters", "onnx_bytes")},
            "out": str(self.out),
            "classes": list(self.classes),
            "latency_ms": self.latency_ms,
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
        }


def task_of_run(run: Path, classes: str) -> Task:
    """The classes of a run folder.

    Raises:
        ConfigError: classes are named beside it.
        ArtifactError: no run folder.
    """
    from clipstill.text.task import Task
    from clipstill.workflow.store import read_run_marker

    if classes:
        raise ConfigError("--classes and --run both name the classes. Give one of them.")
    read_run_marker(run)
    return Task.from_json(read_json(run / "task.json"))


def encoded(teacher: Teacher, folder: ImageFolder, device: torch.device, batch: int) -> tuple[Tensor, list[int]]:
    """A teacher's vectors of example images (N, D), on the CPU, and their classes.

    Raises:
        DataError: none of the images can be read.
    """
    import torch

    preprocess = teacher.preprocess
    parts, labels = [], []
    with Progress("examples", total=len(folder.items), unit="img") as bar, torch.no_grad():
        for images_NHW3, of_batch, _ in iterate(
            folder, preprocess.size, preprocess.crop_fraction, batch, lambda path, reason: say(f"skipped: {reason}")
        ):
            x_N3HW = torch.from_numpy(images_NHW3).to(device).permute(0, 3, 1, 2).float() / 255
            parts.append(teacher.encode_image(x_N3HW).cpu())
            labels += of_batch
            bar.advance(len(of_batch))
    if not labels:
        raise DataError(f"none of the {len(folder.items)} examples in {folder.path} could be read. Check the files.")
    return torch.cat(parts), labels


def stored_vectors(
    teacher: Teacher, task: Task, config: Settings, examples: ImageFolder | None, device: torch.device
) -> Tensor:
    """One vector a class (C, D), on the CPU: of its names, and of its examples where there are some.

    Args:
        teacher: on ``device``.
        task: the classes.
        config: of which templates and ``examples.text_count`` are used.
        examples: labelled photos of some or all classes.
        device: where the teacher is.
    """
    from clipstill.teachers import class_vectors
    from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes
    from clipstill.text.templates import class_texts

    text_CD = class_vectors(teacher, class_texts(task, templates_of(config, teacher.templates))).cpu()
    if examples is None:
        return text_CD
    feat_ND, labels = encoded(teacher, examples, device, config.evaluation.batch)
    return class_vectors_with_examples(text_CD, prototypes(feat_ND, labels, text_CD), config.examples.text_count)


def zero_shot_student(teacher: Teacher, class_vectors_CD: Tensor) -> TowerStudent:
    """The teacher as a classifier: logits are its own scale times its cosines. On the CPU, in evaluation mode.

    Args:
        teacher: on the CPU, in full precision; the tower's weights are shared with it.
        class_vectors_CD: one a class.

    Raises:
        ConfigError: this teacher's tower cannot be taken out of it (several at once, say).
    """
    from clipstill.students.tower_student import TowerStudent
    from clipstill.teachers.image_backbones import image_backbone

    backbone = image_backbone(teacher, 0, 1, teacher.preprocess.size, 0)
    name, scale = f"tower:{teacher.name}", float(teacher.logit_scale)
    student = TowerStudent(
        name, backbone, len(class_vectors_CD), teacher.preprocess, teacher.provenance, logit_scale=scale
    )
    student.use_class_vectors(class_vectors_CD, scale, layers=0)
    return student.eval()


def make_zero_shot(
    task: Task, config: Settings, out: Path, examples: Path | None = None, images: Path | None = None
) -> ZeroShot:
    """Export a teacher's tower with stored class vectors as a bundle. Nothing is trained and no image is made.

    Args:
        task: at least two classes.
        config: of which ``teacher``, ``prompts.templates``, ``examples``, ``evaluation.batch`` and ``export`` are used.
        out: the bundle; absent, empty, or an earlier bundle, which is replaced at the end.
        examples: labelled photos of some or all classes, which move the class vectors.
        images: other labelled photos, on which the exported model is measured.

    Raises:
        UnknownNameError: no such teacher.
        ConfigError: the teacher's tower cannot be taken out of it.
        DataError: a folder of photos is missing or empty, or photos are in both folders.
        ArtifactError: ``out`` holds something that is no bundle.
        ExportError: the exported model does not behave as the teacher.
    """
    import torch

    from clipstill.assembly.photos import limited
    from clipstill.evaluation.evaluate import evaluate, student_predictor
    from clipstill.export.bundle import BundleContent, write_bundle
    from clipstill.report.card import CardData, model_card
    from clipstill.report.licences import licence_ledger
    from clipstill.teachers import load_teacher, resolve_teachers

    resolve_teachers(config.teacher.name)
    shown = None
    if examples is not None:
        shown = limited(ImageFolder.open(examples, task.names), config.examples.per_class, config.seed)
        if images is not None:
            refuse_overlap(shown, images)
    photos = None if images is None else ImageFolder.open(images, task.names)
    start, cpu = time.monotonic(), torch.device("cpu")
    teacher = load_teacher(config.teacher.name, cpu)
    vectors_CD = stored_vectors(teacher, task, config, shown, cpu)
    student = zero_shot_student(teacher, vectors_CD)
    count = 0 if shown is None else len(shown.items)
    info = {
        "clipstill": clipstill.__version__,
        "teacher": teacher.name,
        "teacher_precision": "fp32",
        "student": student.name,
        "seed": config.seed,
        "zero_shot": True,
    }
    found, evaluation = None, None
    if photos is not None:
        # Before the export, whose gate sees to it that the file answers the same.
        found = evaluate(student_predictor(student), photos, student.preprocess, config.evaluation.batch)
        evaluation = {"n": found.n, "classes": list(task.names), "chance": 1 / len(task.names)}
        evaluation |= {"student_top1": found.top1, "student": found.to_json(), "teacher_top1": None, "teacher": None}

    def texts(facts: ExportFacts) -> dict[str, str]:
        card = CardData(
            labels=task.names,
            teacher=teacher.name,
            student=student.name,
            preprocess=student.preprocess,
            provenance=list(teacher.provenance),
            evaluation=evaluation,
            **facts.on_card(),
            examples=count,
            zero_shot=True,
            run=info,
        )
        return {"card.md": model_card(card), "LICENCES.md": licence_ledger(list(teacher.provenance), facts.software)}

    content = BundleContent(
        student=student,
        labels=task.names,
        class_vectors_CD=vectors_CD,
        preprocess=student.preprocess,
        provenance=list(teacher.provenance),
        evaluation=evaluation,
        limits=config.export,
        page=config.export.page,
        info=info,
    )
    facts = write_bundle(out, content, texts)
    made = (facts.parameters, facts.onnx_bytes, facts.latency_ms)
    return ZeroShot(out, task.names, teacher.name, count, round(time.monotonic() - start, 3), *made, found)
