"""Students that learn from pools of unlabelled photos, beside their teacher by names and adapted to the same photos.

    python benchmarks/unlabelled_students.py --data DATA --out runs/unlabelled-students

Pools are those of ``adaptation.py``; all is measured on the test photos of all classes. Rows are numbers of synthetic
images a class beside the photos. A run that is done is not made again.
"""

from __future__ import annotations

import argparse
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from adaptation import places_of
from cells import parser_of, results_of
from quality import Run, score
from safetensors.torch import load_file
from teacher_features import FOLDERS

import clipstill
from clipstill.core.files import write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.evaluation.evaluate import evaluate, teacher_predictor
from clipstill.text.task import parse_task

POOLS = ("balanced", "third", "tail", "foreign")
SETS = ("pacs photo", "pacs art_painting", "pacs cartoon", "pacs sketch", "caltech20", "tinyimagenet")
SETTINGS = ("evaluation.ladder=false", "export.formats=[onnx]", "export.page=false", "export.zero_shot=false")
RESULT = "unlabelled.json"
Cell = tuple[str, str, int]  # Set, pool, synthetic images a class.


def folders_of(data: Path, name: str) -> tuple[Path, Path, tuple[str, ...]]:
    """Photos to learn from, photos to measure on, and the classes; of Caltech-101 every fifth."""
    train, test = (data / part for part in FOLDERS["caltech101" if name == "caltech20" else name])
    names = sorted(path.name for path in test.iterdir() if path.is_dir())
    return train, test, tuple(names[::5] if name == "caltech20" else names)


def photos_of(data: Path, name: str, kind: str, seed: int) -> list[Path]:
    """The photos of a pool."""
    train, _, names = folders_of(data, name)
    own = ImageFolder.open(train, names, allow_unmatched=True)
    label_N = torch.tensor([label for _, label in own.items])
    if kind != "foreign":
        return [own.items[place][0] for place in places_of(kind, label_N, len(names), seed)]
    others = [other for other in SETS if other[:4] != name[:4] and other != "caltech20"]
    other = sorted(path for path in (data / FOLDERS[others[seed % len(others)]][0]).glob("*/*"))
    return random.Random(seed).sample(other, min(len(other), len(label_N)))


def make(cell: Cell, seed: int, args: argparse.Namespace) -> None:
    """One run, and what names, adapted vectors and student name rightly."""
    (name, kind, images), folder = cell, folder_of(args.out, cell, seed)
    _, test, names = folders_of(args.data, name)
    start = time.monotonic()
    with tempfile.TemporaryDirectory(dir=args.out) as work:
        for number, path in enumerate(photos_of(args.data, name, kind, seed)):
            shutil.copy(path, Path(work) / f"{number:05d}{path.suffix}")
        settings = [*SETTINGS, f"prompts.images_per_class={images}", *args.set]
        clipstill.distil(classes=parse_task(names), unlabelled=work, out=folder, settings=settings, seed=seed)
    seconds, run = time.monotonic() - start, Run(folder)
    found = score(run, run.teacher(), run.student(), {name: test})[name]
    adapted = load_file(folder / "stages" / "adapted_vectors" / "class_vectors.safetensors")["class_vectors"]
    photos = ImageFolder.open(test, run.labels, allow_unmatched=True)
    top1 = evaluate(teacher_predictor(run.teacher(), adapted), photos, run.teacher().preprocess).top1
    result = {"cell": list(cell), "seed": seed, **found, "adapted": round(100 * top1, 1), "seconds": round(seconds, 1)}
    write_json(folder / RESULT, result)


def folder_of(out: Path, cell: Cell, seed: int) -> Path:
    return out / f"{cell[0].replace(' ', '-')}-{cell[1]}-{cell[2]}-{seed}"


def table(results: list[dict[str, Any]]) -> str:
    """Markdown: a line for each cell, with mean and standard deviation over the draws, and the worst draw."""
    lines = [
        "| photos | pool | images | names | adapted | student | student - names | worst draw | draws | seconds |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for cell in dict.fromkeys(tuple(one["cell"]) for one in results):
        found = [one for one in results if tuple(one["cell"]) == cell]
        gains = [one["student"] - one["teacher"] for one in found]
        lines.append(
            f"| {cell[0]} | {cell[1]} | {cell[2]} | {found[0]['teacher']:.1f} | {_both(found, 'adapted')} | "
            f"{_both(found, 'student')} | {statistics.mean(gains):+.1f} | {min(gains):+.1f} | {len(found)} | "
            f"{statistics.mean(one['seconds'] for one in found):.0f} |"
        )
    return "\n".join(lines)


def _both(found: list[dict[str, Any]], column: str) -> str:
    values = [one[column] for one in found]
    return f"{statistics.mean(values):.1f} ± {statistics.pstdev(values):.1f}"


def main() -> None:
    parser = parser_of(__doc__)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--pools", nargs="+", default=list(POOLS), choices=POOLS)
    parser.add_argument("--images", nargs="+", type=int, default=[24])
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    cells = [
        ((name, kind, images), seed)
        for seed in range(args.draws)
        for images in args.images
        for kind in args.pools
        for name in args.sets
    ]
    results = results_of(
        cells,
        lambda cell, seed: folder_of(args.out, cell, seed) / RESULT,
        lambda cell, seed: make(cell, seed, args),
    )
    print(table(results))


if __name__ == "__main__":
    main()
