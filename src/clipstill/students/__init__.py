"""Students: small image classifiers that are trained, exported and shipped.

Add one by a line in the table: a factory ``f(rest, classes, *, init, image_size, seed) -> Student``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.registry import Part, Registry

if TYPE_CHECKING:
    from clipstill.students.student import Student

students = Registry(
    "student",
    {
        "lite0": Part("clipstill.students.timm_student:lite0", "you begin: the default", "18.6 MB", "Apache-2.0"),
        "lite2": Part(
            "clipstill.students.timm_student:lite2",
            "half more of the size and the time may be tried",
            "24.4 MB",
            "Apache-2.0",
        ),
        "mobilenetv3-small": Part(
            "clipstill.students.timm_student:mobilenetv3_small",
            "size counts most, and you have thousands of pictures or weights of your own",
            "6.1 MB",
        ),
        "mobilenetv4-small": Part(
            "clipstill.students.timm_student:mobilenetv4_small",
            "as mobilenetv3-small, for phones with an accelerator",
            "10.0 MB",
        ),
        "resnet10t": Part(
            "clipstill.students.timm_student:resnet10t",
            "a plain network must be compared with, trained from scratch",
            "19.7 MB",
        ),
        "resnet18": Part("clipstill.students.timm_student:resnet18", "you repeat a published system", "44.7 MB"),
        "vit-tiny": Part(
            "clipstill.students.timm_student:vit_tiny",
            "you need a transformer, and have weights or thousands of pictures",
            "22.1 MB",
        ),
    },
    prefixes={
        "timm": Part(
            "clipstill.students.timm_student:load_timm",
            "you know which of timm's networks you want",
            "any",
            "of its weights",
        )
    },
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
