"""What example images do for the teacher: its top-1 with k examples a class, drawn at random, by several methods.

    python benchmarks/examples.py --data ../shared/data --cache runs/features --counts 1 2 4 8 16

``prototype`` is the mean of the examples, as published for image mode; ``with text`` counts the name as two examples,
or as less where names are seldom right; ``ours`` whitens that (``examples.whitening``); ``GDA`` is the Gaussian
classifier with its bias (Wang et al., ICLR 2024), which class vectors cannot hold; ``chosen`` takes ``with text`` or
``ours`` by leaving out one example of each class in turns. ``ours, photos`` adapts to the photos that are left, without
their labels, too. A count that a class cannot fill takes what is there. Features are kept in ``--cache``.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import torch
from teacher_features import SETS, Features, drawn, features_of
from torch import Tensor

from clipstill.assembly.class_vectors import TaskVectors, with_examples
from clipstill.teachers.adaptation import adapted_class_vectors, share_of_classes
from clipstill.teachers.prototypes import prototypes
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import ExamplesSettings

# Shrinkage of the covariance of GDA towards the identity; 0.1 to 0.9 gave equal results.
_SHRINKAGE = 0.5
METHODS = ("names", "prototype", "with text", "GDA", "ours", "chosen", "ours, photos")


def gda(of: Features, feat_ND: Tensor, label_N: Tensor) -> float:
    """Top-1 of Gaussians of one shared, shrunk covariance."""
    mean_CD = torch.zeros_like(of.text_CD).index_add_(0, label_N, feat_ND)
    mean_CD /= label_N.bincount(minlength=len(of.text_CD))[:, None]
    beyond_ND = feat_ND - mean_CD[label_N]
    count, dim = beyond_ND.shape
    ridge = _SHRINKAGE * beyond_ND.square().sum() / (count * dim)
    inner_NN = ridge * torch.eye(count) + (1 - _SHRINKAGE) / count * beyond_ND @ beyond_ND.T
    along_NC = torch.linalg.solve(inner_NN, beyond_ND @ mean_CD.T)
    weight_CD = (mean_CD - (1 - _SHRINKAGE) / count * along_NC.T @ beyond_ND) / ridge
    return of.top1(weight_CD, -0.5 * (weight_CD * mean_CD).sum(1))


def made(of: Features, feat_ND: Tensor, label_N: Tensor, settings: ExamplesSettings) -> TaskVectors:
    """Class vectors of names and examples."""
    return with_examples(of.text_CD, feat_ND, label_N.tolist(), settings)


def left_out(of: Features, feat_ND: Tensor, label_N: Tensor, settings: ExamplesSettings) -> float:
    """Share of examples that are named right by vectors of the others, one of each class at a time."""
    turn_N = torch.stack([(label_N[: place + 1] == label_N[place]).sum() for place in range(len(label_N))])
    right = 0
    for turn in sorted(set(turn_N.tolist())):
        out_N = turn_N == turn
        vectors_CD = made(of, feat_ND[~out_N], label_N[~out_N], settings).class_CD
        right += int(((feat_ND[out_N] @ vectors_CD.T).argmax(1) == label_N[out_N]).sum())
    return right / len(label_N)


def scores(of: Features, count: int, draw: int) -> dict[str, float]:
    """Top-1 of each method with ``count`` examples a class."""
    places = drawn(of.train_N, len(of.text_CD), draw)
    shown = [place for of_class in places for place in of_class[:count]]
    rest_ND = of.train_ND[[place for of_class in places for place in of_class[count:]]]
    feat_ND, label_N = of.train_ND[shown], of.train_N[shown]
    settings = load_settings().examples
    plain, ours = settings.changed(whitening=0.0), settings
    by = {name: made(of, feat_ND, label_N, each) for name, each in (("with text", plain), ("ours", ours))}
    found = {
        "names": of.top1(of.text_CD),
        "prototype": of.top1(prototypes(feat_ND, label_N.tolist(), of.text_CD).prototypes_CD),
        **{name: of.top1(vectors.class_CD) for name, vectors in by.items()},
    }
    if count > 1:
        better = left_out(of, feat_ND, label_N, ours) >= left_out(of, feat_ND, label_N, plain)
        found |= {"GDA": gda(of, feat_ND, label_N), "chosen": found["ours" if better else "with text"]}
    if len(rest_ND):
        adapted = adapted_class_vectors(
            by["ours"].class_CD,
            rest_ND,
            share_of_classes(rest_ND, of.text_CD, of.other_WD, of.scale),
            scale=of.scale,
            text_share_C=by["ours"].text_share_C,
        )
        found["ours, photos"] = of.top1(adapted.vectors_CD)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--sets", nargs="+", default=[one for one in SETS if one != "caltech20"], choices=SETS)
    parser.add_argument("--counts", nargs="+", type=int, default=[1, 2, 4, 8, 16])
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    print(f"| set | examples a class | {' | '.join(METHODS)} |\n|---|---:|{'---:|' * len(METHODS)}")
    of_count: dict[int, list[dict[str, float]]] = {count: [] for count in args.counts}
    for name, of in features_of(args.teacher, args.sets, args.data, args.cache).items():
        for count in (each for each in args.counts if each <= int(of.train_N.bincount().max())):
            draws = [scores(of, count, draw) for draw in range(args.draws)]
            of_count[count].append({method: statistics.mean(each[method] for each in draws) for method in draws[0]})
            print(f"| {name} | {count} | {row(draws)} |", flush=True)
    for count, of_sets in of_count.items():
        print(f"| mean of {len(of_sets)} sets | {count} | {row(of_sets, spread=False)} |")


def row(found: list[dict[str, float]], *, spread: bool = True) -> str:
    """Mean of each method, with the standard deviation."""
    cells = []
    for method in METHODS:
        values = [each[method] for each in found if method in each]
        deviation = f" ± {statistics.stdev(values):.1f}" if spread and len(set(values)) > 1 else ""
        cells.append(f"{statistics.mean(values):.1f}{deviation}" if values else "")
    return " | ".join(cells)


if __name__ == "__main__":
    main()
