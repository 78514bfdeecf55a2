"""What each choice does for the student, measured on real photos. The README's numbers of students come from here.

    python benchmarks/quality.py measure  RUN... --photos photo=DIR art=DIR
    python benchmarks/quality.py controls RUN    --photos photo=DIR --drawings pictures.npy
    python benchmarks/quality.py scratch  RUN... --photos photo=DIR --student resnet10t --counts 28 112 336 --real DIR

RUN is a folder that ``clipstill run`` made; its teacher, class vectors, images and settings are used. ``pictures.npy``
is what ``python -m tools.weights embedded-teacher`` keeps in its cache: openly licensed drawings, unrelated to the
classes.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from safetensors.torch import load_file

from clipstill.core.files import sha256_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.images import fit, load_rgb
from clipstill.core.protocols import Preprocess, Teacher
from clipstill.core.seeds import generator_for
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.evaluation.evaluate import evaluate, student_predictor, teacher_predictor
from clipstill.generators.procedural import DeadLeaves, Noise, pictures
from clipstill.students import load_student
from clipstill.students.student import Student
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.teachers import load_teacher

CPU = torch.device("cpu")


class Run:
    """A finished run folder, read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.config = yaml.safe_load((folder / "config.yaml").read_text())
        self.labels = json.loads((folder / "bundle" / "labels.json").read_text())["labels"]
        self.vectors = load_file(folder / "stages" / "class_vectors" / "class_vectors.safetensors")["class_vectors"]
        self.seed = int(self.config["seed"])
        self.settings = DistilSettings(**self.config["distillation"])

    def teacher(self) -> Teacher:
        return _teacher(self.config["teacher"]["name"])

    def student(self) -> Student:
        """The one that ships."""
        section, weights = self.config["student"], self.folder / "stages" / "student" / "student.safetensors"
        return load_student(section["name"], len(self.labels), weights, section["image_size"], seed=self.seed).eval()

    def surrogate(self) -> SurrogateSet:
        return SurrogateSet.open(self.folder / "stages" / "surrogate")

    def taught_on(
        self,
        teacher: Teacher,
        images: torch.Tensor,
        class_id: torch.Tensor,
        style_id: torch.Tensor,
        settings: DistilSettings,
        name: str,
        init: str,
        size: int,
    ) -> Any:
        student = load_student(name, len(self.labels), init, size, seed=self.seed)
        with tempfile.TemporaryDirectory() as work:
            data = TrainingData(images, class_id, style_id)
            labels = SoftLabels(teacher, self.vectors)
            distil(student, labels, data, settings=settings, folder=Path(work), seed=self.seed)
        return student


@cache
def _teacher(name: str) -> Teacher:
    """Loaded once, however many runs it taught."""
    return load_teacher(name, CPU)


# Teacher, class vectors and folder -> top-1: the teacher's answer is the same for every student.
_teacher_top1: dict[tuple[str, str, Path], float] = {}


def score(run: Run, teacher: Teacher, student: Any, photos: dict[str, Path]) -> dict[str, dict[str, float]]:
    """Name of the folder -> top-1 of teacher and student in percent, and their ratio."""
    table = {}
    for name, path in photos.items():
        folder = ImageFolder.open(path, run.labels)
        key = (teacher.weights_sha256, sha256_json(run.vectors.tolist()), path)
        if key not in _teacher_top1:
            predict = teacher_predictor(teacher, run.vectors)
            _teacher_top1[key] = evaluate(predict, folder, teacher.preprocess).top1
        found = evaluate(student_predictor(student), folder, student.preprocess)
        table[name] = {
            "n": found.n,
            "teacher": round(100 * _teacher_top1[key], 1),
            "student": round(100 * found.top1, 1),
            "ratio": round(found.top1 / _teacher_top1[key], 3),
        }
    return table


def measure(runs: list[Run], photos: dict[str, Path]) -> Any:
    """The shipped student of each run on each folder, with mean and spread over the runs."""
    rows = []
    for run in runs:
        rows.append(score(run, run.teacher(), run.student(), photos))
    summary = {}
    for name in photos:
        ratios = [row[name]["ratio"] for row in rows]
        summary[name] = {
            "teacher": statistics.mean(row[name]["teacher"] for row in rows),
            "student": round(statistics.mean(row[name]["student"] for row in rows), 1),
            "ratio": round(statistics.mean(ratios), 3),
            "spread": round(statistics.stdev(ratios), 3) if len(ratios) > 1 else None,
        }
    return {"runs": rows, "summary": summary}


