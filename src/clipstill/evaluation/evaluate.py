"""Measure a classifier on a folder of labelled real images.

Shapes: N images, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from clipstill.core.errors import DataError
from clipstill.core.foresight import measured, measured_photos
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.names import NONE_OF_THESE, plain
from clipstill.core.notebook import html_table
from clipstill.core.progress import Progress, percent, say
from clipstill.core.protocols import Preprocess
from clipstill.evaluation import metrics

if TYPE_CHECKING:
    import torch

    from clipstill.core.protocols import Teacher
    from clipstill.students.student import Student

# uint8 (N, H, W, 3) -> logits (N, C).
PredictLogits = Callable[[NDArray[np.uint8]], NDArray[np.floating]]
# Photos encoded at once.
BATCH = 32


@dataclass(frozen=True)
class Calibration:
    """How logits become probabilities, and when the classifier refuses to answer."""

    temperature: float = 1.0  # Divisor of the logits before softmax.
    threshold: float | None = None  # Highest probability below which the classifier refuses; None for never.


@dataclass(frozen=True)
class Skipped:
    """An image that could not be read."""

    file: str
    reason: str


@dataclass(frozen=True)
class Answered:
    """What a classifier says of one photo."""

    file: str
    label: str  # Name of the class that it shows.
    said: str  # Name of the class that is answered, or that none is.
    score: float  # Probability of the best class, in [0, 1].
    best_is_right: bool  # Whether the best class is the label, be it answered or refused.

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        return {name: getattr(self, name) for name in ("file", "label", "said", "score")}


@dataclass(frozen=True)
class EvaluationResult:
    """What was measured of a classifier."""

    n: int  # Number of images that could be read.
    classes: tuple[str, ...]  # Names, in the order of the rows below.
    top1: float  # Share of right answers in [0, 1], were every image answered.
    right_and_answered: float  # The same without the right ones that are refused: what a user gets.
    top5: float | None  # Share with the right class among five; None with five classes or fewer.
    per_class: list[float | None]  # Top-1 of each class; None for classes without images.
    confusion: list[list[int]]  # Counts, a row for each true class, a column for each predicted one.
    ece: float  # Expected calibration error over 15 bins.
    ece_uncalibrated: float  # The same without the temperature.
    accepted: float | None  # Share of the images that are answered; None for a classifier that never refuses.
    skipped: list[Skipped]
    # Not in the JSON: a bundle names no photo.
    answers: tuple[Answered, ...] = field(default=(), repr=False, compare=False)

    @property
    def mistakes(self) -> list[Answered]:
        """Photos that are answered wrong or refused, the surest wrong answer first and the refused ones last."""
        wrong = [one for one in self.answers if one.said != one.label]
        return sorted(wrong, key=lambda one: (one.said == NONE_OF_THESE, -one.score))

    def to_json(self) -> dict[str, Any]:
        """As JSON values."""
        value = asdict(replace(self, answers=())) | {"classes": list(self.classes)}
        del value["answers"]
        return value


@dataclass(frozen=True)
class Evaluation:
    """Student and teacher on the same real photos; the teacher is None where it was not measured."""

    student: EvaluationResult
    teacher: EvaluationResult | None = None

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """The evaluation that a run or a bundle stored."""
        from pydantic import TypeAdapter

        return TypeAdapter(cls).validate_python(value)

    def to_json(self) -> dict[str, Any]:
        """JSON values, with the main figures at the top."""
        student = self.student.to_json()
        return {
            "n": self.student.n,
            "classes": student["classes"],
            "teacher_top1": None if self.teacher is None else self.teacher.top1,
            "student_top1": self.student.top1,
            "right_and_answered": self.student.right_and_answered,
            "chance": self.chance,
            "teacher": None if self.teacher is None else self.teacher.to_json(),
            "student": student,
            "skipped": student["skipped"],
        }

    @property
    def chance(self) -> float:
        """Share of right answers by guessing."""
        return 1 / len(self.student.classes)

    @property
    def photos(self) -> str:
        """How many photos were measured, and of which classes there was none."""
        return measured_photos(self.to_json())

    def facts(self) -> dict[str, str | None]:
        """What people want to know, by name; None where it was not measured."""
        student, teacher = self.student, self.teacher
        refuses = student.accepted is not None
        count = len(student.skipped)
        left_out = f", {count} {'file or folder' if count == 1 else 'files or folders'} left out" if count else ""
        return {
            "photos": f"{self.photos}{left_out}",
            "right and answered": measured(student.right_and_answered, student.n, "these photos").text(),
            "with none refused": f"{percent(student.top1)} right (chance {percent(self.chance)})" if refuses else None,
            "answered": f"{percent(student.accepted)}; of the others it says {NONE_OF_THESE}" if refuses else None,
            "teacher": None if teacher is None else f"{percent(teacher.top1)} right",
            "calibration (ECE)": f"{student.ece:.3f} (without temperature {student.ece_uncalibrated:.3f})",
            **{f"  {name}": percent(score) for name, score in zip(student.classes, student.per_class, strict=True)},
        }

    def _repr_html_(self) -> str:
        return html_table(self.facts())


def evaluate(
    predict_logits: PredictLogits,
    folder: ImageFolder,
    preprocess: Preprocess,
    *,
    title: str = "evaluation",
    name_skipped: bool = True,
    calibration: Calibration | None = None,
) -> EvaluationResult:
    """Run a classifier over a folder.

    Args:
        predict_logits: Maps uint8 (N, H, W, 3) to logits (N, C), C the folder's classes in their order.
        folder: Real images by class.
        preprocess: Size and crop of the pixels; the classifier normalises by itself.
        title: Title of the progress display.
        name_skipped: Whether to print files that cannot be read; the result holds them in any case.
        calibration: Temperature and threshold of refusal; None for plain softmax without refusal.

    Raises:
        DataError: None of the images can be read.
    """
    skipped = [Skipped(plain(path), plain(reason)) for path, reason in folder.skipped]
    logits_parts: list[NDArray[np.floating]] = []
    labels: list[int] = []
    with Progress(title, total=len(folder.items), unit="img") as bar:

        def skip(path: Path, reason: str) -> None:
            skipped.append(Skipped(plain(path), reason))
            if name_skipped:
                say(f"skipped: {reason}")
            bar.advance(1)

        for pixels_NHW3, batch_labels in iterate(folder, preprocess, BATCH, on_skip=skip):
            logits_parts.append(np.asarray(predict_logits(pixels_NHW3)))
            labels.extend(batch_labels)
            bar.advance(len(batch_labels))
    if not labels:
        raise DataError(f"none of the {len(folder.items)} images in {folder.path} could be read. Check the files.")
    logits_NC, labels_N = np.concatenate(logits_parts), np.array(labels, dtype=np.int64)
    unread = {each.file for each in skipped}
    files = [file for file in (plain(path) for path, _ in folder.items) if file not in unread]
    return _judged(
        folder.classes, files, logits_NC, labels_N, skipped=skipped, calibration=calibration or Calibration()
    )


def _judged(
    classes: tuple[str, ...],
    files: Sequence[str],
    logits_NC: NDArray[np.floating],
    labels_N: NDArray[np.integer],
    *,
    skipped: list[Skipped],
    calibration: Calibration,
) -> EvaluationResult:
    scaled_NC, threshold = logits_NC / calibration.temperature, calibration.threshold
    score_N, best_N = metrics.softmax(scaled_NC).max(axis=1), logits_NC.argmax(axis=1)
    right_N, accepted_N = best_N == labels_N, score_N >= (threshold or 0.0)
    said = [classes[best] if accepted else NONE_OF_THESE for best, accepted in zip(best_N, accepted_N, strict=True)]
    answers = tuple(
        Answered(file, classes[label], said[row], score=float(score_N[row]), best_is_right=bool(right_N[row]))
        for row, (file, label) in enumerate(zip(files, labels_N, strict=True))
    )
    return EvaluationResult(
        n=len(labels_N),
        classes=classes,
        top1=metrics.top1(logits_NC, labels_N),
        right_and_answered=float((right_N & accepted_N).mean()),
        top5=metrics.top5(logits_NC, labels_N),
        per_class=metrics.per_class(logits_NC, labels_N),
        confusion=metrics.confusion(logits_NC, labels_N).tolist(),
        ece=metrics.ece(scaled_NC, labels_N),
        ece_uncalibrated=metrics.ece(logits_NC, labels_N),
        accepted=None if threshold is None else float(accepted_N.mean()),
        skipped=skipped,
        answers=answers,
    )


def student_predictor(student: Student, device: torch.device | str = "cpu") -> PredictLogits:
    """A student as a function from uint8 images to logits; it is put into evaluation mode on the device."""
    student.to(device).eval()
    return _predictor(student, device)


def teacher_predictor(
    teacher: Teacher, class_vectors_CD: torch.Tensor, device: torch.device | str = "cpu"
) -> PredictLogits:
    """A teacher with class vectors as a function from uint8 images to logits."""
    from clipstill.core.tensors import logits

    vectors_CD, scale = class_vectors_CD.to(device).float(), float(teacher.logit_scale)
    return _predictor(lambda x_N3HW: logits(teacher.encode_image(x_N3HW), vectors_CD, scale), device)


def _predictor(model: Callable[[torch.Tensor], torch.Tensor], device: torch.device | str) -> PredictLogits:
    import torch

    def predict(pixels_NHW3: NDArray[np.uint8]) -> NDArray[np.floating]:
        x_N3HW = torch.from_numpy(pixels_NHW3).to(device).permute(0, 3, 1, 2).float() / 255
        with torch.no_grad():
            return np.asarray(model(x_N3HW).float().cpu().numpy())

    return predict
