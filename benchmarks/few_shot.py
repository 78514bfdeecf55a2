"""Few-shot fine-tuning: the distilled student, the same network with ImageNet's weights, and from scratch.

    python benchmarks/few_shot.py RUN... --train pacs/train/photo --test pacs/test/photo --out runs/few-shot

RUNs are folders that ``clipstill run`` made for the classes of the photos, one a seed. Of every class, k photos of
``--train`` are drawn by the seed, the same for all starts; training uses the labels only. Xuan et
al. (ACM MM 2023, Fig. 5) show this curve; their procedure is not known, so all starts get the steps of ``clipstill
fine-tune``.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from pathlib import Path

import torch
from quality import Run

from clipstill.assembly.training import read_all
from clipstill.commands.few_shot import STARTS
from clipstill.core.files import read_json, write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.protocols import Preprocess
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.students import load_student
from clipstill.workflow.photos import limited
from clipstill.workflow.recipes import load_settings
from students import top1


def tuned(run: Run, start: str, shots: int, args: argparse.Namespace) -> float:
    """Top-1 in percent after tuning; with 0 shots, as the student is."""
    init, changes = STARTS[start]
    weights = run.folder / "stages" / "student" / "student.safetensors"
    section = run.config["student"]
    student = load_student(section["name"], len(run.labels), init or weights, section["image_size"], seed=run.seed)
    if shots:
        chosen = limited(ImageFolder.open(args.train, run.labels), shots, run.seed)
        settings = load_settings("fine-tune").distillation.changed(**changes)
        pixels_N3SS, label_N = read_all(chosen, Preprocess(section["image_size"]))
        data = TrainingData(pixels_N3SS, label_N, torch.zeros_like(label_N))
        labels = SoftLabels(None, torch.zeros(len(run.labels), 1))
        with tempfile.TemporaryDirectory() as work:
            distil(student, labels, data, settings=settings, folder=Path(work), seed=run.seed)
    return top1(student.eval(), ImageFolder.open(args.test, run.labels), args.out / "work")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--shots", nargs="+", type=int, default=[0, 1, 2, 4, 8, 16])
    parser.add_argument("--starts", nargs="+", default=list(STARTS), choices=list(STARTS))
    args = parser.parse_args()
    lines = [f"| photos a class | {' | '.join(args.starts)} |", "|---:|" + "---:|" * len(args.starts)]
    for shots in args.shots:
        cells = []
        for start in args.starts:
            found = []
            for run in map(Run, args.runs):
                if not shots and start != "distilled":
                    continue
                place = args.out / f"{start.lower()}-{shots}-{run.folder.name}.json"
                if not place.exists():
                    write_json(place, {"top1": tuned(run, start, shots, args)})
                    print(f"{start}, {shots} photos, {run.folder.name}: done", file=sys.stderr, flush=True)
                found.append(read_json(place)["top1"])
            spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
            cells.append(f"{statistics.mean(found):.1f}{spread}" if found else "")
        lines.append(f"| {shots} | {' | '.join(cells)} |")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