def controls(run: Run, photos: dict[str, Path], drawings: Path | None) -> Any:
    """The same student, steps and teacher on as many unrelated drawings, on dead leaves, and on noise."""
    teacher, made = run.teacher(), run.surrogate()
    number, side = len(made.pixels_N3HW), made.pixels_N3HW.shape[-1]
    random = generator_for(run.seed, "controls")
    sets = {
        "noise": pictures(Noise(), number, side, run.seed),
        "dead leaves": pictures(DeadLeaves(), number, side, run.seed),
    }
    if drawings is not None:
        stored = np.load(drawings, mmap_mode="r")
        chosen = torch.randperm(len(stored), generator=random)[:number]
        rgba = torch.from_numpy(np.stack([stored[i] for i in chosen.tolist()])).permute(0, 3, 1, 2).float() / 255
        white = rgba[:, :3] * rgba[:, 3:] + 1 - rgba[:, 3:]
        small = torch.nn.functional.interpolate(white, (side, side), mode="bilinear", antialias=True)
        sets["drawings"] = (small * 255).round().to(torch.uint8)
        sets["made + drawings"] = torch.cat([made.pixels_N3HW, sets["drawings"]])
    result = {}
    section = run.config["student"]
    for name, images in sets.items():
        class_id, style_id = _unknown(len(images))
        if name == "made + drawings":
            class_id[:number], style_id[:number] = made.class_id_N, made.style_id_N
        student = run.taught_on(
            teacher, images, class_id, style_id, run.settings, section["name"], section["init"], section["image_size"]
        )
        result[name] = score(run, teacher, student, photos)
    return result


def scratch(
    runs: list[Run], photos: dict[str, Path], name: str, counts: list[int], size: int, steps: int, real: Path | None
) -> Any:
    """A student without pretrained weights: its accuracy over the number of images, which all runs' sets give together.

    Beside it, the same on dead leaves, on half of either, and on real photos, with the teacher's labels all the same:
    the last is what the number of images allows where nothing is wrong with them.
    """
    run, teacher = runs[0], runs[0].teacher()
    sets = [each.surrogate() for each in runs]
    made = torch.cat([one.pixels_N3HW for one in sets])
    class_id, style_id = torch.cat([one.class_id_N for one in sets]), torch.cat([one.style_id_N for one in sets])
    number, side = len(made), made.shape[-1]
    order = torch.randperm(number, generator=generator_for(0, "scratch"))
    leaves = pictures(DeadLeaves(), number, side, run.seed)
    pools = {
        "synthetic": (made[order], class_id[order], style_id[order]),
        "dead leaves": (leaves, *_unknown(number)),
        # In turns, so that each count has as many of either.
        "of both": (torch.stack([made[order], leaves], 1).flatten(0, 1), *_unknown(2 * number)),
    }
    if real is not None:
        pools["real"] = _photographs(ImageFolder.open(real, run.labels), side)
    settings = run.settings.changed(
        freeze="none", steps=steps, batch=32, lr=2e-3, head_lr=2e-3, head_steps=0, crop_min=0.5
    )
    result: dict[str, Any] = {}
    for kind, pool in pools.items():
        for count in (count for count in counts if count <= len(pool[0])):
            images, class_id, style_id = (tensor[:count] for tensor in pool)
            student = run.taught_on(teacher, images, class_id, style_id, settings, name, "scratch", size)
            result[f"{count} {kind}"] = score(run, teacher, student, photos)
            print(f"{count} {kind}: {result[f'{count} {kind}']}", file=sys.stderr, flush=True)
    return result


def _photographs(folder: ImageFolder, side: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Photos as a set, in mixed order: images, classes, styles."""
    order = torch.randperm(len(folder.items), generator=generator_for(0, "photographs")).tolist()
    images = np.stack([fit(load_rgb(folder.items[i][0]), Preprocess(side)) for i in order])
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2).contiguous()
    return tensor, *_unknown(len(order))


def _unknown(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes of images that nobody drew for a class, and numbers that stand for their styles."""
    return torch.full((count,), -1), torch.arange(count) % 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("measure", "controls", "scratch"))
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--photos", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--drawings", type=Path)
    parser.add_argument("--real", type=Path, help="scratch: photos to compare with, one sub-folder a class")
    parser.add_argument("--student", default="resnet10t")
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--counts", nargs="+", type=int, default=[28, 112, 336])
    args = parser.parse_args()
    photos = {name: Path(folder) for name, _, folder in (item.partition("=") for item in args.photos)}
    runs = [Run(folder) for folder in args.runs]
    if args.what == "measure":
        result = measure(runs, photos)
    elif args.what == "controls":
        result = controls(runs[0], photos, args.drawings)
    else:
        result = scratch(runs, photos, args.student, args.counts, args.size, args.steps, args.real)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
