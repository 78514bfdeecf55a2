"""``clipstill demo``: the main job on seven everyday classes, measured on real photos."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from clipstill.cli import options

DATA_VARIABLE = "CLIPSTILL_DATA"
PACS_PHOTOS = Path("pacs/test/photo")
PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run folder.")] = Path("runs/demo"),
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run everything on seven everyday classes.

    The photos are the seven classes of PACS below $CLIPSTILL_DATA where that is set; otherwise the few that come with
    scikit-image and scikit-learn.
    """
    from clipstill import api
    from clipstill.cli.run import print_run
    from clipstill.evaluation.sample_photos import sample_photos
    from clipstill.text.task import parse_task

    data = os.environ.get(DATA_VARIABLE)
    photos = Path(data) / PACS_PHOTOS if data else out.with_name(f"{out.name}-photos")
    classes = PACS_CLASSES if data else sample_photos(photos)
    result = api.distil(classes=parse_task(classes), out=out, images=photos, settings=overrides or [], device=device)
    print_run(result, as_json)
