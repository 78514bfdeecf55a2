"""What a plan foretells against what the run then takes: seconds and memory, as a table.

    python benchmarks/planned.py --out runs/planned

    python benchmarks/planned.py --out runs/planned --rows "ovc at full size" --teacher openclip:ViT-B-32//w.safetensors

Each row is planned by one process and run by another, on this machine and with nothing beside them. A row that is there
is not made again. "ovc at full size" needs a CLIP (``--teacher``; random weights will do) and an imported VQGAN.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from clipstill.core.files import read_json, write_json

_SMALL = ("evaluation.ladder=false", "export.formats=[onnx]", "export.page=false", "threads=1")
_CLASSES = "dog,elephant,giraffe,guitar,horse,house,person"
# Row -> options, and settings, beside the recipe's; images and steps are fewer than the recipes'.
ROWS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "default": ((), ()),
    "embedded-m": (("--teacher", "embedded-m"), ("prompts.images_per_class=4",)),
    "soft tokens": ((), ("prompts.strategy=sdd", "prompts.images_per_class=4", "synthesis.steps=20")),
    "all weights": (
        (),
        ("prompts.images_per_class=4", "synthesis.steps=20", "distillation.freeze=bn", "distillation.steps=60"),
    ),
    "ovc at full size": (
        ("--recipe", "ovc"),
        (
            "prompts.images_per_class=2",
            "prompts.steps=5",
            "synthesis.steps=2",
            "synthesis.group_size=4",
            "refusal.near_misses=0",
            "student.init=scratch",
            "distillation.batch=16",
            "distillation.steps=4",
            "distillation.head_steps=4",
            "distillation.warmup_steps=1",
        ),
    ),
}


def _process(arguments: list[str]) -> tuple[str, float, float]:
    """Standard output, seconds, and highest memory in bytes of one call of clipstill."""
    start = time.monotonic()
    child = subprocess.Popen([sys.executable, "-m", "clipstill", *arguments], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    text = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"clipstill {' '.join(arguments)} ended with exit code {child.returncode}")
    return text, time.monotonic() - start, usage.ru_maxrss * 1024.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--rows", nargs="*", default=[row for row in ROWS if row != "ovc at full size"])
    parser.add_argument("--teacher", help="Teacher of 'ovc at full size'.")
    options = parser.parse_args()
    print(f"{'':18} {'planned':>9} {'taken':>9} {'ratio':>6}   {'planned':>9} {'taken':>9} {'ratio':>6}")
    for row in options.rows:
        place = options.out / f"{row.replace(' ', '-')}.json"
        if not place.exists():
            named, settings = ROWS[row]
            asked = ["--classes", _CLASSES, *named, *(f"--set={value}" for value in (*settings, *_SMALL))]
            if row == "ovc at full size" and options.teacher:
                asked += ["--teacher", options.teacher]
            plan, _, _ = _process(["plan", *asked, "--json"])
            _, seconds, memory = _process(["run", *asked, "--out", str(place.with_suffix(""))])
            write_json(place, {"planned": json.loads(plan)["cost"], "seconds": seconds, "memory_bytes": memory})
        found = read_json(place)
        told, taken = found["planned"], (found["seconds"], found["memory_bytes"])
        pairs = [(told["seconds"], taken[0], "s"), (told["memory_bytes"] / 1e9, taken[1] / 1e9, "GB")]
        cells = [f"{a:7.1f} {unit:2}{b:7.1f} {unit:2} {a / b:6.2f}" for a, b, unit in pairs]
        print(f"{row:18} {'   '.join(cells)}", flush=True)


if __name__ == "__main__":
    main()
