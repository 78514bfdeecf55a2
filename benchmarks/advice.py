"""What it costs to follow the ladder's advice: told on one half of the photos, measured on the other.

    python benchmarks/advice.py RUN --photos "PACS photo=DIR" ... --out DIR

For each set the ladder of the run is measured once. Then the photos are halved at random, many times: the advice of one
half names what to ship, and the other half says how many photos that names less than the best of student and teachers
(the regret, in points), and less than the student.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import clipstill
from clipstill.evaluation.ladder import NOISE, OURS, PROCEDURAL, SMALL_TEACHER, TEACHER, Rung, recommend

RUNGS = (TEACHER, SMALL_TEACHER, NOISE, PROCEDURAL, OURS)
SHIPPED = (OURS, SMALL_TEACHER, TEACHER)
HALVINGS = 200


def part(rung: Rung, places: np.ndarray) -> Rung:
    """The rung measured on these photos alone."""
    right = "".join(rung.result.right[place] for place in places)
    return replace(rung, measured=replace(rung.result, right=right))


def line(title: str, run: Path, photos: Path, out: Path) -> str:
    """One set's row."""
    found = clipstill.ladder(run=run, images=photos, rungs=RUNGS, out=out)
    rungs, rng = [rung for rung in found.rungs if rung.measured], np.random.default_rng(0)
    picks, regrets, gains = [], [], []
    for _ in range(HALVINGS):
        told, measured = np.array_split(rng.permutation(found.n), 2)
        pick = recommend([part(rung, told) for rung in rungs]).ship or OURS
        top1 = {rung.name: 100 * part(rung, measured).result.top1 for rung in rungs if rung.name in SHIPPED}
        picks.append(pick)
        regrets.append(max(top1.values()) - top1[pick])
        gains.append(top1[pick] - top1[OURS])
    by_name = {rung.name: f"{100 * rung.result.top1:.1f}" for rung in rungs}
    shares = ", ".join(f"{name} {picks.count(name) / HALVINGS:.0%}" for name in SHIPPED if name in picks)
    cells = [title, str(found.n), *(by_name.get(name, "") for name in (OURS, SMALL_TEACHER, TEACHER, PROCEDURAL))]
    cells += [found.recommendation.ship or "none", shares, f"{np.mean(regrets):.1f}", f"{np.mean(gains):+.1f}"]
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--photos", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--out", type=Path, required=True, help="folder that keeps what is made")
    args = parser.parse_args()
    print("| photos | number | student | small teacher | teacher | dead leaves | advice | by halves | regret | gain |")
    print("|---|---:|---:|---:|---:|---:|---|---|---:|---:|")
    for title, _, folder in (each.partition("=") for each in args.photos):
        print(line(title, args.run, Path(folder), args.out), flush=True)


if __name__ == "__main__":
    main()
