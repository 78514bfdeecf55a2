"""How processor time and memory of a run grow with images, classes, unlabelled photos and examples.

    python benchmarks/growth.py --data DATA --out runs/growth

    python benchmarks/growth.py --data DATA --out runs/growth --rows "1,000 names"

DATA has ``caltech101/train``. Each size is a process of its own; what is there is not made again. Processor time is
that of all threads, so another process beside it counts little. The exponent is that of the part which grows, without
what is constant: ``log4((t16 - t4) / (t4 - t1))``, 1 where sixteen times as much costs sixteen times as much.
"""

from __future__ import annotations

import argparse
import itertools
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from clipstill.core.files import read_json, write_json
from clipstill.text.wordnet import wordnet

_SMALL = (
    *("evaluation.ladder=false", "export.formats=[onnx]", "export.page=false", "export.zero_shot=false", "threads=1"),
    *("refusal.near_misses=0", "synthesis.steps=2", "prompts.images_per_class=2"),
)


def _names(count: int) -> str:
    """The first names of ImageNet's classes; two classes may share one."""
    words = [word.replace("_", " ") for word in wordnet().imagenet_words()]
    return ",".join(list(dict.fromkeys(words))[:count])


def _caltech(data: Path, count: int) -> str:
    return ",".join(sorted(entry.name for entry in (data / "caltech101/train").iterdir())[:count])


def _images(data: Path, times: int) -> list[str]:
    return ["--classes", _names(8), "--set", f"prompts.images_per_class={4 * times}"]


def _classes(data: Path, times: int) -> list[str]:
    return ["--classes", _names(16 * times)]


def _unlabelled(data: Path, times: int) -> list[str]:
    folder = data / "caltech101/train"
    return ["--classes", _caltech(data, 50), "--unlabelled", str(folder), "--set", f"unlabelled.limit={30 * times}"]


def _examples(data: Path, times: int) -> list[str]:
    folder = data / "caltech101/train"
    return ["--classes", _caltech(data, 3 * times), "--examples", str(folder), "--set", "examples.per_class=10"]


def _thousand(data: Path, times: int) -> list[str]:
    return ["--classes", _names(1000), "--set", "prompts.images_per_class=1"]


# Row -> options of a run that is this many times as large, the sizes, and what is counted at size 1.
ROWS: dict[str, tuple[Callable[[Path, int], list[str]], tuple[int, ...], str]] = {
    "images": (_images, (1, 4, 16), "32 images of 8 classes"),
    "classes": (_classes, (1, 4, 16), "16 classes, two images each"),
    "unlabelled photos": (_unlabelled, (1, 4, 16), "30 photos, 50 classes"),
    "classes with ten examples": (_examples, (1, 4, 16), "3 classes"),
    "1,000 names": (_thousand, (1,), "ImageNet's names, one image each"),
}


def measure(arguments: list[str]) -> dict[str, float]:
    """Processor seconds and highest memory in bytes of one run."""
    child = subprocess.Popen(
        [sys.executable, "-m", "clipstill", "run", "--quiet", *arguments], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"clipstill run {' '.join(arguments)} ended with exit code {child.returncode}")
    return {"seconds": usage.ru_utime + usage.ru_stime, "bytes": usage.ru_maxrss * 1024.0}


def exponent(values: list[float]) -> str:
    """Of three values, each for four times as much as the one before."""
    if len(values) < 3:
        return "-"
    first, second = (later - sooner for sooner, later in itertools.pairwise(values))
    return f"{math.log(second / first, 4):.2f}" if first > 0 and second > 0 else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="+", default=[row for row in ROWS if row != "1,000 names"], choices=list(ROWS))
    options = parser.parse_args()
    print("| what grows | at 1x | processor seconds at 1x, 4x, 16x | exponent | GB at 1x, 4x, 16x | exponent |")
    print("|---|---|---:|---:|---:|---:|")
    for row in options.rows:
        arguments, sizes, unit = ROWS[row]
        found = []
        for times in sizes:
            place = options.out / f"{row.replace(' ', '-')}-{times}.json"
            if not place.exists():
                shutil.rmtree(place.with_suffix(""), ignore_errors=True)  # What was interrupted would go on, for less.
                given = [*arguments(options.data, times), "--out", str(place.with_suffix(""))]
                write_json(place, measure([*(f"--set={value}" for value in _SMALL), *given]))
            found.append(read_json(place))
        seconds, memory = ([one[key] for one in found] for key in ("seconds", "bytes"))
        cells = [row, unit, ", ".join(f"{value:.0f}" for value in seconds), exponent(seconds)]
        cells += [", ".join(f"{value / 1e9:.2f}" for value in memory), exponent(memory)]
        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
