"""How the time of a surrogate set goes with the number of workers, and whether all of them make the same one.

    python benchmarks/scale_out.py --classes dog,guitar --out runs/scale-out --set synthesis.steps=20

makes one set four times with the default teacher and generators: by one process, by two ranks of torchrun, and by one
and two workers of a Ray cluster on this machine that each run starts for itself; one thread each. It prints a table:

- ``stage s``: of the stage of synthesis, with what is paid once: the start of the cluster, and the models that each of
  its workers loads;
- ``work s``: from the beginning of the first group to the end of the last one, which is what a long run sees;
- ``img/s`` and ``speed``: by ``work s``, the latter against one process;
- ``identical``: whether every shard has the same sha256 as the one process's.

The student is the smallest there is, and nothing of it is timed. ``--out`` must not exist; it keeps the four runs.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from clipstill.core.files import read_json, sha256_file
from clipstill.workflow.records import read_events

TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
RAY = ("--launcher", "ray")
# Name of a row -> what stands before and behind the command.
ROWS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "one process": ((), ()),
    "torchrun, 2 ranks": (TORCHRUN, ()),
    "Ray, 1 worker": ((), (*RAY, "--set", "launch.workers=1")),
    "Ray, 2 workers": ((), (*RAY, "--set", "launch.workers=2")),
}
SETTINGS = (
    "threads=1",
    "device=cpu",
    # Further images are made by the first process alone, whoever made the others.
    "student.name=timm:test_efficientnet",
    "student.init=scratch",
    "student.image_size=32",
    "distillation.freeze=none",
    "distillation.steps=1",
    "distillation.batch=2",
    "distillation.views=1",
    "distillation.held_out_styles=1",
)


def measured(name: str, out: Path, command: list[str]) -> dict[str, Any]:
    """Run one row, and read from its folder how long the synthesis took."""
    before, behind = ROWS[name]
    print(f"{name} ...", file=sys.stderr, flush=True)
    line = [sys.executable, *before, "-m", "clipstill", *command, "--out", str(out), "--quiet", *behind]
    subprocess.run(line, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"})
    folder = out / "stages" / "surrogate"
    stage = next(
        event["seconds"] for event in read_events(out) if event["event"] == "done" and event["stage"] == "surrogate"
    )
    # A receipt is written when its group is done, and knows how long that took.
    ends = {path: path.stat().st_mtime for path in folder.glob("shard-*.json")}
    facts = {path: read_json(path)["facts"] for path in ends}
    work = max(ends.values()) - min(ends[path] - facts[path]["seconds"] for path in ends)
    return {
        "name": name,
        "stage_s": round(stage, 1),
        "work_s": round(work, 1),
        "images": sum(int(read_json(path)["images"]) for path in ends),
        "workers": len({told["worker"] for told in facts.values()}),
        "shards": {path.name: sha256_file(path) for path in sorted(folder.glob("*.tar"))},
    }


def table(rows: list[dict[str, Any]]) -> str:
    """As markdown."""
    first = rows[0]
    lines = [
        f"{first['images']} images in {len(first['shards'])} groups",
        "",
        "| | processes | stage s | work s | img/s | speed | identical |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        rate, speed = row["images"] / row["work_s"], first["work_s"] / row["work_s"]
        same = "yes" if row["shards"] == first["shards"] else "NO"
        cells = [row["name"], row["workers"], row["stage_s"], row["work_s"], f"{rate:.2f}", f"{speed:.2f}", same]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", default="dog,guitar")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--set", nargs="*", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument("--json", type=Path, help="also write the rows here")
    args = parser.parse_args()
    args.out.mkdir(parents=True)
    command = ["run", "--classes", args.classes, "--seed", "0"]
    command += [part for setting in (*SETTINGS, *args.set) for part in ("--set", setting)]
    rows = [measured(name, args.out / name.replace(", ", "-").replace(" ", "-"), command) for name in ROWS]
    if args.json is not None:
        args.json.write_text(json.dumps(rows, indent=2) + "\n")
    print(table(rows))
    if any(row["shards"] != rows[0]["shards"] for row in rows):
        sys.exit("error: the sets differ.")


if __name__ == "__main__":
    main()
