"""A student of a run, as it starts or as it was stored: one of ``clipstill.students``, or a teacher's image tower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clipstill.core.errors import ConfigError
from clipstill.students import load_student, students

if TYPE_CHECKING:
    from clipstill.pipeline.config import StudentSection
    from clipstill.students.student import Student


def check_student_name(section: StudentSection) -> None:
    """Find the part behind a student's name without loading it.

    Raises:
        UnknownNameError: with the closest name.
    """
    from clipstill.teachers import resolve_teachers

    if section.tower_of is not None:
        resolve_teachers(section.tower_of)
    else:
        students.resolve(section.name)


def new_student(section: StudentSection, classes: int, init: str | Path, seed: int) -> Student:
    """Build a student on the CPU.

    Args:
        section: of the settings.
        classes: C.
        init: ``"pretrained"``, ``"scratch"`` or a file of weights.
        seed: of the weights that are drawn.

    Raises:
        ClipstillError: as ``load_student``; a tower cannot begin from scratch.
    """
    if section.tower_of is None:
        return load_student(section.name, classes, init, section.image_size, seed)
    from clipstill.students.timm_student import load_weights
    from clipstill.students.tower_student import TowerStudent
    from clipstill.teachers import load_teacher
    from clipstill.teachers.image_backbones import image_backbone

    if init == "scratch":
        raise ConfigError(
            f"student.init is 'scratch', and '{section.name}' is a trained tower. Set it to 'pretrained'."
        )
    teacher = load_teacher(section.tower_of, torch.device("cpu"))
    backbone = image_backbone(teacher, section.prompts, section.prompt_depth, section.image_size, seed)
    preprocess = replace(teacher.preprocess, size=section.image_size)
    student = TowerStudent(
        section.name,
        backbone,
        classes,
        preprocess,
        teacher.provenance,
        seed,
        float(teacher.logit_scale),
        trained=section.tower == "trained",
    )
    if init != "pretrained":
        load_weights(student, Path(init))
    return student.eval()
