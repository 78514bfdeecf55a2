"""A teacher that learns prompts from examples, as the settings of a run have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from clipstill.assembly.training import open_photos
from clipstill.core.progress import say
from clipstill.distillation.prompt_tuning import tune_prompts
from clipstill.distillation.training_data import TrainingData
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.prompted import PromptedTeacher, prompted

if TYPE_CHECKING:
    from clipstill.core.image_folder import ImageFolder
    from clipstill.core.protocols import Teacher
    from clipstill.distillation.settings import PromptTeacherSettings, ReadingSettings


def learn_prompts(
    plain: Teacher,
    examples: ImageFolder,
    section: PromptTeacherSettings,
    reading: ReadingSettings,
    *,
    names: Sequence[str],
    seed: int,
    work: Path,
) -> tuple[PromptedTeacher, dict[str, Any]]:
    """Learn prompts; only classes with examples compete, and the prompts then serve all classes.

    ``names`` are the classes as the teacher reads them. Returns the teacher with its prompts, and JSON
    values: ``history``, ``classes`` that had examples, ``examples``. A call that was killed resumes from ``work``.
    """
    # "a photo of a" is published for CLIP; embedded teachers know bare names best.
    words = "a" if isinstance(plain, EmbeddedTeacher) else "a photo of a"
    teacher = prompted(
        plain,
        count=section.count,
        visual_depth=section.visual_depth,
        text_depth=section.text_depth,
        words=words,
        rank=section.rank,
        seed=seed,
    )
    photos = open_photos([examples], reading)
    labels = [examples.items[photo][1] for photo in photos.photo_N]
    shown = sorted(set(labels))
    names = [names[label] for label in shown]
    say(f"teacher's prompts: {len(labels)} examples of {len(names)} of {len(examples.classes)} classes")
    place = {label: at for at, label in enumerate(shown)}
    data = TrainingData.of_no_class().with_photos(photos, torch.tensor([place[label] for label in labels]))
    history = tune_prompts(teacher, names, data, settings=section, folder=work, seed=seed)
    return teacher, {"history": history, "classes": names, "examples": len(labels)}
