"""Class vectors of a teacher from texts and examples, as the settings ask for them.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from clipstill.assembly.fixed_texts import encode_once
from clipstill.core.errors import DataError, TaskError
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.progress import Progress
from clipstill.evaluation.evaluate import BATCH

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.teachers.prototypes import ExampleVectors
    from clipstill.text.task import Task
    from clipstill.workflow.settings import ExamplesSettings, Settings

# Cosine from which on two class vectors are equal.
_EQUAL = 1 - 1e-4


def templates_of(settings: Settings, teacher: Teacher) -> tuple[str, ...]:
    """The sentences whose mean is a class vector."""
    from clipstill.text.templates import template_set

    templates = settings.prompts.templates
    return template_set(templates, teacher.templates) if isinstance(templates, str) else tuple(templates)


def text_vectors(teacher: Teacher, task: Task, settings: Settings, *, fixed: bool = False) -> Tensor:
    """One unit vector a class (C, D) from its texts, as the teacher reads them, on the CPU.

    ``fixed`` names are the same for every task, and are encoded once.
    """
    from clipstill.teachers import class_vectors
    from clipstill.text.reading import as_read
    from clipstill.text.templates import class_texts

    texts = class_texts(as_read(task, teacher.multilingual), templates_of(settings, teacher))
    encode = partial(encode_once, teacher, settings=settings) if fixed else None
    return class_vectors(teacher, texts, encode).cpu()


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


def encode_folder(
    teacher: Teacher, folder: ImageFolder, device: torch.device, title: str = "examples"
) -> tuple[Tensor, list[int]]:
    """The teacher's vectors of photos (N, D), on the CPU, and their labels; unreadable files are named."""
    import torch

    parts, labels = [], []
    with Progress(title, total=len(folder.items), unit="img") as bar, torch.no_grad():
        for pixels_NHW3, batch_labels in iterate(folder, teacher.preprocess, BATCH):
            x_N3HW = torch.from_numpy(pixels_NHW3).to(device).permute(0, 3, 1, 2).float() / 255
            parts.append(teacher.encode_image(x_N3HW).cpu())
            labels += batch_labels
            bar.advance(len(batch_labels))
    if not labels:
        raise DataError(f"none of the {len(folder.items)} {title} in {folder.path} could be read. Check the files.")
    return torch.cat(parts), labels


@dataclass(frozen=True)
class TaskVectors:
    """Vectors of a task's classes, on the CPU."""

    class_CD: Tensor  # From texts and examples.
    text_CD: Tensor  # Unit vectors from texts alone.
    examples: ExampleVectors | None = None
    text_count: float = 1.0  # Number of examples that a text counts for.

    @property
    def text_share_C(self) -> Tensor:
        """Share of the text in each class vector, in [0, 1]."""
        import torch

        if self.examples is None:
            return torch.ones(len(self.text_CD))
        count_C = self.examples.count_C.float()
        return torch.where(count_C > 0, self.text_count / (self.text_count + count_C).clamp_min(1e-6), 1.0)


def task_vectors(
    teacher: Teacher, task: Task, settings: Settings, examples: ImageFolder | None, device: torch.device | None = None
) -> TaskVectors:
    """Class vectors from texts and examples; ``device`` is the teacher's, the CPU by default."""
    import torch

    text_CD = text_vectors(teacher, task, settings)
    if examples is None:
        return TaskVectors(text_CD, text_CD)
    return with_examples(text_CD, *encode_folder(teacher, examples, device or torch.device("cpu")), settings.examples)


def with_examples(text_CD: Tensor, feat_ND: Tensor, labels: Sequence[int], settings: ExamplesSettings) -> TaskVectors:
    """Class vectors from those of texts and the unit vectors of examples (N, D)."""
    from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes, text_trust, whitened

    found, text_count = prototypes(feat_ND, labels, text_CD), settings.text_count
    if not bool(found.has_C.all()):
        vectors_CD = class_vectors_with_examples(text_CD, found, text_count)
    else:
        text_count *= text_trust(feat_ND, labels, text_CD)
        vectors_CD = class_vectors_with_examples(text_CD, found, text_count)
        vectors_CD = whitened(vectors_CD, feat_ND, labels, settings.whitening)
    return TaskVectors(vectors_CD, text_CD, found, text_count)


def other_words(teacher: Teacher, task: Task, settings: Settings, text_CD: Tensor) -> OtherWords:
    """Plain words for things, made like the classes of a task, by a teacher without learned prompts."""
    from clipstill.text.near_misses import KINDS, WORDS, word_shares
    from clipstill.text.reading import as_read

    words_WD, kinds_KD = (text_vectors(teacher, task_of(names), settings, fixed=True) for names in (WORDS, KINDS))
    return OtherWords(words_WD, *word_shares(as_read(task, teacher.multilingual).names, text_CD, words_WD, kinds_KD))


class OtherWords(NamedTuple):
    """``WORDS`` beside the classes of a task."""

    vectors_WD: Tensor
    share_CW: Tensor  # How near each word lies to each class.
    free: set[str]  # Words that mean something else than all classes.

    @property
    def free_WD(self) -> Tensor:
        """Vectors of the free words."""
        from clipstill.text.near_misses import WORDS

        return self.vectors_WD[[place for place, word in enumerate(WORDS) if word in self.free]]


def task_of(names: Sequence[str]) -> Task:
    """Names without descriptions."""
    from clipstill.text.task import Task

    return Task(tuple(names), ("",) * len(names))
