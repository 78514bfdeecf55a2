"""Answers of a student and its teacher to the same pictures, and the temperature that follows.

Shapes: N pictures, C classes, D teacher dimensions.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from clipstill.core.seeds import generator_for
from clipstill.core.tensors import logits, passes_of
from clipstill.evaluation.calibration import fit_temperature
from clipstill.evaluation.metrics import softmax

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.distillation.training_data import TrainingData
    from clipstill.students.student import Student
    from clipstill.workflow.settings import Settings

    Floats = NDArray[np.floating]

# Random views of each picture beside the plain one.
VIEWS = 2
_AT_ONCE = 64
# Both models see each picture three times. The temperature of 128 differs by one in a hundred from draw to draw.
MOST_PICTURES = 256


def some_of(count: int, seed: int) -> Tensor:
    """Bool mask (N,) of at most ``MOST_PICTURES``, evenly over the order of all, which is that of the classes.

    Each is drawn within its own part of the order: equal steps would meet the same style in every class.
    """
    if count <= MOST_PICTURES:
        return torch.ones(count, dtype=torch.bool)
    within_N = torch.rand(MOST_PICTURES, generator=generator_for(seed, "asked about"), dtype=torch.float64)
    drawn_N = ((torch.arange(MOST_PICTURES) + within_N) * count / MOST_PICTURES).long()
    return torch.isin(torch.arange(count), drawn_N)


@dataclass(frozen=True)
class Answers:
    """Logits of both models for the same pictures."""

    student_NC: Floats
    teacher_NC: Floats

    @classmethod
    def joined(cls, *parts: Answers) -> Answers:
        """All of them."""
        student, teacher = ([getattr(part, name) for part in parts] for name in ("student_NC", "teacher_NC"))
        return cls(np.concatenate(student), np.concatenate(teacher))

    def agreement(self) -> float | None:
        """Share of equal answers; None without a picture."""
        same_N = self.student_NC.argmax(axis=1) == self.teacher_NC.argmax(axis=1)
        return float(same_N.mean()) if len(same_N) else None


@dataclass(frozen=True)
class ModelPair:
    """A student and its teacher, on one device."""

    student: Student
    teacher: Teacher
    class_vectors_CD: Tensor  # Unit vectors of the classes.
    settings: Settings  # Settings of the run, for the views.
    device: torch.device  # Device of both models.

    def plain(self, data: TrainingData) -> Answers:
        """Answers to the pictures as they are."""
        return self._answers(data, None)

    def views(self, data: TrainingData) -> Answers:
        """Answers to random views of each picture."""
        return Answers.joined(*(self._answers(data, number) for number in range(VIEWS)))

    @torch.no_grad()
    def _answers(self, data: TrainingData, view: int | None) -> Answers:
        from clipstill.distillation.views import views_of  # Slow to import, and plans read the constants above.

        student = self.student.to(self.device)
        size = student.preprocess.side
        look = size if view is None else views_of(self.settings.distillation, size)
        seed = (self.settings.seed, "calibration", view or 0)
        class_vectors_CD, scale = self.class_vectors_CD.to(self.device), float(self.teacher.logit_scale)
        by_student, by_teacher = [], []
        drawn = data.in_order(_AT_ONCE, look, self.device, seed)
        for x_N3HW in itertools.chain.from_iterable(map(passes_of, drawn)):
            by_student.append(student(x_N3HW).float().cpu().numpy())
            teacher_NC = logits(self.teacher.encode_image(x_N3HW), class_vectors_CD, scale)
            by_teacher.append(teacher_NC.float().cpu().numpy())
        return Answers(np.concatenate(by_student), np.concatenate(by_teacher))

    def temperature(self, data: TrainingData) -> float:
        """The temperature by which the student is as sure as its teacher, found without a label."""
        data = data.where(some_of(len(data), self.settings.seed))
        every = Answers.joined(self.plain(data), self.views(data))
        return fit_temperature(every.student_NC, softmax(every.teacher_NC))
