"""Flawless or defective fabric from a few examples, by the protocol of Megahed et al. (arXiv 2501.12596, experiment 3).

    python benchmarks/textile.py --data ../shared/data --cache runs/features

Of n examples of either answer, half of the defective ones have a local and half a pattern defect; measured on as many
flawless as defective photos, mixed the same way. Every flawless photo counts twice, since there are half as many.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

from teacher_features import drawn, features_of

from clipstill.teachers.prototypes import prototypes
from clipstill.workflow.recipes import load_settings
from examples import made

# Position of the flawless class among the sorted names.
_FLAWLESS = 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--draws", type=int, default=5)
    args = parser.parse_args()
    of, settings = features_of(args.teacher, ["textile"], args.data, args.cache)["textile"], load_settings().examples
    flawless_N = of.test_N == _FLAWLESS
    print("| examples of each answer | prototype | with text | ours |\n|---:|---:|---:|---:|")
    for count in (2, 10, 20):
        found: dict[str, list[float]] = {}
        for draw in range(args.draws):
            places = drawn(of.train_N, 3, draw)
            shown = [
                place
                for label, of_class in enumerate(places)
                for place in of_class[: count if label == _FLAWLESS else count // 2]
            ]
            feat_ND, label_N = of.train_ND[shown], of.train_N[shown]
            vectors = {
                "prototype": prototypes(feat_ND, label_N.tolist(), of.text_CD).prototypes_CD,
                "with text": made(of, feat_ND, label_N, settings.changed(whitening=0.0)).class_CD,
                "ours": made(of, feat_ND, label_N, settings).class_CD,
            }
            for name, class_CD in vectors.items():
                right_N = ((of.test_ND @ class_CD.T).argmax(1) == _FLAWLESS) == flawless_N
                both = right_N[flawless_N].float().mean() + right_N[~flawless_N].float().mean()
                found.setdefault(name, []).append(50 * float(both))
        cells = [f"{statistics.mean(one):.1f} ± {statistics.stdev(one):.1f}" for one in found.values()]
        print(f"| {count} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
