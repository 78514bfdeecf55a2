"""What the student is taught on, synthetic images with the examples among them, and how that is done.

Shapes: N images, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from clipstill.assembly.students import new_student
from clipstill.core.errors import DataError
from clipstill.core.images import ImageFolder, iterate
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import DistilResult, distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distributed import launch
from clipstill.surrogate.curation import Curation, curate
from clipstill.surrogate.dataset import SurrogateSet

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher
    from clipstill.distillation.trainer import Watch
    from clipstill.students.student import Student
    from clipstill.workflow.settings import Settings

# Pictures that are no synthetic image of a class: the trainer neither holds them out nor takes their statistics for
# those of the others.
_NO_CLASS = -1
_AT_ONCE = 64


@dataclass(frozen=True)
class TeachingSet:
    """Pictures with what the trainer must know of them.

    Attributes:
        images_N3HW: uint8.
        class_id_N: class of a synthetic image, -1 for a photo. No label is taught: the teacher's answer is.
        style_id_N: style of a synthetic image, -1 for a photo.
        examples: different examples among the pictures.
        repeats: how often each of them is there.
        unlabelled: photos without labels among the pictures.
    """

    images_N3HW: Tensor
    class_id_N: Tensor
    style_id_N: Tensor
    examples: int = 0
    repeats: int = 0
    unlabelled: int = 0

    @classmethod
    def of(
        cls,
        made: SurrogateSet | None,
        folder: ImageFolder | None,
        unlabelled: ImageFolder | None,
        share: float,
        student_size: int,
        styles: int,
    ) -> TeachingSet:
        """Put synthetic images and photos together; examples only where every class has some.

        Where some have none, examples would teach that all photos show the other classes.

        Args:
            made: synthetic images that teach; None where there are none.
            folder: examples; None where there are none.
            unlabelled: other photos; None where there are none.
            share: of the examples in the whole, in [0, 1).
            student_size: side in pixels that the student sees; photos are not stored below it.
            styles: that all classes have. A style that only some classes have tells little when it is held out: it
                goes with one that all have.
        """
        with_examples = folder is not None and share > 0 and not folder.classes_without_images
        with_photos = with_examples or unlabelled is not None
        size = max(student_size, 0 if made is None else made.pixels_N3HW.shape[-1])
        whole = cls(torch.zeros(0, 3, size, size, dtype=torch.uint8), torch.zeros(0).long(), torch.zeros(0).long())
        if made is not None:
            images_N3HW = _resized(made.pixels_N3HW, size) if with_photos else made.pixels_N3HW
            whole = cls(images_N3HW, made.class_id_N, made.style_id_N % max(1, styles))
        if unlabelled is not None:
            photos_M3HW, _ = read_all(unlabelled, size)
            whole = replace(whole._with(photos_M3HW), unlabelled=len(photos_M3HW))
        if with_examples:
            assert folder is not None
            examples_M3HW, _ = read_all(folder, size)
            repeats = max(1, round(len(whole.images_N3HW) * share / (1 - share) / len(examples_M3HW)))
            repeated = whole._with(examples_M3HW.repeat(repeats, 1, 1, 1))
            whole = replace(repeated, examples=len(examples_M3HW), repeats=repeats)
        return whole

    def _with(self, photos_M3HW: Tensor) -> TeachingSet:
        """And further pictures, of which neither class nor style is known."""
        outside_M = torch.full((len(photos_M3HW),), _NO_CLASS)
        return replace(
            self,
            images_N3HW=torch.cat([self.images_N3HW, photos_M3HW]),
            class_id_N=torch.cat([self.class_id_N, outside_M]),
            style_id_N=torch.cat([self.style_id_N, outside_M]),
        )


@dataclass(frozen=True)
class Lesson:
    """What one run teaches.

    Attributes:
        made: all synthetic images; None where there are none.
        curation: which of them teach.
        teaching: what is taught on.
    """

    made: SurrogateSet | None
    curation: Curation | None
    teaching: TeachingSet

    @classmethod
    def of(
        cls,
        config: Settings,
        made: SurrogateSet | None,
        examples: ImageFolder | None,
        unlabelled: ImageFolder | None,
        styles: int,
    ) -> Lesson:
        """Read and choose.

        Args:
            config: of the run.
            made: all synthetic images; None where there are none.
            examples: of the classes, where there are any.
            unlabelled: other photos, where there are any.
            styles: that all classes have.
        """
        curation = chosen = None
        if made is not None:
            curation = curate(made, config.curation.min_score, config.curation.duplicate_cosine)
            chosen = made.keep(curation.keep_N)
        share, size = config.examples.teach_share, config.student.image_size
        return cls(made, curation, TeachingSet.of(chosen, examples, unlabelled, share, size, styles))


def teach(
    config: Settings,
    lesson: Lesson,
    teacher: Teacher,
    class_vectors_CD: Tensor,
    work: Path,
    device: torch.device,
    watch: Watch | None = None,
) -> tuple[Student, DistilResult]:
    """A new student, taught; it is on ``device``, in evaluation mode.

    Under torchrun all ranks call this at once, with equal arguments, and teach one student. ``watch`` is the trainer's.
    """
    section, classes = config.student, len(class_vectors_CD)
    student = new_student(section, classes, section.init, config.seed)
    if section.head == "class-vectors":
        scale = float(student.logit_scale or teacher.logit_scale)
        layers, width = section.projector_layers, section.projector_width
        student.use_class_vectors(class_vectors_CD, scale, config.seed, layers, width)
    teaching = lesson.teaching
    with launch.together(shares_teaching(config)):
        result = distil(
            student.to(device),
            SoftLabels(teacher, class_vectors_CD.to(device)),
            TrainingData(teaching.images_N3HW, teaching.class_id_N, teaching.style_id_N),
            settings=config.distillation,
            folder=work,
            seed=config.seed,
            watch=watch,
        )
    return student, result


def shares_teaching(config: Settings) -> bool:
    """Whether the ranks of torchrun teach together: a head on cached features is taught sooner than they have met."""
    return launch.world() > 1 and config.distillation.freeze != "backbone"


def read_all(folder: ImageFolder, size: int) -> tuple[Tensor, Tensor]:
    """All readable pictures, uint8 (N, 3, size, size), and their classes (N,). Others are told of where they are first
    read.
    """
    parts = [(pixels, labels) for pixels, labels, _ in iterate(folder, size, 1.0, _AT_ONCE, lambda path, reason: None)]
    if not parts:
        raise DataError(f"none of the {len(folder.items)} pictures in {folder.path} could be read. Check the files.")
    images_NHW3 = np.concatenate([pixels for pixels, _ in parts])
    labels_N = torch.tensor([label for _, labels in parts for label in labels])
    return torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).contiguous(), labels_N


def _resized(images_N3HW: Tensor, size: int) -> Tensor:
    if images_N3HW.shape[-1] == size:
        return images_N3HW
    parts = [
        interpolate(part.float(), (size, size), mode="bicubic", antialias=True, align_corners=False)
        for part in torch.split(images_N3HW, _AT_ONCE)
    ]
    return torch.cat([part.round().clamp(0, 255).to(torch.uint8) for part in parts])
