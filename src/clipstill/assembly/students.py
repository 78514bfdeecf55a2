"""A student of a run, as it starts or as it was stored: one of ``clipstill.students``, or a teacher's image tower."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from clipstill.core.errors import ConfigError
from clipstill.students import load_student, students

if TYPE_CHECKING:
    from clipstill.runtime import Bundle
    from clipstill.students.settings import StudentSettings
    from clipstill.students.student import Student, TowerStudent
    from clipstill.workflow.models import Models


def check_student_name(section: StudentSettings) -> None:
    """Check a student's name and whether it takes prompts, without loading it.

    Raises:
        UnknownNameError: There is no such student; the message has the closest name.
        ConfigError: Prompts are asked of something else than CLIP's image tower.
    """
    from clipstill.teachers import resolve_teachers

    if section.tower_of is None:
        students.check(section.name)
    else:
        resolve_teachers(section.tower_of)
    if section.prompts and not (section.tower_of or "").startswith("openclip:"):
        raise ConfigError(
            f"student.prompts is {section.prompts}, and '{section.name}' takes no prompts: they are tokens in CLIP's "
            f"image tower. Set student.prompts to 0, or student.name to tower:openclip:ARCHITECTURE/TAG."
        )


def new_student(section: StudentSettings, classes: int, init: str | Path, seed: int) -> Student:
    """Build a student on the CPU.

    Args:
        section: Which student, and how it is built.
        classes: Number of classes.
        init: ``"pretrained"``, ``"scratch"`` or a file of weights.
        seed: Seed of the random weights.

    Raises:
        ClipstillError: As ``load_student`` and ``check_student_name``; or a tower is asked to begin from scratch.
    """
    check_student_name(section)
    if section.tower_of is None:
        return load_student(section.name, classes, init, section.image_size, seed=seed)
    if init == "scratch":
        raise ConfigError(
            f"student.init is 'scratch', and '{section.name}' is a trained tower. Set it to 'pretrained'."
        )
    student = _tower(section, classes, seed)
    if init != "pretrained":
        _load(student, init)
    return student.eval()


def student_of(models: Models, classes: int, init: str | Path) -> Student:
    """The student of a run on the CPU: a copy of the one that the caller built, or the named one.

    Raises:
        ConfigError: The caller's student has another number of classes.
    """
    settings = models.settings
    built: Student | None = models.built.get("student")
    if built is None:
        return new_student(settings.student, classes, init, settings.seed)
    if built.head.out_features != classes:
        raise ConfigError(f"the given student has {built.head.out_features} classes, and the task has {classes}.")
    student = copy.deepcopy(built).cpu()
    if isinstance(init, Path):
        _load(student, init)
    return student.eval()


def bundled_section(bundle: Bundle, section: StudentSettings) -> StudentSettings:
    """How a bundle's student was built; what the bundle does not tell is taken from ``section``."""
    metadata = {"name": str(bundle.info.get("student", "")), **bundle.info.get("student_tower", {})}
    return section.model_copy(update={**metadata, "image_size": max(bundle.preprocess.shape)})


def _tower(section: StudentSettings, classes: int, seed: int) -> TowerStudent:
    from clipstill.students.student import Backbone, TowerStudent
    from clipstill.teachers import load_teacher
    from clipstill.teachers.image_backbones import image_backbone

    assert section.tower_of is not None
    teacher = load_teacher(section.tower_of, torch.device("cpu"))
    network = image_backbone(
        teacher, tokens=section.prompts, depth=section.prompt_depth, image_size=section.image_size, seed=seed
    )
    size = teacher.preprocess.size if section.image_size == teacher.image_size else section.image_size
    backbone = Backbone(
        name=section.name,
        network=network,
        # Embedded towers take any size, those of CLIP their own alone, which need not be square.
        preprocess=replace(teacher.preprocess, size=size),
        provenance=teacher.provenance,
        logit_scale=float(teacher.logit_scale),
    )
    return TowerStudent(backbone, classes, seed, trained=section.tower == "trained")


def _load(student: Student, path: str | Path) -> None:
    from clipstill.students.timm_student import load_weights

    load_weights(student, Path(path))
