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
    from clipstill.students.student import Student
    from clipstill.students.tower_student import TowerStudent
    from clipstill.workflow.models import Models


def check_student_name(section: StudentSettings) -> None:
    """Raise ``UnknownNameError`` with the closest name if there is no such student; nothing is loaded."""
    from clipstill.teachers import resolve_teachers

    if section.tower_of is not None:
        resolve_teachers(section.tower_of)
    else:
        students.resolve(section.name)


def new_student(section: StudentSettings, classes: int, init: str | Path, seed: int) -> Student:
    """Build a student on the CPU.

    Args:
        section: Settings of the student.
        classes: Number of classes.
        init: ``"pretrained"``, ``"scratch"`` or a file of weights.
        seed: Seed of the weights that are drawn at random.

    Raises:
        ConfigError: A frozen or tower network was asked to begin from scratch.
    """
    if section.tower_of is None and section.prompts == 0:
        return load_student(section.name, classes, init, section.image_size, seed=seed)
    if init == "scratch":
        what = "is a trained tower" if section.tower_of else "is frozen behind student.prompts"
        raise ConfigError(f"student.init is 'scratch', and '{section.name}' {what}. Set it to 'pretrained'.")
    if section.tower_of is None:
        return _framed_network(section, classes, init, seed).eval()
    student = _tower(section, classes, seed)
    if init != "pretrained":
        _load(student, init)
    return student.eval()


def student_of(models: Models, classes: int, init: str | Path) -> Student:
    """A run's student on the CPU: the one that the caller built, which starts as it is, or the named one.

    ``init`` is ``"pretrained"``, ``"scratch"`` or a file of weights.

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
    """How a bundle's student was built; where the bundle tells its name alone, the rest is taken from ``section``."""
    stored = {"name": str(bundle.info.get("student", "")), **bundle.info.get("student_tower", {})}
    return section.model_copy(update={**stored, "image_size": bundle.preprocess.size})


def _tower(section: StudentSettings, classes: int, seed: int) -> TowerStudent:
    """A teacher's image tower, with prompt tokens or a learned frame around the picture where ``prompts`` is not 0."""
    from clipstill.students.student import Backbone
    from clipstill.students.tower_student import FramedBackbone, TowerStudent
    from clipstill.teachers import load_teacher
    from clipstill.teachers.image_backbones import image_backbone, takes_tokens

    assert section.tower_of is not None
    teacher = load_teacher(section.tower_of, torch.device("cpu"))
    tokens = section.prompts if takes_tokens(teacher) else 0
    network = image_backbone(
        teacher, tokens=tokens, depth=section.prompt_depth, image_size=section.image_size, seed=seed
    )
    if section.prompts and not tokens:
        network = FramedBackbone(network, section.prompts, section.image_size)
    preprocess = replace(teacher.preprocess, size=section.image_size)
    scale = float(teacher.logit_scale)
    backbone = Backbone(section.name, network, preprocess, provenance=teacher.provenance, logit_scale=scale)
    return TowerStudent(backbone, classes, seed, trained=section.tower == "trained")


def _framed_network(section: StudentSettings, classes: int, init: str | Path, seed: int) -> TowerStudent:
    """Any other network behind a learned frame around the picture."""
    from clipstill.students.student import Backbone
    from clipstill.students.timm_student import holds_frame
    from clipstill.students.tower_student import FramedBackbone, TowerStudent

    stored = init != "pretrained" and holds_frame(Path(init))
    plain = load_student(section.name, classes, "scratch" if stored else init, section.image_size, seed=seed)
    network = FramedBackbone(plain.backbone, section.prompts, section.image_size)
    backbone = Backbone(section.name, network, plain.preprocess, plain.provenance)
    student = TowerStudent(backbone, classes, seed, trained=section.tower == "trained")
    if stored:
        _load(student, init)
    return student


def _load(student: Student, path: str | Path) -> None:
    from clipstill.students.timm_student import load_weights

    load_weights(student, Path(path))
