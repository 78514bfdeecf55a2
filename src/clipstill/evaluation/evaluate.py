"""Measure a classifier, or teacher and student side by side, on a folder of labelled real images.

Shapes: N images, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from clipstill.core.errors import DataError
from clipstill.core.images import ImageFolder, iterate
from clipstill.core.progress import Progress, say
from clipstill.core.protocols import Preprocess
from clipstill.evaluation import metrics

if TYPE_CHECKING:
    import torch

    from clipstill.core.protocols import Teacher
    from clipstill.students.student import Student

# uint8 (N, H, W, 3) -> logits (N, C).
PredictLogits = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
BATCH = 32


@dataclass(frozen=True)
class EvaluationResult:
    """How a classifier did.

    Attributes:
        n: images that were read and judged.
        classes: names, in the order of the rows below.
        top1: share of right answers in [0, 1].
        top5: share with the right class among five; None with five classes or fewer.
        per_class: top-1 of each class; None for classes without images.
        confusion: counts, a row for each true class, a column for each predicted one.
        ece: expected calibration error over 15 bins.
        ece_uncalibrated: the same without the temperature.
        accepted: share of the images on which the classifier does not refuse to answer; None where it never does.
        skipped: (file, reason) of those that could not be read.
    """

    n: int
    classes: tuple[str, ...]
    top1: float
    top5: float | None
    per_class: list[float | None]
    confusion: list[list[int]]
    ece: float
    ece_uncalibrated: float
    accepted: float | None
    skipped: list[tuple[str, str]]

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            **asdict(self),
            "classes": list(self.classes),
            "skipped": [{"file": file, "reason": reason} for file, reason in self.skipped],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The inverse of ``to_json``."""
        skipped = [(str(each["file"]), str(each["reason"])) for each in value["skipped"]]
        return cls(**{**value, "classes": tuple(value["classes"]), "skipped": skipped})


def evaluate(
    predict_logits: PredictLogits,
    folder: ImageFolder,
    preprocess: Preprocess,
    batch: int = BATCH,
    title: str = "evaluation",
    tell_skipped: bool = True,
    temperature: float = 1.0,
    threshold: float | None = None,
) -> EvaluationResult:
    """Run a classifier over a folder.

    Args:
        predict_logits: uint8 (N, H, W, 3) -> logits (N, C), C the folder's classes in their order.
        folder: real images by class.
        preprocess: of which size and crop are used; the classifier normalises by itself.
        batch: images a call.
        title: of the progress display.
        tell_skipped: name the files that cannot be read while at it; they are in the result in any case.
        temperature: logits are divided by it before they are probabilities.
        threshold: of the highest probability, below which the classifier refuses to answer.

    Raises:
        DataError: none of the images could be read, or the classifier has another number of classes.
    """
    skipped: list[tuple[Path, str]] = list(folder.skipped)
    logits_parts: list[NDArray[np.floating]] = []
    labels: list[int] = []
    with Progress(title, total=len(folder.items), unit="img") as bar:

        def skip(path: Path, reason: str) -> None:
            skipped.append((path, reason))
            if tell_skipped:
                say(f"skipped: {reason}")
            bar.advance(1)

        for images_NHW3, batch_labels, _ in iterate(folder, preprocess.size, preprocess.crop_fraction, batch, skip):
            logits_parts.append(np.asarray(predict_logits(images_NHW3)))
            labels.extend(batch_labels)
            bar.advance(len(batch_labels))
    if not labels:
        raise DataError(f"none of the {len(folder.items)} images in {folder.path} could be read. Check the files.")
    logits_NC, labels_N = np.concatenate(logits_parts), np.array(labels, dtype=np.int64)
    if logits_NC.shape[1] != len(folder.classes):
        raise DataError(
            f"the classifier has {logits_NC.shape[1]} classes, but {folder.path} was opened with "
            f"{len(folder.classes)}. Open it with the classifier's labels."
        )
    return EvaluationResult(
        n=len(labels_N),
        classes=folder.classes,
        top1=metrics.top1(logits_NC, labels_N) or 0.0,
        top5=metrics.top5(logits_NC, labels_N),
        per_class=metrics.per_class(logits_NC, labels_N),
        confusion=metrics.confusion(logits_NC, labels_N).tolist(),
        ece=metrics.ece(logits_NC / temperature, labels_N) or 0.0,
        ece_uncalibrated=metrics.ece(logits_NC, labels_N) or 0.0,
        accepted=None
        if threshold is None
        else float((metrics.softmax(logits_NC / temperature).max(axis=1) >= threshold).mean()),
        skipped=[(str(path), reason) for path, reason in skipped],
    )


def compare(
    teacher: Teacher,
    class_vectors_CD: torch.Tensor,
    student: Student,
    folder: ImageFolder,
    device: torch.device | str = "cpu",
    batch: int = BATCH,
    temperature: float = 1.0,
    threshold: float | None = None,
) -> dict[str, Any]:
    """Teacher by names alone, and student, on the same images, each with its own preprocessing.

    ``temperature`` and ``threshold`` are the student's, as in ``evaluate``.

    Returns:
        JSON values: ``n``, ``classes``, ``teacher_top1``, ``student_top1``, ``chance``, ``skipped``, and the full
        results as ``teacher`` and ``student``.

    Raises:
        DataError: as ``evaluate``.
    """
    by_teacher = evaluate(
        teacher_predictor(teacher, class_vectors_CD, device), folder, teacher.preprocess, batch, "evaluation, teacher"
    )
    # Whether a file can be read is the same for both, so it is told once.
    by_student = evaluate(
        student_predictor(student, device),
        folder,
        student.preprocess,
        batch,
        "evaluation, student",
        tell_skipped=False,
        temperature=temperature,
        threshold=threshold,
    )
    return {
        "n": by_student.n,
        "classes": list(folder.classes),
        "teacher_top1": by_teacher.top1,
        "student_top1": by_student.top1,
        "chance": 1 / len(folder.classes),
        "teacher": by_teacher.to_json(),
        "student": by_student.to_json(),
        "skipped": by_student.to_json()["skipped"],
    }


def student_predictor(student: Student, device: torch.device | str = "cpu") -> PredictLogits:
    """A student as a map of uint8 images to logits; it is put into evaluation mode on the device."""
    import torch

    student.to(device).eval()

    def predict(images_NHW3: NDArray[np.uint8]) -> NDArray[np.floating]:
        with torch.no_grad():
            return np.asarray(student(_to_tensor(images_NHW3, device)).float().cpu().numpy())

    return predict


def teacher_predictor(
    teacher: Teacher, class_vectors_CD: torch.Tensor, device: torch.device | str = "cpu"
) -> PredictLogits:
    """A teacher with class vectors as a map of uint8 images to logits, its own scale included."""
    import torch

    vectors_CD = class_vectors_CD.to(device).float()

    def predict(images_NHW3: NDArray[np.uint8]) -> NDArray[np.floating]:
        with torch.no_grad():
            feat_ND = teacher.encode_image(_to_tensor(images_NHW3, device))
            return np.asarray((float(teacher.logit_scale) * feat_ND @ vectors_CD.T).float().cpu().numpy())

    return predict


def _to_tensor(images_NHW3: NDArray[np.uint8], device: torch.device | str) -> torch.Tensor:
    import torch

    return torch.from_numpy(images_NHW3).to(device).permute(0, 3, 1, 2).float() / 255
