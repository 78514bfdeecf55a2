"""The default from class names alone on several sets of photos: its student beside its teacher and ``embedded-s``.

    python benchmarks/names_only.py --data DATA --out runs/names-only

DATA has ``pacs/test``, ``caltech101/test`` and so on, a folder of photos for each class; nothing is trained on them. A
run that is done is not made again; several processes may share the work. Rows:

- ``default``: nothing is set.
- ``24 images``: three times as many images a class.
- ``inversion alone``: the head begins with nothing (``student.start=none``), with 24 images a class.
- ``own classifier``: as the last, but the head begins with rows of Lite0's ImageNet classifier, as for pretrained
  students that no teacher shares.
- ``few long images``: as the last, with 16 images of 60 steps a class and a student that sees 128 pixels.
- ``no images``: two images of two steps a class, held by a pull that lets nothing move: the start itself.
- The rest changes one thing of the default: ``no pull``, ``128 pixels`` of the student, ``long images`` of 60 steps,
  ``short training`` of 200 steps, ``temperature 8``, ``all weights`` for 200 steps, and another network, ``lite2``.
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import cache
from pathlib import Path
from typing import Any

import torch
from cells import parser_of, results_of
from quality import Run, score

import clipstill
from clipstill.assembly.class_vectors import task_of
from clipstill.core.files import write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.evaluation.evaluate import evaluate, teacher_predictor
from clipstill.teachers import class_vectors, load_teacher
from clipstill.text.templates import NAME_TEMPLATES, class_texts

PACS = {"photo": "pacs/test/photo", "art": "pacs/test/art_painting", "cartoon": "pacs/test/cartoon"}
# Task -> name of a set of photos -> its folder. The sets of a task have the same classes.
TASKS = {
    "pacs": {**PACS, "sketch": "pacs/test/sketch"},
    "caltech-20": {"Caltech-20": "caltech101/test"},
    "flowers": {"flowers": "flowers/test"},
    "tinyimagenet": {"tinyimagenet": "tinyimagenet/test"},
}
ROWS: dict[str, tuple[str, ...]] = {
    "default": (),
    "24 images": ("prompts.images_per_class=24",),
    "inversion alone": ("student.start=none",),
    "own classifier": ("student.start=classifier",),
    "few long images": (
        *("student.start=none", "student.image_size=128", "distillation.keep=agreement"),
        *("prompts.images_per_class=16", "synthesis.steps=60"),
    ),
    "no images": ("prompts.images_per_class=2", "synthesis.steps=2", "distillation.pull=1e7", "distillation.keep=last"),
    "no pull": ("distillation.pull=0",),
    "128 pixels": ("student.image_size=128",),
    "long images": ("synthesis.steps=60",),
    "short training": ("distillation.steps=200",),
    "temperature 8": ("distillation.temperature=8",),
    "all weights": ("distillation.freeze=bn", "distillation.steps=200"),
    "lite2": ("student.name=lite2",),
}
SETTINGS = ("evaluation.ladder=false", "export.formats=[onnx]", "export.page=false", "refusal.near_misses=0")
RESULT = "names_only.json"


def names_of(data: Path, task: str) -> tuple[str, ...]:
    """The classes of a task: all folders; of Caltech-101 every fifth."""
    folder = data / next(iter(TASKS[task].values()))
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_dir())
    return tuple(names[::5] if task == "caltech-20" else names)


def make(cell: tuple[str, str], seed: int, args: argparse.Namespace) -> None:
    """One run, and what teacher, ``embedded-s`` and student name rightly."""
    (task, row), start = cell, time.monotonic()
    names, folder = names_of(args.data, task), folder_of(args.out, cell, seed)
    clipstill.distil(classes=task_of(names), out=folder, settings=[*SETTINGS, *ROWS[row], *args.set], seed=seed)
    seconds, run = time.monotonic() - start, Run(folder)
    photos = {name: args.data / path for name, path in TASKS[task].items()}
    found = score(run, run.teacher(), run.student(), photos)
    for name, path in photos.items():
        found[name]["embedded-s"] = _small_top1(names, path)
    write_json(folder / RESULT, {"task": task, "row": row, "seed": seed, "photos": found, "seconds": round(seconds, 1)})


@cache
def _small_top1(names: tuple[str, ...], path: Path) -> float:
    teacher = load_teacher("embedded-s", torch.device("cpu"))
    vectors_CD = class_vectors(teacher, class_texts(task_of(names), NAME_TEMPLATES))
    found = evaluate(teacher_predictor(teacher, vectors_CD), ImageFolder.open(path, names), teacher.preprocess)
    return round(100 * found.top1, 1)


def folder_of(out: Path, cell: tuple[str, str], seed: int) -> Path:
    return out / f"{cell[0]}-{cell[1].replace(' ', '-')}-{seed}"


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a line for each set and row, with mean and standard deviation over the seeds."""
    lines = [
        "| photos | row | embedded-s | teacher | student | student / teacher | seconds |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for task, photos in TASKS.items():
        for name in photos:
            for row in ROWS:
                found = [one for one in results if (one["task"], one["row"]) == (task, row)]
                if not found:
                    continue
                cells = [one["photos"][name] for one in found]
                student, ratio = ([cell[column] for cell in cells] for column in ("student", "ratio"))
                lines.append(
                    f"| {name} | {row} | {cells[0]['embedded-s']:.1f} | {cells[0]['teacher']:.1f} | "
                    f"{statistics.mean(student):.1f} ± {_spread(student):.1f} | "
                    f"{statistics.mean(ratio):.3f} ± {_spread(ratio):.3f} | "
                    f"{statistics.mean(one['seconds'] for one in found):.0f} |"
                )
    return "\n".join(lines)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--rows", nargs="+", default=["default"], choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    args = parser.parse_args()
    cells = [((task, row), seed) for row in args.rows for seed in args.seeds for task in args.tasks]
    results = results_of(
        cells,
        lambda cell, seed: folder_of(args.out, cell, seed) / RESULT,
        lambda cell, seed: make(cell, seed, args),
    )
    print(table(results))


if __name__ == "__main__":
    main()
