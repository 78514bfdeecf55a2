"""Students: small image classifiers that are trained, exported and shipped.

Add one by a line in the table: a factory ``f(rest, classes, *, init, image_size, seed) -> Student``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.registry import Registry

if TYPE_CHECKING:
    from clipstill.students.student import Student

students = Registry(
    "student",
    {
        "lite0": "clipstill.students.timm_student:lite0",
        "lite2": "clipstill.students.timm_student:lite2",
        "mobilenetv3-small": "clipstill.students.timm_student:mobilenetv3_small",
        "mobilenetv4-small": "clipstill.students.timm_student:mobilenetv4_small",
        "resnet10t": "clipstill.students.timm_student:resnet10t",
        "resnet18": "clipstill.students.timm_student:resnet18",
        "vit-tiny": "clipstill.students.timm_student:vit_tiny",
    },
    prefixes={"timm": "clipstill.students.timm_student:load_timm"},
)


def load_student(
    name: str, classes: int, init: str | Path = "pretrained", image_size: int | None = None, *, seed: int = 0
) -> Student:
    """Build a student.

    Args:
        name: Name in ``clipstill list students``, or ``timm:ARCHITECTURE``.
        classes: Number of outputs, at least 2.
        init: ``"pretrained"`` (ImageNet weights), ``"scratch"``, or the path of a safetensors file: a whole student, or
            a timm network whose classifier is replaced.
        image_size: Side in pixels for training and use; by default the architecture's own.
        seed: Seed of the random weights: all of them from scratch, the head's otherwise.

    Raises:
        ClipstillError: The name, the size or the weights cannot be used.
    """
    factory, rest = students.resolve(name)
    student: Student = factory(rest, classes, init=init, image_size=image_size, seed=seed)
    return student
