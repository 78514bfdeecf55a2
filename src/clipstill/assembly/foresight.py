"""What a teacher is expected to know of a task: by its names, its photos without labels, or its examples.

Shapes: K ImageNet classes, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from clipstill.assembly.class_vectors import encode_folder, templates_of
from clipstill.assembly.fixed_texts import encode_once
from clipstill.core.foresight import (
    CONFIDENT_FROM,
    MEASURED_FROM,
    Estimate,
    Foresight,
    by_confidence,
    by_names,
    of_student,
    wilson,
)
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.names import spoken
from clipstill.evaluation.evaluate import BATCH, student_predictor
from clipstill.text.difficulty import estimate, is_familiar
from clipstill.text.linter import Known, Linter
from clipstill.text.word_checks import WARNING, Finding
from clipstill.workflow.photos import Photos, limited

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.students.student import Student
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings

# More unread names than this share, and the list is in another language: some of its words only look English.
_MOST_UNREAD = 0.25
_UNREAD = "the teacher cannot read these names"
_STRANGE = "most of these classes are outside what the teacher was trained on"
_NO_TEACHER = "no teacher of this kind was measured"
_PROMPTED = "no teacher with learned prompts was measured"
_SCRATCH = "no student that learns from scratch was measured"
_HARD_KINDS = ("negation", "synonym", "plural")
# Photos that the teacher is asked about: 250 have an error of 3 points by chance.
MOST_LOOKED_AT = 250
# Images a class from which on a student is as near to its teacher as ``core.foresight.OF_STUDENT`` says, if it does not
# begin with what the teacher knows: with two a class it had 49 % where its teacher had 88.
LEAST_IMAGES = 16


def linter_of(
    teacher: Teacher, task: Task, class_vectors_CD: Tensor, settings: Settings, *, with_examples: Collection[str] = ()
) -> Linter:
    """The linter of a task in the space of its teacher."""
    known = common_words(teacher, settings)
    return Linter(
        task,
        class_vectors_CD,
        known,
        lambda texts: teacher.encode_text(_read_as_names(texts, teacher, settings)).float().cpu(),
        multilingual=teacher.multilingual,
        with_examples=with_examples,
    )


def foresee_by_names(
    linter: Linter, findings: Sequence[Finding], teacher: Teacher, settings: Settings
) -> tuple[Foresight, dict[str, float]]:
    """What the names alone tell, of all classes and of each that the teacher can read; nothing if it cannot be told."""
    imagenet_KD = imagenet_names(teacher, settings)
    names, reason = linter.task.names, ""
    if settings.has_prompts:
        reason = _PROMPTED
    elif imagenet_KD is None:
        reason = _NO_TEACHER
    elif len(linter.unread) > _MOST_UNREAD * len(names):
        reason = _UNREAD
    elif not is_familiar(linter):
        reason = _STRANGE
    if imagenet_KD is None or reason:
        return Foresight("names alone", reason=reason), {}
    of_kind = {kind: {name for one in findings if one.kind == kind for name in one.classes} for kind in _HARD_KINDS}
    doubled = of_kind["synonym"] | of_kind["plural"]
    shares = dict(zip(names, estimate(linter, imagenet_KD), strict=True))
    # Between two names of one thing, the teacher can only guess.
    shares = {name: round(share / 2 if name in doubled else share, 4) for name, share in shares.items()}
    guessed = {names[place] for place in linter.unread} | of_kind["negation"]
    total = sum(1 / len(names) if name in guessed else share for name, share in shares.items())
    taking = [f"{name} as a guess" for name in names if name in guessed]
    taking += [f"{one.classes[0]} as {one.taken_for}" for one in findings if one.level == WARNING and one.taken_for]
    return by_names(total / len(names), taking), {name: each for name, each in shares.items() if name not in guessed}


def sharpened(
    by_names: Foresight,
    teacher: Teacher,
    text_CD: Tensor,
    *,
    photos: Photos,
    settings: Settings,
    device: torch.device,
    student: Student | None = None,
    most: int = MOST_LOOKED_AT,
) -> Foresight:
    """The same with the examples, each classified without itself, or the teacher's confidence on other photos.

    Args:
        text_CD: Class vectors by the names alone.
        student: Whose answers are foretold; None for the teacher's own.
        most: Most photos that are looked at.
    """
    if settings.has_prompts:
        return by_names
    shown = _limited(photos.examples, most // len(text_CD), settings.seed)
    unlike = "" if student is None else _unlike_measured(settings)
    if shown is not None and len(shown.items) >= MEASURED_FROM and not unlike:
        from clipstill.teachers.prototypes import right_without_themselves

        feat_ND, labels = encode_folder(teacher, shown, device)
        right = right_without_themselves(feat_ND, labels, text_CD, settings.examples.text_count)
        # They share class vectors, and count for half as many.
        count, basis = max(1, len(labels) // 2), f"{len(labels)} examples, each classified without itself"
        found = Foresight(basis, Estimate(*wilson(right / len(labels), count)))
        return found if student is None else of_student(found)
    # A student that learned from the examples knows them by heart.
    looked_at = _limited(photos.unlabelled, most, settings.seed) or (shown if student is None else None)
    if by_names.photos is not None and looked_at is not None and len(looked_at.items) >= CONFIDENT_FROM:
        feat_ND, _ = encode_folder(teacher, looked_at, device)
        teacher_NC = (float(teacher.logit_scale) * feat_ND @ text_CD.T).softmax(1)
        answer_N = teacher_NC.argmax(1)
        if student is not None:
            answer_N = answer_N.new_tensor(student_answers(student, looked_at, device)[0].argmax(axis=1))
        return by_confidence(float(teacher_NC.gather(1, answer_N[:, None]).mean()), len(feat_ND))
    if student is None or by_names.photos is None:
        return by_names
    return Foresight(by_names.basis, reason=unlike) if unlike else of_student(by_names)


def _unlike_measured(settings: Settings) -> str:
    """Why what is known of students does not hold for this one; empty if it does."""
    if settings.student.init == "scratch":
        return _SCRATCH
    few = settings.prompts.images_per_class < LEAST_IMAGES and not settings.begins_with_teacher
    return f"no student of fewer than {LEAST_IMAGES} images a class was measured" if few else ""


def student_answers(
    student: Student, folder: ImageFolder, device: torch.device
) -> tuple[NDArray[np.floating], NDArray[np.int64]]:
    """The student's logits (N, C) for whole photos, and their labels (N,); unreadable files were named before."""
    predict = student_predictor(student, device)
    batches = iterate(folder, student.preprocess.whole, BATCH, on_skip=lambda *_: None)
    answers, labels = zip(*((predict(pixels_NHW3), label_N) for pixels_NHW3, label_N in batches), strict=True)
    return np.concatenate(answers), np.concatenate(labels)


def _limited(folder: ImageFolder | None, per_class: int, seed: int) -> ImageFolder | None:
    return None if folder is None else limited(folder, max(1, per_class), seed)


def _read_as_names(texts: Sequence[str], teacher: Teacher, settings: Settings) -> list[str]:
    template = templates_of(settings, teacher)[0]
    return [template.replace("{class}", spoken(text)) for text in texts]


def common_words(teacher: Teacher, settings: Settings) -> Known:
    """Common words, as the teacher reads them."""
    from clipstill.text.near_misses import WORDS

    return Known(WORDS, encode_once(teacher, _read_as_names(WORDS, teacher, settings), settings))


def imagenet_names(teacher: Teacher, settings: Settings) -> Tensor | None:
    """Unit vectors (K, D) of ImageNet's class names; None unless the teacher's image tower learned from ImageNet."""
    from clipstill.core.protocols import BatchNormTeacher
    from clipstill.text.wordnet import wordnet

    if not isinstance(teacher, BatchNormTeacher) or not teacher.statistics_networks:
        return None
    return encode_once(teacher, _read_as_names(wordnet().imagenet_words(), teacher, settings), settings)
