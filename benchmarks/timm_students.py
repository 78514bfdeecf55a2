"""Whether timm's networks go the whole way as students: built, trained, exported, compared and asked about a picture.

    python benchmarks/timm_students.py --out runs/timm-students

One network of each family of timm, the smallest, from the smallest family upwards; random weights, pictures of plain
colours, a teacher that names the colour. Each network is asked for at 64 pixels, and where it refuses that, at the size
that the refusal names. A row says what came out: the exported file and its parity, or the one line of the refusal; any
other exception is a row too, and the command then ends with 1. ``rows.jsonl`` in the folder has a line per network, so
an interrupted command continues; ``table.md`` has the table.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import re
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any, cast

import numpy as np
import timm
import torch
from torch import Tensor
from torch.nn import functional

from clipstill.core.description import Description
from clipstill.core.errors import ClipstillError, ConfigError
from clipstill.core.files import read_json, write_json, write_text
from clipstill.core.seeds import generator_for
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.export.bundle import BundleContent, write_bundle
from clipstill.export.format import deployed_copy
from clipstill.export.parity import as_input, student_logits
from clipstill.runtime import load_bundle
from clipstill.students import load_student
from clipstill.students.student import Student

LABELS = ("red", "green", "blue")
SIZE, IMAGES = 64, 12
SETTINGS = DistilSettings(steps=3, batch=4, freeze="none", lr=1e-4, held_out_styles=0, checkpoint_every=3, ema=0.0)


class ColourTeacher:
    """Tells pictures by their mean colour."""

    name = "colours"
    weights_sha256 = "none"
    logit_scale = 20.0

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Unit vectors (N, 3)."""
        return functional.normalize(x_N3HW.mean((2, 3)), dim=1)


def sample(count: int) -> list[str]:
    """The smallest network of each family, the ``count`` families with the smallest ones."""
    found = []
    for family in timm.list_modules():
        sizes = {}
        for name in timm.list_models(module=family, exclude_filters="test_*"):
            with torch.device("meta"):
                network = timm.create_model(name, num_classes=0)
            sizes[name] = sum(weights.numel() for weights in network.parameters())
        if sizes:
            smallest = min(sizes, key=lambda name: (sizes[name], name))
            found.append((sizes[smallest], smallest))
    return [name for _, name in sorted(found)[:count]]


def row_of(architecture: str) -> dict[str, Any]:
    """What became of one network."""
    row: dict[str, Any] = {"architecture": architecture, "size": SIZE, "asked again": "", "refused": "", "error": ""}
    start = time.monotonic()
    try:
        with tempfile.TemporaryDirectory() as work:
            row |= passed(row, Path(work))
    except ClipstillError as error:
        row["refused"] = str(error)
    except Exception:  # What this command looks for.
        row["error"] = traceback.format_exc()
    return {**row, "seconds": round(time.monotonic() - start, 1)}


def passed(row: dict[str, Any], work: Path) -> dict[str, Any]:
    """Build, train, export and ask one student."""
    student = built(row)
    size = student.preprocess.side
    generator = generator_for("pictures of colours")
    pixels_N3HW = torch.randint(0, 60, (IMAGES, 3, size, size), generator=generator, dtype=torch.uint8)
    class_N = torch.arange(IMAGES) % len(LABELS)
    pixels_N3HW[torch.arange(IMAGES), class_N] += 180
    data = TrainingData(pixels_N3HW, class_N, torch.zeros(IMAGES, dtype=torch.long))
    labels = SoftLabels(cast(Any, ColourTeacher()), torch.eye(3))
    result = distil(student, labels, data, settings=SETTINGS, folder=work / "training")
    description = Description(LABELS, student.preprocess, student.provenance, info={"student": student.name})
    content = BundleContent(student, torch.eye(3), description, page=False)
    facts = write_bundle(work / "bundle", content, lambda _: {})
    bundle, picture_NHW3 = load_bundle(work / "bundle"), pixels_N3HW.permute(0, 2, 3, 1).numpy()
    bundle.predict(picture_NHW3[0])
    expected_NC = student_logits(student, as_input(picture_NHW3, size))
    np.testing.assert_allclose(bundle.logits(picture_NHW3), expected_NC, atol=facts.parity["tolerance"])
    fused = deployed_copy(student)
    return {
        "size": size,
        "parameters": facts.parameters,
        "fused": len(list(fused.modules())) < len(list(student.modules())),
        "loss": result.history[-1]["loss"],
        "difference": facts.parity["max_difference"],
        "relative": facts.parity["max_difference"] / (1000 * facts.parity["tolerance"]),
        "bytes": facts.onnx_bytes,
        "latency_ms": facts.latency_ms,
    }


def built(row: dict[str, Any]) -> Student:
    """The student at 64 pixels, or at the size that its refusal names."""
    name = f"timm:{row['architecture']}"
    try:
        return load_student(name, len(LABELS), "scratch", SIZE)
    except ConfigError as error:
        advised = re.search(r"set student.image_size to (\d+)", str(error))
        if advised is None:
            raise
        row["asked again"] = str(error)
        return load_student(name, len(LABELS), "scratch", int(advised[1]))


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a summary, and a row for each network."""
    failed, refused = ([row for row in rows if row[name]] for name in ("error", "refused"))
    again = sum(bool(row["asked again"]) for row in rows if not row["error"] and not row["refused"])
    lines = [
        f"{len(rows) - len(failed) - len(refused)} of {len(rows)} networks were trained, exported and asked, {again} "
        f"of them at the size that the refusal of {SIZE} pixels named; {len(refused)} were refused in one line; "
        f"{len(failed)} ended in another exception.",
        "",
        "| network | pixels | million weights | MB | logits differ by | share of the largest logit | branches fused |",
        "|---|---:|---:|---:|---:|---:|---|",
    ]
    for row in rows:
        if row["error"] or row["refused"]:
            reason = row["refused"] or row["error"].strip().splitlines()[-1]
            lines.append(f"| {row['architecture']} | {row['size']} | `{reason}` | | | | |")
        else:
            lines.append(
                f"| {row['architecture']} | {row['size']} | {row['parameters'] / 1e6:.1f} | {row['bytes'] / 1e6:.1f} | "
                f"{row['difference']:.0e} | {row['relative']:.0e} | {'yes' if row['fused'] else ''} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=90)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="of these networks; several processes")
    args = parser.parse_args()
    logging.getLogger("clipstill").setLevel(logging.WARNING)
    args.out.mkdir(parents=True, exist_ok=True)
    chosen, stored = args.out / "sample.json", args.out / "rows.jsonl"
    if not chosen.exists():
        write_json(chosen, sample(args.count))
    names = read_json(chosen)
    for name in args.only or names:
        known = stored.read_text(encoding="utf-8").splitlines() if stored.exists() else []
        if name in {json.loads(line)["architecture"] for line in known}:
            continue
        row = row_of(name)
        with stored.open("a", encoding="utf-8") as lines:
            lines.write(json.dumps(row) + "\n")
        news = row["error"] or row["refused"] or "done"
        print(f"{name}, {row['seconds']} s: {news}", file=sys.stderr, flush=True)
        gc.collect()
    found = {row["architecture"]: row for row in map(json.loads, stored.read_text(encoding="utf-8").splitlines())}
    text = table([found[name] for name in names if name in found])
    write_text(args.out / "table.md", text)
    print(text)
    sys.exit(any(row["error"] for row in found.values()))


if __name__ == "__main__":
    main()
