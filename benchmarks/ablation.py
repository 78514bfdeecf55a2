"""What each prompt strategy and objective does for the student: the ablations of both data-free systems, one table.

    python benchmarks/ablation.py --classes "dog,elephant,..." --out runs/ablation --photos photo=DIR art=DIR \
        --set synthesis.image_size=64

Every row is a full run for every seed. A run that is done is not made again, so the command may be interrupted, and
started several times side by side: each process takes a run that no other one is at. When all runs are there the table
is printed as Markdown, and ``--json FILE`` keeps the numbers; ``grids/`` in the output folder shows the first images of
each row at the first seed, a line of the grid for each class, and ``grids.jpg`` all of them.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import torch
from cells import results_of
from PIL import Image, ImageDraw
from quality import Run, score

import clipstill
from clipstill.core.files import read_json, write_json
from clipstill.core.synthetic_mark import save_marked
from clipstill.surrogate.preview import write_grid
from clipstill.text.task import parse_task

# Name -> prompt strategy, weight of class consistency. The first five rows are Wei et al.'s (ICLR 2025, Table 1), the
# next three Xuan et al.'s strategies (ACM MM 2023), whose loss has no class term; the last one is our default.
ROWS: dict[str, tuple[str, float]] = {
    "baseline prompt": ("plain", 0.0),
    "styles": ("styles", 0.0),
    "SDD": ("sdd", 0.0),
    "CCM": ("plain", 1.0),
    "SDD + CCM": ("sdd", 1.0),
    "Mix": ("mix", 0.0),
    "Random": ("random", 0.0),
    "Contrastive": ("contrastive", 0.0),
    "styles + CCM": ("styles", 1.0),
}
RESULT = "ablation.json"
# Images a class in the grids.
_COLUMNS = 8


def folder_of(out: Path, row: str, seed: int) -> Path:
    return out / f"{row.lower().replace(' + ', '-').replace(' ', '-')}-{seed}"


def make(row: str, seed: int, args: argparse.Namespace, photos: dict[str, Path]) -> None:
    """One run and what its student does; nothing where it is there."""
    folder = folder_of(args.out, row, seed)
    strategy, class_weight = ROWS[row]
    overrides = [*args.set, f"prompts.strategy={strategy}", f"synthesis.class_weight={class_weight}"]
    start = time.monotonic()
    task = parse_task(args.classes)
    clipstill.distil(classes=task, out=folder, recipe=args.recipe, settings=overrides, seed=seed)
    run = Run(folder)
    student = run.student()
    diversity = read_json(folder / "stages" / "prompts" / "diversity.json")
    write_json(
        folder / RESULT,
        {
            "row": row,
            "seed": seed,
            "photos": score(run, run.teacher(), student, photos),
            "degrees": diversity["within_class"] or 0.0,
            "prompt_accuracy": diversity["class_accuracy"],
            "seconds": round(time.monotonic() - start, 1),
        },
    )


def grid(out: Path, row: str, seed: int) -> None:
    """The first images of each class, a line a class: as many classes as images of one, so that the grid is square."""
    made = Run(folder_of(out, row, seed)).surrogate()
    of_class: dict[int, list[int]] = {}
    for number, record in enumerate(made.records):
        of_class.setdefault(record.class_id, []).append(number)
    side = min(_COLUMNS, len(of_class), *(len(numbers) for numbers in of_class.values()))
    images = [made.pixels_N3HW[number] for class_id in sorted(of_class)[:side] for number in of_class[class_id][:side]]
    write_grid(out / "grids" / f"{folder_of(out, row, seed).name}.png", torch.stack(images).permute(0, 2, 3, 1).numpy())


def sheet(out: Path, rows: list[str], seed: int) -> None:
    """All grids on one page, three in a line, each under its name."""
    grids = [Image.open(out / "grids" / f"{folder_of(out, row, seed).name}.png").convert("RGB") for row in rows]
    width, height = max(grid.width for grid in grids) + 12, max(grid.height for grid in grids) + 16
    page = Image.new("RGB", (3 * width, -(-len(grids) // 3) * height), "white")
    for number, (row, shown) in enumerate(zip(rows, grids, strict=True)):
        left, top = number % 3 * width, number // 3 * height
        ImageDraw.Draw(page).text((left, top), row, fill="black")
        page.paste(shown, (left, top + 14))
    save_marked(page, out / "grids.jpg", "JPEG", quality=80)


def table(results: list[dict[str, Any]], photos: list[str]) -> str:
    """Markdown: mean and standard deviation of the students' top-1 over the seeds."""
    lines = [
        "| row | prompts' angle | " + " | ".join(photos) + " | mean |",
        "|---|---:|" + "---:|" * (len(photos) + 1),
    ]
    teacher = results[0]["photos"]
    cells = [f"{teacher[name]['teacher']:.1f}" for name in photos]
    mean = statistics.mean(teacher[name]["teacher"] for name in photos)
    lines.append("| teacher | | " + " | ".join(cells) + f" | {mean:.1f} |")
    for row in ROWS:
        found = [result for result in results if result["row"] == row]
        if not found:
            continue
        columns = [[result["photos"][name]["student"] for result in found] for name in photos]
        columns.append([statistics.mean(values) for values in zip(*columns, strict=True)])
        angle = statistics.mean(result["degrees"] for result in found)
        shown = [f"{statistics.mean(column):.1f} ± {_spread(column):.1f}" for column in columns]
        lines.append(f"| {row} | {angle:.0f}° | " + " | ".join(shown) + " |")
    return "\n".join(lines)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", required=True, help="names, or a file of them")
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--photos", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--recipe", default="default")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all rows share")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    photos = {name: Path(folder) for name, _, folder in (item.partition("=") for item in args.photos)}
    cells = [(row, seed) for seed in args.seeds for row in args.rows]
    results = results_of(
        cells,
        lambda row, seed: folder_of(args.out, row, seed) / RESULT,
        lambda row, seed: make(row, seed, args, photos),
    )
    done = {(result["row"], result["seed"]) for result in results}
    drawn = [row for row in args.rows if (row, args.seeds[0]) in done]
    for row in drawn:
        grid(args.out, row, args.seeds[0])
    if drawn:
        sheet(args.out, drawn, args.seeds[0])
    if args.json:
        write_json(args.json, results)
    if results:
        print(table(results, list(photos)))


if __name__ == "__main__":
    main()
