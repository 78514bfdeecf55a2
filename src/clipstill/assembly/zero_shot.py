"""A classifier without training: a teacher's image tower, and one stored vector a class.

Shapes: C classes, D teacher dimensions.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

import clipstill
from clipstill.assembly.adaptation import adapt, adaptation_facts, adaptation_line, encode_unlabelled
from clipstill.assembly.bundles import write_described_bundle
from clipstill.assembly.class_vectors import refuse_equal, task_vectors
from clipstill.assembly.foresight import sharpened
from clipstill.core.description import Description
from clipstill.core.file_names import METRICS_FILE
from clipstill.core.files import MANIFEST, read_manifest
from clipstill.core.foresight import Foresight
from clipstill.core.names import plain
from clipstill.core.notebook import html_table
from clipstill.core.progress import say, warn
from clipstill.core.records import checked, read_record
from clipstill.core.verdict import UNMEASURED, Advice, advise_of_bundle
from clipstill.evaluation.evaluate import Evaluation, EvaluationResult, evaluate, student_predictor
from clipstill.export.bundle import BundleContent, check_replaceable
from clipstill.runtime.bundle import LABELS
from clipstill.students.student import Backbone, TowerStudent
from clipstill.teachers import load_teacher, resolve_teachers
from clipstill.teachers.image_backbones import image_backbone
from clipstill.text.word_checks import WARNING, WordChecks
from clipstill.workflow.photos import Photos
from clipstill.workflow.records import StoredLabels, StoredMetrics, ZeroShotInfo

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
    unlabelled: int  # Number of unlabelled photos given.
    adaptation: str | None  # What was adapted to how many of them; None where nothing was.
    parameters: int
    onnx_bytes: int
    latency_ms: float  # Median time for one picture on one core.
    evaluation: EvaluationResult | None  # Result on photos; None where none were given.
    foresight: Foresight  # What it is expected to name right, by its examples.

    def advice(self, foretold: Foresight | None = None, run: Path | None = None) -> Advice:
        """The verdict and what to do next.

        Args:
            foretold: What it is expected to name right, where more is known than by its examples.
            run: The run folder that the bundle lies in, if any.
        """
        found, command = self.evaluation, "the same command with --examples five_photos"
        if run is not None:
            out = shlex.quote(f"{run}-five")
            options = f"--run {shlex.quote(str(run))} --teacher {shlex.quote(self.teacher)} --examples five_photos"
            command = f"clipstill zero-shot {options} --out {out}"
        return advise_of_bundle(
            foretold or self.foresight,
            None if found is None else Evaluation(found).to_json(),
            classes=len(self.classes),
            folder=str(run or self.out),
            five_photos="" if self.examples else command,
        )

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        names = ("teacher", "examples", "unlabelled", "adaptation", "parameters", "onnx_bytes", "latency_ms")
        return {
            **{name: getattr(self, name) for name in names},
            "out": plain(self.out),
            "classes": list(self.classes),
            "evaluation": None if self.evaluation is None else self.evaluation.to_json(),
            **asdict(self.advice()),
        }

    def facts(self) -> dict[str, str | None]:
        """What people want to know, by name; None where it was not measured."""
        advice = self.advice()
        return {
            "classes": str(len(self.classes)),
            "verdict": advice.text,
            "teacher": self.teacher,
            "examples": str(self.examples) if self.examples else None,
            "unlabelled photos": self.adaptation,
            "size": f"{self.onnx_bytes / 1e6:.1f} MB, {self.parameters / 1e6:.1f} million parameters",
            "latency": f"{self.latency_ms:.1f} ms a picture on one core",
            "bundle": str(self.out),
            **advice.facts(str(self.out)),
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
    task: Task,
    settings: Settings,
    out: Path,
    *,
    examples: Path | None = None,
    unlabelled: Path | None = None,
    images: Path | None = None,
) -> ZeroShot:
    """Export a teacher's tower with stored class vectors as a bundle; arguments as for ``clipstill.zero_shot``.

    Of ``settings``, ``teacher``, ``prompts.templates``, ``examples``, ``unlabelled`` and ``export.page`` count.

    Raises:
        ClipstillError: The teacher, a folder of photos or ``out`` cannot be used, or the export fails its check.
    """
    resolve_teachers(settings.teacher.name)
    given = {"examples.images": examples, "unlabelled.images": unlabelled, "evaluation.images": images}
    without_prompts = {"prompt_teacher.method": "none", "prompt_teacher.weights": None}
    photos = Photos.of(settings.changed(**given, **without_prompts), task)
    check_replaceable(out)
    export_zero_shot(task, settings, photos, out)
    return read_zero_shot(out)


def export_zero_shot(task: Task, settings: Settings, photos: Photos, out: Path, *, key: str = "") -> None:
    """As ``make_zero_shot``, for photos that are listed already; ``key`` is the hash of all that it depends on."""
    teacher = load_teacher(settings.teacher.name, torch.device("cpu"))
    shown = {task.names[label] for _, label in photos.examples.items} if photos.examples else set()
    for finding in WordChecks(task, multilingual=teacher.multilingual, with_examples=shown).findings():
        if finding.level == WARNING:
            warn(finding.line())
    vectors = task_vectors(teacher, task, settings, photos.examples)
    vectors_CD, adaptation = vectors.class_CD, None
    refuse_equal(task, vectors_CD, photos.examples)
    if photos.unlabelled is not None and settings.unlabelled.adapt:
        feat_ND = encode_unlabelled(teacher, photos.unlabelled, torch.device("cpu"), settings.seed)
        adapted = adapt(teacher, task, settings, vectors, feat_ND=feat_ND)
        vectors_CD = adapted.vectors_CD
        adaptation = adaptation_line(adaptation_facts(adapted, task, len(feat_ND)))
        say(adaptation)
    foresight = sharpened(
        UNMEASURED, teacher, vectors.text_CD, photos=photos, settings=settings, device=torch.device("cpu")
    )
    student = zero_shot_student(teacher, vectors_CD)
    found = None
    if photos.measured is not None:
        # Before the export, whose parity check makes sure that the file gives the same answers.
        found = evaluate(student_predictor(student), photos.measured, student.preprocess)
    facts = {"adaptation": adaptation, "foresight": foresight.to_json()}
    content = BundleContent(
        student=student,
        class_vectors_CD=vectors_CD,
        description=_description(task, settings, teacher, photos=photos, found=found, facts=facts),
        page=settings.export.page,
    )
    write_described_bundle(out, content, key)


def read_zero_shot(folder: Path) -> ZeroShot:
    """What ``export_zero_shot`` left behind.

    Raises:
        ArtifactError: The folder is no such bundle, or damaged.
    """
    metrics, manifest = read_record(folder / METRICS_FILE, StoredMetrics), read_manifest(folder)
    info = checked(manifest and manifest.info, ZeroShotInfo, folder / MANIFEST)
    export, found = metrics["export"], metrics["evaluation"]
    return ZeroShot(
        out=folder,
        classes=tuple(read_record(folder / LABELS, StoredLabels)["labels"]),
        evaluation=None if found is None else Evaluation.from_json(found).student,
        teacher=info["teacher"],
        examples=info["examples"],
        unlabelled=info["unlabelled"],
        adaptation=info["adaptation"],
        foresight=Foresight.from_json(info["foresight"]),
        parameters=export["parameters"],
        onnx_bytes=export["onnx_bytes"],
        latency_ms=export["latency_ms"],
    )


def _description(
    task: Task,
    settings: Settings,
    teacher: Teacher,
    *,
    photos: Photos,
    found: EvaluationResult | None,
    facts: Mapping[str, Any],
) -> Description:
    return Description(
        labels=task.names,
        preprocess=teacher.preprocess,
        provenance=teacher.provenance,
        evaluation=None if found is None else Evaluation(found).to_json(),
        examples=photos.counts["examples"],
        unlabelled=photos.counts["unlabelled"],
        info={
            **photos.counts,
            **facts,
            "clipstill": clipstill.__version__,
            "teacher": teacher.name,
            "teacher_precision": "fp32",
            "student": f"tower:{teacher.name}",
            "seed": settings.seed,
            "zero_shot": True,
        },
    )
