"""What example images do for the teacher: its top-1 with k examples a class, drawn at random, beside its texts alone.

    python benchmarks/examples.py --train caltech101/train --test caltech101/test --counts 1 2 5 --draws 5

Classes are the sub-folders of ``--test``; examples come from ``--train`` and are never measured on. The first column of
the table is the prototype alone, as published; the second adds the text as a run does (``examples.text_count``).
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.protocols import Teacher
from clipstill.core.seeds import generator_for
from clipstill.teachers import class_vectors, load_teacher
from clipstill.teachers.prototypes import class_vectors_with_examples, prototypes
from clipstill.text.task import parse_task
from clipstill.text.templates import class_texts, template_set
from clipstill.workflow.recipes import load_settings

_AT_ONCE = 32


@torch.no_grad()
def encoded(teacher: Teacher, folder: ImageFolder) -> tuple[Tensor, Tensor]:
    """Unit vectors (N, D) and labels (N,) of all pictures."""
    parts, labels = [], []
    for images_NHW3, of_batch in iterate(folder, teacher.preprocess, _AT_ONCE):
        parts.append(teacher.encode_image(torch.from_numpy(images_NHW3).permute(0, 3, 1, 2).float() / 255))
        labels += of_batch
    return torch.cat(parts), torch.tensor(labels)


def drawn(label_N: Tensor, classes: int, count: int, draw: int) -> Tensor:
    """Places of ``count`` examples of each class."""
    chosen = []
    for label in range(classes):
        places = (label_N == label).nonzero().flatten()
        order = torch.randperm(len(places), generator=generator_for("examples", draw, label))
        chosen.append(places[order[:count]])
    return torch.cat(chosen)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 5])
    parser.add_argument("--draws", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    names = sorted(path.name for path in args.test.iterdir() if path.is_dir())
    task, teacher = parse_task(names), load_teacher(args.teacher, torch.device("cpu"))
    text_CD = class_vectors(teacher, class_texts(task, template_set("auto", teacher.templates)))
    train_ND, train_N = encoded(teacher, ImageFolder.open(args.train, task.names))
    test_ND, test_N = encoded(teacher, ImageFolder.open(args.test, task.names))

    def top1(vectors_CD: Tensor) -> float:
        return 100 * float(((test_ND @ vectors_CD.T).argmax(1) == test_N).float().mean())

    text_count = load_settings().examples.text_count
    result: dict[str, Any] = {"texts": round(top1(text_CD), 1)}
    print(f"texts alone: {result['texts']}\n\n| examples a class | prototype alone | with the text |\n|---:|---:|---:|")
    for count in args.counts:
        columns = []
        for weight in (0.0, text_count):
            scores = []
            for draw in range(args.draws):
                places = drawn(train_N, len(names), count, draw)
                found = prototypes(train_ND[places], train_N[places].tolist(), text_CD)
                scores.append(top1(class_vectors_with_examples(text_CD, found, weight)))
            columns.append(f"{statistics.mean(scores):.1f} ± {statistics.stdev(scores) if len(scores) > 1 else 0:.1f}")
        result[f"{count} examples"] = columns
        print(f"| {count} | {columns[0]} | {columns[1]} |")
    if args.json:
        args.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
