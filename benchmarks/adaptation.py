"""What unlabelled photos do for a teacher: its top-1 with class vectors of names, and with adapted ones.

    python benchmarks/adaptation.py --data ../shared/data --cache runs/features

Pools are drawn from the photos to learn from, without their labels; all is measured on the test photos of all classes.
``balanced`` has four fifths of each class, ``missing`` all photos but those of one class, ``third`` a third of the
classes, ``tail`` numbers that fall 10:1, ``ten`` ten photos, ``one`` one class, ``copies`` half of its photos the same
one, ``foreign`` photos of another set alone, and ``mixed`` as many of these as of the own. Features are kept in
``--cache``.
"""

from __future__ import annotations

import argparse
import math
import random
import statistics
import time
from pathlib import Path

import torch
from teacher_features import FOLDERS, SETS, Features, drawn, features_of
from torch import Tensor

from clipstill.teachers.adaptation import adapted_class_vectors, share_of_classes

POOLS = ("balanced", "missing", "third", "tail", "ten", "one", "copies", "foreign", "mixed")
Results = dict[tuple[str, str], list[float]]


def places_of(kind: str, label_N: Tensor, classes: int, seed: int) -> list[int]:
    """Places of a pool's own photos."""
    places = drawn(label_N, classes, seed)
    draw = random.Random(seed)
    order = draw.sample(range(classes), classes)
    every = [place for of_class in places for place in of_class]
    every = draw.sample(every, len(every))
    tail = [places[c][: max(1, round(len(places[c]) * 10 ** (-rank / (classes - 1))))] for rank, c in enumerate(order)]
    return {
        "balanced": [place for of_class in places for place in of_class[: max(1, len(of_class) * 4 // 5)]],
        "missing": [place for c in order[1:] for place in places[c]],
        "third": [place for c in order[: math.ceil(classes / 3)] for place in places[c]],
        "tail": [place for of_class in tail for place in of_class],
        "ten": every[:10],
        "one": places[order[0]],
        "copies": every + every[:1] * len(every),
        "foreign": [],
        "mixed": every,
    }[kind]


def pool(kind: str, of: Features, foreign_ND: Tensor, seed: int) -> Tensor:
    """Unit vectors of the photos of one pool."""
    own = places_of(kind, of.train_N, len(of.text_CD), seed)
    other_ND = foreign_ND[torch.randperm(len(foreign_ND), generator=torch.Generator().manual_seed(seed))]
    return torch.cat([of.train_ND[own], other_ND[: len(of.train_N) if kind in ("foreign", "mixed") else 0]])


def gain(of: Features, feat_ND: Tensor) -> float:
    """How many points adapting to these photos gains."""
    share_N = share_of_classes(feat_ND, of.text_CD, of.other_WD, of.scale)
    found = adapted_class_vectors(
        of.text_CD, feat_ND, share_N, scale=of.scale, text_share_C=torch.ones(len(of.text_CD))
    )
    return of.top1(found.vectors_CD) - of.top1(of.text_CD)


def show(teacher: str, features: dict[str, Features], results: Results) -> None:
    """A table: points gained, as mean and standard deviation over the draws."""
    print(f"\n{teacher}\n\n| set | by names | {' | '.join(POOLS)} |\n|---|---:|{'---:|' * len(POOLS)}")
    for name, of in features.items():
        row = [results[name, kind] for kind in POOLS]
        cells = [f"{statistics.mean(cell):+.1f} ± {statistics.pstdev(cell):.1f}" for cell in row]
        print(f"| {name} | {of.top1(of.text_CD):.1f} | {' | '.join(cells)} |")
    means = [[statistics.mean(results[name, kind]) for name in features] for kind in POOLS]
    print(f"| mean of the sets | | {' | '.join(f'{statistics.mean(one):+.1f}' for one in means)} |")
    print(f"| worst set | | {' | '.join(f'{min(one):+.1f}' for one in means)} |")
    worst = [min(min(results[name, kind]) for name in features) for kind in POOLS]
    print(f"| worst draw | | {' | '.join(f'{one:+.1f}' for one in worst)} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--teachers", nargs="+", default=["embedded-m", "embedded-s"])
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    for teacher in args.teachers:
        others = features_of(teacher, list(FOLDERS), args.data, args.cache)
        features = features_of(teacher, args.sets, args.data, args.cache)
        results: Results = {}
        seconds: list[float] = []
        for name, of in features.items():
            foreign = [each.train_ND for other, each in others.items() if other[:4] != name[:4]]
            for kind in POOLS:
                for seed in range(args.draws):
                    feat_ND, start = pool(kind, of, foreign[seed % len(foreign)], seed), time.perf_counter()
                    results.setdefault((name, kind), []).append(gain(of, feat_ND))
                    seconds.append(time.perf_counter() - start)
        show(teacher, features, results)
        print(f"\nlongest adaptation: {max(seconds):.2f} s")


if __name__ == "__main__":
    main()
