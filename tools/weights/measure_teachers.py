"""Measures embedded teachers by class names alone, on real pictures that they were not trained on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from clipstill.core.file_names import visible
from clipstill.core.image_folder import ImageFolder
from clipstill.evaluation.evaluate import evaluate, teacher_predictor
from clipstill.teachers import class_vectors
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.text.task import Task
from clipstill.text.templates import NAME_TEMPLATES, class_texts

TEACHERS = {"embedded-s": ("lite0",), "embedded-m": ("lite2", "lite0")}
# Column of the table -> folder with one sub-folder per class.
SETS = {
    "PACS photo": "pacs/test/photo",
    "PACS art": "pacs/test/art_painting",
    "PACS cartoon": "pacs/test/cartoon",
    "PACS sketch": "pacs/test/sketch",
    "Caltech-101": "caltech101/test",
    "Flowers": "flowers/test",
    "Tiny ImageNet": "tinyimagenet/test",
}


def measure_teachers(assets: Path, data: Path) -> dict[str, dict[str, float]]:
    """Top-1 in percent of each embedded teacher on each set.

    Args:
        assets: Folder of the weights.
        data: Folder of the sets in ``SETS``.

    Raises:
        DataError: A set is missing.
    """
    measured: dict[str, dict[str, float]] = {}
    for name, sizes in TEACHERS.items():
        teacher = EmbeddedTeacher(name, sizes, torch.device("cpu"), assets=assets)
        measured[name] = {column: _top1(teacher, data / folder) for column, folder in SETS.items()}
    return measured


def _top1(teacher: EmbeddedTeacher, path: Path) -> float:
    names = tuple(entry.name for entry in visible(path.iterdir()) if entry.is_dir()) if path.is_dir() else ()
    folder = ImageFolder.open(path, names)
    vectors_CD = class_vectors(teacher, class_texts(Task(names, ("",) * len(names)), NAME_TEMPLATES))
    predict = teacher_predictor(teacher, vectors_CD)
    result = evaluate(predict, folder, teacher.preprocess, title=f"{teacher.name} on {path.name}")
    return round(100 * result.top1, 1)


def as_table(measured: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row for each teacher."""
    lines = [
        "| top-1 by names alone, % | " + " | ".join(SETS) + " |",
        "|---|" + "---:|" * len(SETS),
        *(
            f"| {name} | " + " | ".join(f"{row[column]:.1f}" for column in SETS) + " |"
            for name, row in measured.items()
        ),
    ]
    return "\n".join(lines)
