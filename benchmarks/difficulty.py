"""What ``clipstill plan`` says of class names, against real photos; and of a run's cost, against real runs.

    python benchmarks/difficulty.py --photos NAME=DIR ... [--teacher embedded-m] [--tasks 20] [--cache FOLDER]
        [--text-terms] [--advice]
    python benchmarks/difficulty.py --runs RUN...

Each DIR has one sub-folder a class. For each set: the rank correlation over its classes of expected and measured
accuracy, the error of top-1 on random tasks of 5 to 50 of its classes, and how well the teacher knows classes that the
linter warns of. ``--text-terms`` uses the terms of teachers that did not learn from ImageNet; ``--advice`` measures
what the proposed descriptions and spellings do. Photos are encoded once where a cache is given. ``--runs`` compares the
predicted seconds with those that finished runs took on this machine.
"""

from __future__ import annotations

import argparse
import random
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import clipstill
from clipstill.core.files import read_json, sha256_json
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.names import spoken
from clipstill.planning.plan import vocabulary
from clipstill.teachers import load_teacher
from clipstill.text.difficulty import estimate
from clipstill.text.linter import WARNING, Linter
from clipstill.text.task import Task
from clipstill.text.templates import fill
from clipstill.workflow.records import read_events

_CPU = torch.device("cpu")


class Asked:
    """A teacher whose texts are computed once, however many tasks hold them."""

    def __init__(self, teacher: Any, text_terms: bool = False) -> None:
        self.teacher, self._vectors = teacher, dict[str, Tensor]()
        self.known, imagenet_KD, _ = vocabulary(teacher, "{class}")
        self.imagenet_KD = None if text_terms else imagenet_KD

    def encode(self, texts: Sequence[str]) -> Tensor:
        missing = [text for text in dict.fromkeys(map(spoken, texts)) if text not in self._vectors]
        if missing:
            self._vectors |= dict(zip(missing, self.teacher.encode_text(missing), strict=True))
        return torch.stack([self._vectors[spoken(text)] for text in texts])

    def expected(self, names: list[str]) -> tuple[Linter, list[float]]:
        task = Task(tuple(names), ("",) * len(names))
        linter = Linter(task, self.encode(names), self.known, self.encode)
        return linter, estimate(linter, self.imagenet_KD)


def encoded(teacher: Any, folder: Path, cache: Path | None) -> tuple[list[str], Tensor, Tensor]:
    """Class names, the teacher's vectors of all photos, and their classes."""
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    key = sha256_json([teacher.weights_sha256, str(folder.resolve())])[:16]
    stored = None if cache is None else cache / f"{key}.safetensors"
    if stored is not None and stored.exists():
        found = load_file(stored)
        return names, found["vectors"], found["labels"]
    parts, labels = [], []
    fit = teacher.preprocess
    with torch.no_grad():
        for pixels, of_batch in iterate(ImageFolder.open(folder, names), fit, 32):
            parts.append(teacher.encode_image(torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255))
            labels += of_batch
    vectors_ND, label_N = torch.cat(parts), torch.tensor(labels)
    if stored is not None:
        stored.parent.mkdir(parents=True, exist_ok=True)
        save_file({"vectors": vectors_ND, "labels": label_N}, stored)
    return names, vectors_ND, label_N


def measured(classes_CD: Tensor, feat_ND: Tensor, label_N: Tensor, chosen: list[int]) -> list[float]:
    """Accuracy on the photos of each chosen class, among the chosen classes."""
    answers = (feat_ND @ classes_CD[chosen].T).argmax(1)
    return [float((answers[label_N == label] == place).float().mean()) for place, label in enumerate(chosen)]


def ranks(values: list[float]) -> list[float]:
    """Average ranks."""
    order = sorted(values)
    return [order.index(value) + (order.count(value) - 1) / 2 for value in values]


def spearman(one: list[float], other: list[float]) -> float:
    return statistics.correlation(ranks(one), ranks(other))


