"""What each export format of a student is worth: one table, every format of every student.

    python benchmarks/export.py RUN_OR_BUNDLE... --images photo=DIR sketch=DIR --formats onnx-fp16 onnx-int8 torch

Megabytes, milliseconds for one picture on one core and on all of them, share of answers equal to the float32 student's,
largest difference of a logit, and top-1 in percent on each folder of photos. A bundle without its run needs
``--calibration DIR`` for int8. The runs stay as they are: the files are written into copies that are thrown away.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from clipstill.cli.export import named_folders
from clipstill.commands.export import export
from clipstill.core.errors import ResourceError
from clipstill.export import formats, load_format
from clipstill.export.measure import FormatFacts
from clipstill.runtime import load_bundle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sources", nargs="+", type=Path, metavar="RUN_OR_BUNDLE")
    parser.add_argument("--images", nargs="+", default=[], metavar="NAME=DIR")
    parser.add_argument("--formats", nargs="+", default=None, help="all that this machine can write, if left out")
    parser.add_argument("--calibration", type=Path)
    parser.add_argument("--set", nargs="+", default=[], dest="overrides", metavar="KEY=VALUE")
    parser.add_argument("--json", type=Path, help="write the numbers here too")
    given = parser.parse_args()
    names = given.formats or [name for name in formats.names() if name != "onnx" and _can_be_written(name)]
    photos = named_folders(given.images)
    heads = ["student", "format", "MB", "ms, one core", "ms, all", "same answers", "logits differ by", *photos]
    print("| " + " | ".join(heads) + " |")
    print("|---|---|" + "---:|" * (5 + len(photos)))
    told = {}
    for source in given.sources:
        with tempfile.TemporaryDirectory() as work:
            made = export(
                source,
                names,
                out=Path(work) / "bundle",
                images=photos,
                calibration=given.calibration,
                overrides=given.overrides,
            )
        student = f"{load_bundle(source).info['student']} ({source.name})"
        told[str(source)] = made.to_json()
        for facts in made.formats:
            print(f"| {student} | {facts.format} | " + " | ".join(_cells(facts, list(photos))) + " |", flush=True)
    if given.json:
        given.json.write_text(json.dumps(told, indent=2))


def _can_be_written(name: str) -> bool:
    try:
        load_format(name)
    except ResourceError as error:
        print(f"left out: {error}", file=sys.stderr)
        return False
    return True


def _cells(facts: FormatFacts, photos: list[str]) -> list[str]:
    def told(value: float | None, form: str, factor: float = 1.0) -> str:
        return "" if value is None else format(factor * value, form)

    return [
        "refused" if facts.refused else told(facts.bytes, ".1f", 1e-6),
        told(facts.latency_ms, ".1f"),
        told(facts.latency_all_cores_ms, ".1f"),
        told(facts.top1_agreement, ".1f", 100),
        told(facts.max_difference, ".2g"),
        *(told(facts.accuracy.get(name), ".1f", 100) for name in photos),
    ]


if __name__ == "__main__":
    main()
