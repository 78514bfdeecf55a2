"""A teacher's vectors of the development sets, encoded once and kept in a folder, for experiments that take seconds.

Shapes: N photos, C classes, D teacher dimensions, W words for other things.
"""

from __future__ import annotations

import random
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from clipstill.assembly.class_vectors import encode_folder, other_words, text_vectors
from clipstill.core.files import sha256_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.tensors import write_tensors
from clipstill.teachers import load_teacher
from clipstill.text.task import Task, parse_task
from clipstill.workflow.photos import photos_digest
from clipstill.workflow.recipes import load_settings

_CPU = torch.device("cpu")
_DOMAINS = ("photo", "art_painting", "cartoon", "sketch")
# Name -> folder of the photos to learn from and of those to measure on.
FOLDERS = {
    **{f"pacs {domain}": (f"pacs/train/{domain}", f"pacs/test/{domain}") for domain in _DOMAINS},
    **{name: (f"{name}/train", f"{name}/test") for name in ("caltech101", "flowers", "tinyimagenet", "textile")},
}
SETS = (*(f"pacs {domain}" for domain in _DOMAINS), "caltech20", "caltech101", "flowers", "tinyimagenet", "textile")


@dataclass(frozen=True)
class Features:
    """Unit vectors of one set, and the labels of its photos."""

    text_CD: Tensor
    other_WD: Tensor  # Of words for other things than the classes.
    scale: float
    train_ND: Tensor
    train_N: Tensor
    test_ND: Tensor
    test_N: Tensor

    def top1(self, class_vectors_CD: Tensor, bias_C: Tensor | float = 0.0) -> float:
        """Top-1 on the test photos, in percent."""
        answer_N = (self.test_ND @ class_vectors_CD.T + bias_C).argmax(1)
        return 100 * float((answer_N == self.test_N).float().mean())


def features_of(teacher_name: str, sets: list[str], data: Path, cache: Path) -> dict[str, Features]:
    """The features of each set; what the cache lacks is encoded first."""
    teacher, settings = load_teacher(teacher_name, _CPU), load_settings()
    found = {}
    for name in sets:
        folders = [data / part for part in FOLDERS["caltech101" if name == "caltech20" else name]]
        task = parse_task(sorted(path.name for path in folders[1].iterdir() if path.is_dir()))
        parts: dict[str, Tensor] = {}
        for part, folder in zip(("train", "test"), folders, strict=True):
            photos = ImageFolder.open(folder, task.names)
            key = sha256_json([teacher.weights_sha256, teacher.image_size, photos_digest(photos)])[:16]
            place = cache / f"{teacher_name}-{key}.safetensors"
            if not place.exists():
                print(f"{teacher_name}: encoding {folder}", file=sys.stderr, flush=True)
                feat_ND, labels = encode_folder(teacher, photos, _CPU)
                write_tensors(place, {f"{part}_ND": feat_ND, f"{part}_N": torch.tensor(labels)})
            parts |= _read(place)
        text_CD = text_vectors(teacher, task, settings)
        if name == "caltech20":
            task, text_CD, parts = _some(task, text_CD, parts)
        other_WD = other_words(teacher, task, settings, text_CD).free_WD
        found[name] = Features(text_CD=text_CD, other_WD=other_WD, scale=float(teacher.logit_scale), **parts)
    return found


def drawn(label_N: Tensor, classes: int, seed: int) -> list[list[int]]:
    """Places of the photos of each class, in an order drawn by the seed."""
    draw = random.Random(seed)
    places: list[list[int]] = [(label_N == label).nonzero().flatten().tolist() for label in range(classes)]
    return [draw.sample(of_class, len(of_class)) for of_class in places]


def _read(place: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(place)


def _some(task: Task, text_CD: Tensor, parts: dict[str, Tensor]) -> tuple[Task, Tensor, dict[str, Tensor]]:
    """The 20 classes of Caltech-101 that other measurements take too."""
    names = random.Random(0).sample(sorted(task.names), 20)
    chosen = [task.names.index(name) for name in names]
    left = {}
    for part in ("train", "test"):
        keep_N = torch.isin(parts[f"{part}_N"], torch.tensor(chosen))
        left[f"{part}_ND"] = parts[f"{part}_ND"][keep_N]
        left[f"{part}_N"] = torch.tensor([chosen.index(label) for label in parts[f"{part}_N"][keep_N].tolist()])
    return replace(task, names=tuple(names), descriptions=("",) * 20), text_CD[chosen], left
