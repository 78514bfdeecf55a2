"""What scores are worth: calibration, refusal and the estimate without photos, against real ones.

    python benchmarks/trust.py RUN... --photos DIR [--others DIR...] [--examples DIR --per-class 5]

RUNs are folders that ``clipstill run`` made, or bundles, which foretell nothing. Of ``--photos``, the sub-folders of a
run's classes measure top-1 and calibration; all others are things that were left out, and so are all of ``--others``.
With ``--examples``, a temperature that is fitted on so many labelled photos a class is measured beside the one without
photos.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstill.core.files import read_json
from clipstill.core.foresight import Foresight
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.evaluation.calibration import auroc, fit_temperature
from clipstill.evaluation.metrics import ece, softmax
from clipstill.runtime import Bundle, load_bundle
from clipstill.workflow.photos import limited


def answers(bundle: Bundle, folder: ImageFolder) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Logits for all photos, and their classes."""
    logits, labels = [], []
    fit = bundle.preprocess
    for pixels_NHW3, found in iterate(folder, fit, 32):
        logits.append(bundle.logits(pixels_NHW3))
        labels += found
    return np.concatenate(logits), np.array(labels)


def left_out(bundle: Bundle, photos: Path, others: list[Path]) -> NDArray[np.float32]:
    """Logits for photos of anything but the classes."""
    known = set(ImageFolder.open(photos, bundle.labels).items)
    folders = []
    for path in [photos, *others]:
        names = sorted(each.name for each in path.iterdir() if each.is_dir())
        folder = ImageFolder.open(path, names)
        inside = {path for path, _ in known}
        folders.append(replace(folder, items=[item for item in folder.items if item[0] not in inside]))
    return np.concatenate([answers(bundle, folder)[0] for folder in folders if folder.items])


def trust(run: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Of one run; shares in percent, AUROC and calibration errors in [0, 100] too."""
    bundle = load_bundle(run)
    logits_NC, label_N = answers(bundle, ImageFolder.open(args.photos, bundle.labels))
    told = run / "stages" / "calibration" / "calibration.json"
    foretold = Foresight.from_json(read_json(told)["foresight"]).photos if told.exists() else None
    top1 = float((logits_NC.argmax(axis=1) == label_N).mean())
    found: dict[str, Any] = {
        "run": run.name,
        "top1": top1,
        "foretold": foretold and foretold.share,
        "inside": foretold and foretold.low <= top1 <= foretold.high,
        "ECE raw": ece(logits_NC, label_N),
        "ECE": ece(logits_NC / bundle.temperature, label_N),
        "ECE by chance": by_chance(logits_NC / bundle.temperature),
    }
    if args.examples is not None:
        shown_NC, shown_N = answers(
            bundle, limited(ImageFolder.open(args.examples, bundle.labels), args.per_class, bundle.info["seed"])
        )
        temperature = fit_temperature(shown_NC, np.eye(len(bundle.labels))[shown_N])
        found["ECE by examples"] = ece(logits_NC / temperature, label_N)
    outside_MC = left_out(bundle, args.photos, args.others)
    inside_N, outside_M = (bundle.probabilities(each).max(axis=1) for each in (logits_NC, outside_MC))
    found |= {"AUROC": auroc(inside_N, outside_M)}
    if bundle.refusal_threshold is not None:
        found |= {
            "answered": float((inside_N >= bundle.refusal_threshold).mean()),
            "left out, refused": float((outside_M < bundle.refusal_threshold).mean()),
        }
    return {name: round(100 * value, 1) if isinstance(value, float) else value for name, value in found.items()}


def by_chance(logits_NC: NDArray[np.float32], draws: int = 200) -> float:
    """The error that as few photos would show of scores that are exactly right: labels are drawn from them."""
    probability_NC = softmax(logits_NC)
    random = np.random.default_rng(0)
    errors = []
    for _ in range(draws):
        label_N = (probability_NC.cumsum(axis=1) < random.random((len(logits_NC), 1))).sum(axis=1)
        errors.append(ece(logits_NC, np.minimum(label_N, logits_NC.shape[1] - 1)) or 0.0)
    return statistics.mean(errors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--others", nargs="*", type=Path, default=[])
    parser.add_argument("--examples", type=Path)
    parser.add_argument("--per-class", type=int, default=5)
    args = parser.parse_args()
    rows = [trust(run, args) for run in args.runs]
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
    for name in rows[0]:
        values = [row[name] for row in rows if isinstance(row[name], int | float)]
        if values:
            spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
            print(f"| {name} | {statistics.mean(values):.1f}{spread} |")


if __name__ == "__main__":
    main()