def on_photos(args: argparse.Namespace) -> None:
    teacher = load_teacher(args.teacher, _CPU)
    asked = Asked(teacher, args.text_terms)
    pooled: dict[tuple[str, ...], list[tuple[list[float], list[float]]]] = {}
    for text in args.photos:
        title, _, folder = text.partition("=")
        names, feat_ND, label_N = encoded(teacher, Path(folder), args.cache)
        classes_CD = asked.encode(names)
        linter, expected = asked.expected(names)
        found = measured(classes_CD, feat_ND, label_N, list(range(len(names))))
        pooled.setdefault(tuple(names), []).append((expected, found))
        print(f"{title}: {len(names)} classes, {len(label_N)} photos")
        print(f"  top-1 expected {100 * statistics.fmean(expected):.1f}, measured {100 * statistics.fmean(found):.1f}")
        print(f"  rank correlation over classes {spearman(expected, found):.3f}")
        warned = {name for one in linter.findings() if one.level == WARNING for name in one.classes}
        groups = [
            [share for name, share in zip(names, found, strict=True) if (name in warned) == is_in]
            for is_in in (True, False)
        ]
        told = [f"{100 * statistics.fmean(group):.1f} ({len(group)})" if group else "-" for group in groups]
        print(f"  measured accuracy of classes with a warning {told[0]}, of the others {told[1]}")
        if len(names) > 10:
            if args.advice:
                advised(asked, linter, classes_CD, feat_ND, label_N)
            print("  " + tasks(asked, names, classes_CD, feat_ND, label_N, args))
    for several in pooled.values():
        if len(several) > 1:
            expected = [share for one, _ in several for share in one]
            found = [share for _, one in several for share in one]
            print(f"all {len(expected)} pairs of class and set: rank correlation {spearman(expected, found):.3f}")


def advised(asked: Asked, linter: Linter, classes_CD: Tensor, feat_ND: Tensor, label_N: Tensor) -> None:
    """What the proposed descriptions and spellings do, class by class and all at once."""
    names, everyone = list(linter.task.names), list(range(len(classes_CD)))
    before, changed_CD = measured(classes_CD, feat_ND, label_N, everyone), classes_CD.clone()
    for one in linter.findings():
        if one.kind not in ("spelling", "ambiguous", "unknown"):
            continue
        place = names.index(one.classes[0])
        if one.kind == "spelling":
            text = one.advice.removeprefix("If that is meant, write: ")
        elif linter.meanings[place]:
            text = fill("{class}", names[place], linter.meanings[place][0].sense.gloss)
        else:
            continue
        alone_CD = classes_CD.clone()
        alone_CD[place] = changed_CD[place] = asked.teacher.encode_text([text])[0]
        after = measured(alone_CD, feat_ND, label_N, everyone)
        print(f"  {one.kind} {names[place]}: {100 * before[place]:.0f}, as '{text}' {100 * after[place]:.0f}")
    after = measured(changed_CD, feat_ND, label_N, everyone)
    print(f"  all of them: top-1 {100 * statistics.fmean(before):.1f}, advised {100 * statistics.fmean(after):.1f}")


def tasks(asked: Asked, names: list[str], classes: Tensor, feat: Tensor, labels: Tensor, args: Any) -> str:
    """Random tasks of some of the classes."""
    draw, errors, of_classes = random.Random(args.seed), [], []
    for _ in range(args.tasks):
        chosen = sorted(draw.sample(range(len(names)), draw.randint(5, min(50, len(names)))))
        _, expected = asked.expected([names[number] for number in chosen])
        found = measured(classes, feat, labels, chosen)
        errors.append(statistics.fmean(expected) - statistics.fmean(found))
        of_classes += [abs(one - other) for one, other in zip(expected, found, strict=True)]
    return (
        f"{args.tasks} tasks of 5 to 50 classes: mean absolute error of top-1 "
        f"{100 * statistics.fmean(map(abs, errors)):.1f} points (bias {100 * statistics.fmean(errors):+.1f}), "
        f"of a class {100 * statistics.fmean(of_classes):.1f}"
    )


def on_runs(args: argparse.Namespace) -> None:
    """Predicted and real seconds of finished runs."""
    for run in args.runs:
        names = read_json(run / "task.json")["names"]
        took = {event["stage"]: event["seconds"] for event in read_events(run) if event.get("event") == "done"}
        cost = clipstill.plan(classes=names, config=run / "config.yaml").cost
        stages = {stage: seconds for stage, seconds in cost.stages.items() if stage != "start"}
        lines = [f"{stage} {seconds:.0f} ({took.get(stage, 0):.0f})" for stage, seconds in stages.items()]
        print(f"{run.name}: predicted {sum(stages.values()):.0f} s, took {sum(took.values()):.0f} s")
        print(f"  predicted (took): {', '.join(lines)}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--photos", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--runs", nargs="+", default=[], type=Path)
    parser.add_argument("--text-terms", action="store_true")
    parser.add_argument("--advice", action="store_true")
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--tasks", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cache", type=Path)
    args = parser.parse_args()
    if args.photos:
        on_photos(args)
    if args.runs:
        on_runs(args)


if __name__ == "__main__":
    main()
