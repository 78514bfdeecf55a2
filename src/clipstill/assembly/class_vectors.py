"""Class vectors of a teacher from texts and examples, as the settings ask for them.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipstill.core.errors import DataError, TaskError
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.progress import Progress
from clipstill.evaluation.evaluate import BATCH

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings

# Cosine from which on two class vectors are equal.
_EQUAL = 1 - 1e-4


def templates_of(settings: Settings, teacher: Teacher) -> tuple[str, ...]:
    """The sentences whose mean is a class vector."""
    from clipstill.text.templates import template_set

    templates = settings.prompts.templates
    return template_set(templates, teacher.templates) if isinstance(templates, str) else tuple(templates)


def text_vectors(teacher: Teacher, task: Task, settings: Settings) -> Tensor:
    """One unit vector a class (C, D) from its texts, as the teacher reads them, on the CPU."""
    from clipstill.teachers import class_vectors
    from clipstill.text.reading import as_read
    from clipstill.text.templates import class_texts

    texts = class_texts(as_read(task, teacher.multilingual), templates_of(settings, teacher))
    return class_vectors(teacher, texts).cpu()


def refuse_equal(task: Task, class_vectors_CD: Tensor, examples: ImageFolder | None) -> None:
    """Raise ``TaskError`` for two classes of one text vector and no examples: the teacher takes them for one."""
    from torch.nn.functional import normalize

    shown = set() if examples is None else set(task.names) - set(examples.classes_without_images)
    hidden = [place for place, name in enumerate(task.names) if name not in shown]
    unit_CD = normalize(class_vectors_CD[hidden], dim=-1)
    pairs = (unit_CD @ unit_CD.T).triu(1) > _EQUAL
    if pairs.any():
        first, second = (task.names[hidden[place]] for place in pairs.nonzero()[0].tolist())
        raise TaskError(
            f"the teacher reads '{first}' and '{second}' as the same (equal class vectors). Say in English what each "
            f"is, as in '{second}: dog' (the label stays), or give examples of both (--examples DIR)."
        )


def encode_folder(teacher: Teacher, folder: ImageFolder, device: torch.device) -> tuple[Tensor, list[int]]:
    """The teacher's vectors of example images (N, D), on the CPU, and their classes; unreadable files are named."""
    import torch

    parts, labels = [], []
    with Progress("examples", total=len(folder.items), unit="img") as bar, torch.no_grad():
        for pixels_NHW3, batch_labels in iterate(folder, teacher.preprocess, BATCH):
            x_N3HW = torch.from_numpy(pixels_NHW3).to(device).permute(0, 3, 1, 2).float() / 255
            parts.append(teacher.encode_image(x_N3HW).cpu())
            labels += batch_labels
            bar.advance(len(batch_labels))
    if not labels:
        raise DataError(f"none of the {len(folder.items)} examples in {folder.path} could be read. Check the files.")
    return torch.cat(parts), labels


def vectors_with_examples(teacher: Teacher, task: Task, settings: Settings, examples: ImageFolder | None) -> Tensor:
    """One unit vector a class (C, D), on the CPU, from its texts and its examples; the teacher is on the CPU."""
    import torch

    from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes

    text_CD = text_vectors(teacher, task, settings)
    if examples is None:
        return text_CD
    feat_ND, labels = encode_folder(teacher, examples, torch.device("cpu"))
    return class_vectors_with_examples(text_CD, prototypes(feat_ND, labels, text_CD), settings.examples.text_count)
