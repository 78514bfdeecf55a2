"""What example images do for the student, and by which way: image-based customisation (Wei et al., ICLR 2025) measured.

    python benchmarks/image_mode.py --train caltech101/train --test caltech101/test --out runs/image-mode \
        --counts 0 1 2 5 --seeds 0 1 2 --set synthesis.image_size=64

Classes are the sub-folders of ``--test``. For every seed, and every number of examples a class, drawn at random from
``--train``, the table has top-1 on ``--test`` of the teacher and of three students:

- ``inverted``: taught on synthetic images alone, which were drawn towards the examples;
- ``and in the mix``: taught on those and on the examples, as a run does;
- ``examples alone``: taught on the examples by the same teacher, with no synthetic image: what the synthesis must beat.

0 examples are the text mode. Below the table stand the classes that gain most over text mode. A run that is done is not
made again, so the command may be interrupted, and started several times side by side.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from cells import results_of
from quality import Run

import clipstill
from clipstill.assembly.training import read_all
from clipstill.core.files import write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.protocols import Preprocess
from clipstill.evaluation.evaluate import PredictLogits, evaluate, student_predictor, teacher_predictor
from clipstill.text.task import Task, parse_task
from clipstill.workflow.photos import limited

RESULT = "image-mode.json"
STUDENTS = ("inverted", "and in the mix", "examples alone")


def folder_of(out: Path, count: int, seed: int) -> Path:
    return out / f"{count}-{seed}"


def make(count: int, seed: int, task: Task, args: argparse.Namespace) -> None:
    """One run, and its students one after the other: they share the synthetic images."""
    folder = folder_of(args.out, count, seed)
    photos = ImageFolder.open(args.test, task.names)
    result: dict[str, Any] = {"count": count, "seed": seed, "students": {}, "per_class": {}}

    def measure(way: str, predict: PredictLogits, preprocess: Preprocess) -> None:
        found = evaluate(predict, photos, preprocess)
        result["students"][way] = round(100 * found.top1, 1)
        result["per_class"][way] = found.per_class

    examples = args.train if count else None
    ways = {"inverted": 0.0, "and in the mix": args.teach_share} if count else {"inverted": 0.0}
    for way, share in ways.items():
        overrides = [*args.set, f"examples.teach_share={share}", f"examples.per_class={max(1, count)}"]
        clipstill.distil(classes=task, out=folder, settings=overrides, seed=seed, examples=examples)
        run = Run(folder)
        student = run.student()
        measure(way, student_predictor(student), student.preprocess)
    teacher = run.teacher()
    result["teacher"] = round(
        100 * evaluate(teacher_predictor(teacher, run.vectors), photos, teacher.preprocess).top1, 1
    )
    if count:
        section = run.config["student"]
        chosen = limited(ImageFolder.open(args.train, run.labels), count, seed)
        images, _ = read_all(chosen, Preprocess(section["image_size"]))
        outside = torch.full((len(images),), -1)
        student = run.taught_on(
            teacher, images, outside, outside, run.settings, section["name"], section["init"], section["image_size"]
        )
        measure("examples alone", student_predictor(student), student.preprocess)
    write_json(folder / RESULT, result)


def table(results: list[dict[str, Any]], counts: list[int]) -> str:
    """Markdown: mean and standard deviation over the seeds."""
    lines = [f"| examples a class | teacher | {' | '.join(STUDENTS)} |", "|---:|" + "---:|" * (1 + len(STUDENTS))]
    for count in counts:
        found = [result for result in results if result["count"] == count]
        if found:
            cells = [_cell([result["teacher"] for result in found])]
            for way in STUDENTS:
                cells.append(_cell([result["students"][way] for result in found if way in result["students"]]))
            lines.append(f"| {count} | {' | '.join(cells)} |")
    return "\n".join(lines)


def gains(results: list[dict[str, Any]], names: tuple[str, ...], counts: list[int], most: int) -> str:
    """The classes that gain most over text mode, in points of top-1, by the student of a run."""

    def mean_of(count: int) -> list[float]:
        rows = [
            result["per_class"]["and in the mix" if count else "inverted"]
            for result in results
            if result["count"] == count
        ]
        return [100 * statistics.mean(row[label] or 0.0 for row in rows) for label in range(len(names))]

    lines = []
    done = {result["count"] for result in results}
    for count in (count for count in counts if count and {0, count} <= done):
        text, image = mean_of(0), mean_of(count)
        order = sorted(range(len(names)), key=lambda label: text[label] - image[label])
        told = [f"{names[label]} {text[label]:.0f} -> {image[label]:.0f}" for label in order[:most]]
        lost = [label for label in order if image[label] < text[label]]
        worst = [f"{names[label]} {text[label]:.0f} -> {image[label]:.0f}" for label in reversed(lost[-3:])]
        lines.append(f"{count}: {', '.join(told)}; {len(lost)} lose ({', '.join(worst) or 'none'})")
    return "\n".join(lines)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--counts", nargs="+", type=int, default=[0, 1, 2, 5])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all runs share")
    parser.add_argument("--teach-share", type=float, default=0.3, help="of the examples in the mix")
    parser.add_argument("--most", type=int, default=10, help="classes that are named")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    task = parse_task(sorted(path.name for path in args.test.iterdir() if path.is_dir()))
    cells = [(count, seed) for seed in args.seeds for count in args.counts]
    results = results_of(
        cells,
        lambda count, seed: folder_of(args.out, count, seed) / RESULT,
        lambda count, seed: make(count, seed, task, args),
    )
    if args.json:
        write_json(args.json, results)
    if results:
        print(table(results, args.counts))
        print(f"\n{gains(results, task.names, args.counts, args.most)}")


if __name__ == "__main__":
    main()
