"""A teacher that learns prompts from examples, as the settings of a run have it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.assembly.training import read_all
from clipstill.core.progress import say
from clipstill.distillation.prompt_tuning import tune_prompts
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.prompted import PromptedTeacher, prompted

if TYPE_CHECKING:
    from clipstill.core.images import ImageFolder
    from clipstill.core.protocols import Teacher
    from clipstill.distillation.settings import PromptTeacherSettings

# Examples are stored larger than the teacher sees them, for the crops to cut from.
_ROOM_FOR_CROPS = 8 / 7


def learn_prompts(
    plain: Teacher, examples: ImageFolder, section: PromptTeacherSettings, *, seed: int, work: Path
) -> tuple[PromptedTeacher, dict[str, Any]]:
    """Learn prompts; only classes with examples compete, and the prompts then serve all classes.

    Returns the teacher with its prompts, and JSON values: ``history``, ``classes`` that had examples, ``examples``. A
    call that was killed resumes from ``work``.
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
    larger = replace(plain.preprocess.whole, size=round(plain.image_size * _ROOM_FOR_CROPS))
    pixels_N3HW, label_N = read_all(examples, larger)
    shown = sorted(set(label_N.tolist()))
    names = [examples.classes[label] for label in shown]
    say(f"teacher's prompts: {len(label_N)} examples of {len(names)} of {len(examples.classes)} classes")
    place = {label: at for at, label in enumerate(shown)}
    own_N = label_N.clone().apply_(place.__getitem__)
    history = tune_prompts(teacher, names, pixels_N3HW, own_N, settings=section, folder=work, seed=seed)
    return teacher, {"history": history, "classes": names, "examples": len(label_N)}
