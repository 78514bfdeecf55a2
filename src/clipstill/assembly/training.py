"""What a student is trained on, synthetic images and photos together, and the training itself.

Shapes: N pictures, C classes, D teacher dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from clipstill.assembly.first_heads import first_head
from clipstill.assembly.students import student_of
from clipstill.core.errors import DataError
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.protocols import Preprocess
from clipstill.distillation.parallel import together
from clipstill.distillation.photos import PhotoSet
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import DistilResult, distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distributed import torchrun
from clipstill.surrogate.curation import Curation, curate
from clipstill.surrogate.dataset import SurrogateSet

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher
    from clipstill.distillation.settings import ReadingSettings
    from clipstill.generators.procedural import DeadLeaves, Noise
    from clipstill.students.student import Student
    from clipstill.text.task import Task
    from clipstill.workflow.models import Models
    from clipstill.workflow.run import Watch
    from clipstill.workflow.settings import Settings

_AT_ONCE = 64
# Pictures of no class are put into as many groups as there are style words.
_GROUPS = 16


@dataclass(frozen=True)
class TrainingSet:
    """Pictures to train on, and where they come from."""

    data: TrainingData  # Pictures with their class and style ids.
    images: SurrogateSet | None = None  # All synthetic images; None where there are none.
    curation: Curation | None = None  # Which of them are trained on.
    examples: int = 0  # Number of different examples among the pictures.
    repeats: int = 0  # How often each example is there.
    unlabelled: int = 0  # Number of unlabelled photos among the pictures.

    @classmethod
    def of(
        cls,
        settings: Settings,
        images: SurrogateSet | None,
        examples: ImageFolder | None,
        unlabelled: ImageFolder | None,
    ) -> TrainingSet:
        """Curate the synthetic images and put the photos beside them.

        Examples are used only where every class has some: else they would teach that all photos show those classes.
        """
        share = settings.examples.teach_share
        if examples is not None and (share == 0 or examples.classes_without_images):
            examples = None
        curation = None
        data = TrainingData.of_no_class()
        if images is not None:
            curation = curate(images, settings.curation.min_score, settings.curation.duplicate_cosine)
            chosen = images.keep(curation.keep_N)
            data = TrainingData(chosen.pixels_N3HW, chosen.class_id_N, chosen.style_id_N)
        folders = [folder for folder in (unlabelled, examples) if folder is not None]
        if not folders:
            return cls(data, images, curation)
        photos = open_photos(folders, settings.reading)
        is_example_N = photos.photo_N >= (0 if unlabelled is None else len(unlabelled.items))
        shown = int(is_example_N.sum())
        others, repeats = len(data) + len(photos) - shown, 0
        order_N = np.arange(len(photos))
        if shown:
            repeats = max(1, round(others * share / (1 - share) / shown))
            order_N = np.concatenate([order_N[~is_example_N], np.tile(order_N[is_example_N], repeats)])
        return cls(
            data.with_photos(photos.at(order_N)),
            images,
            curation,
            examples=shown,
            repeats=repeats,
            unlabelled=len(photos) - shown,
        )

    def summary(self) -> str:
        """What is trained on, in a line."""
        parts = []
        if self.images is not None and self.curation is not None:
            low, same, kept = (
                int(each.sum()) for each in (self.curation.low_score_N, self.curation.duplicate_N, self.curation.keep_N)
            )
            left_out = f" (left out: {low} with a low score, {same} near-duplicates)" if low or same else ""
            parts.append(f"{kept} of {len(self.images)} synthetic images{left_out}")
        if self.unlabelled:
            parts.append(f"{self.unlabelled} unlabelled photos")
        if self.examples:
            parts.append(f"{self.examples} examples {self.repeats} times over")
        return f"training on {' and '.join(parts)}"


def open_photos(folders: Sequence[ImageFolder], reading: ReadingSettings) -> PhotoSet:
    """The photos of some folders, one folder after the other; those that cannot be read are told.

    Raises:
        DataError: No photo of a folder can be read.
    """
    photos, first = PhotoSet.open([path for folder in folders for path, _ in folder.items], reading), 0
    for folder in folders:
        behind = first + len(folder.items)
        if not ((photos.photo_N >= first) & (photos.photo_N < behind)).any():
            raise _none_of(folder)
        first = behind
    return photos


def _none_of(folder: ImageFolder) -> DataError:
    return DataError(f"none of the {len(folder.items)} pictures in {folder.path} could be read. Check the files.")


def pictures_of_nothing(sampler: DeadLeaves | Noise, count: int, size: int, seed: int) -> TrainingData:
    """Pictures of no class to train on; each follows from its number."""
    from clipstill.generators.procedural import pictures

    pixels_N3HW = pictures(sampler, count, size, seed)
    return TrainingData(pixels_N3HW, torch.full((count,), -1), torch.arange(count) % _GROUPS)


def train_student(
    models: Models,
    data: TrainingData,
    *,
    teacher: Teacher,
    class_vectors_CD: Tensor,
    task: Task,
    work: Path,
    watch: Watch | None = None,
) -> tuple[Student, DistilResult]:
    """A new student, trained; on the device of the models, in evaluation mode.

    Under torchrun all ranks call this at once, with equal arguments, and train one student. A call that was killed
    resumes from ``work``. The teacher has its prompts, if there are any.
    """
    settings, device = models.settings, models.device
    section = settings.student
    student = student_of(models, len(class_vectors_CD), section.init)
    if section.head == "class-vectors":
        scale = float(student.logit_scale or teacher.logit_scale)
        layers, width = section.projector_layers, section.projector_width
        student.use_class_vectors(class_vectors_CD, scale, seed=settings.seed, layers=layers, width=width)
    else:
        student.begin_with(first_head(student, section, teacher, class_vectors_CD=class_vectors_CD, task=task))
    with together(trains_together(settings)):
        result = distil(
            student.to(device),
            SoftLabels(teacher, class_vectors_CD.to(device)),
            data,
            settings=settings.distillation,
            folder=work,
            seed=settings.seed,
            watch=watch,
        )
    return student, result


def trains_together(settings: Settings) -> bool:
    """Whether the ranks of torchrun train together; a head on cached features is trained before they have met."""
    return torchrun.world() > 1 and settings.distillation.freeze != "backbone"


def read_all(folder: ImageFolder, preprocess: Preprocess) -> tuple[Tensor, Tensor]:
    """All readable pictures, uint8 (N, 3, H, W), and their classes (N,); the others are named.

    Raises:
        DataError: None can be read.
    """
    parts = list(iterate(folder, preprocess, _AT_ONCE))
    if not parts:
        raise _none_of(folder)
    pixels_NHW3 = np.concatenate([pixels for pixels, _ in parts])
    labels_N = torch.tensor([label for _, labels in parts for label in labels])
    return torch.from_numpy(pixels_NHW3).permute(0, 3, 1, 2).contiguous(), labels_N
