"""Class vectors adapted to unlabelled photos, as a teacher sees them.

Shapes: N photos, C classes, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from clipstill.assembly.class_vectors import TaskVectors, encode_folder, other_words
from clipstill.core.progress import listed
from clipstill.workflow.photos import limited

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.core.image_folder import ImageFolder
    from clipstill.core.protocols import Teacher
    from clipstill.teachers.adaptation import Adapted
    from clipstill.text.task import Task
    from clipstill.workflow.settings import Settings

# Means of more photos hardly differ, and the teacher has to see each of them.
MOST_PHOTOS = 2000


def encode_unlabelled(teacher: Teacher, folder: ImageFolder, device: torch.device, seed: int) -> Tensor:
    """The teacher's vectors (N, D) of unlabelled photos, on the CPU; of very many, of some drawn by the seed."""
    return encode_folder(teacher, limited(folder, MOST_PHOTOS, seed), device, "unlabelled photos")[0]


def adapt(teacher: Teacher, task: Task, settings: Settings, vectors: TaskVectors, *, feat_ND: Tensor) -> Adapted:
    """Adapt a task's class vectors to the teacher's vectors of unlabelled photos (N, D)."""
    from clipstill.teachers.adaptation import adapted_class_vectors, share_of_classes

    scale = float(teacher.logit_scale)
    other_WD = other_words(teacher, task, settings, vectors.text_CD).free_WD
    return adapted_class_vectors(
        vectors.class_CD,
        feat_ND,
        share_of_classes(feat_ND, vectors.text_CD, other_WD, scale),
        scale=scale,
        text_share_C=vectors.text_share_C,
    )


def adaptation_facts(adapted: Adapted, task: Task, seen: int) -> dict[str, Any]:
    """What was adapted from how many photos, as JSON values."""
    is_seen = zip(task.names, adapted.is_seen_C.tolist(), strict=True)
    return {
        "photos": seen,
        "photos_that_fit": round(adapted.photos, 1),
        "strength": round(adapted.strength, 3),
        "counts": dict(zip(task.names, (round(count, 1) for count in adapted.count_C.tolist()), strict=True)),
        "not_seen": [name for name, seen in is_seen if not seen],
    }


def adaptation_line(facts: Mapping[str, Any]) -> str:
    """The facts in one line for people."""
    classes, missing = len(facts["counts"]), facts["not_seen"]
    without = f" (not {listed(missing, most=5)})" if missing else ""
    return (
        f"class vectors adapted to {facts['photos']} unlabelled photos, of which about {facts['photos_that_fit']:.0f} "
        f"count; they seem to show {classes - len(missing)} of {classes} classes{without}; "
        f"strength {facts['strength']:.2f} of 1"
    )
