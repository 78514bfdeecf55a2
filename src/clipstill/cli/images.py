"""``clipstill images``: the synthetic images of a run for other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from clipstill.cli import options
from clipstill.cli.printing import print_result
from clipstill.core.names import plain


def images(
    run: options.RunFolder,
    out: Annotated[Path, options.path("--out", "-o", help="The new folder.")],
    layout: Annotated[
        Literal["folder", "webdataset", "datasets"],
        typer.Option("--format", "-f", help="Class folders, WebDataset's shards, or class folders with a card."),
    ] = "folder",
    as_json: options.Json = False,
) -> None:
    """Write the synthetic images of a run for other tools, with captions and licences.

    All of them, also those that curation left out; score is the teacher's probability of the class. Each keeps its mark
    of synthetic pictures.

    clipstill images runs/zoo --out zoo-images --format webdataset
    """
    from clipstill.commands.images import write_images

    count = write_images(run, out, layout)
    print_result({"out": plain(out), "images": count}, {"images": str(count), "written to": str(out)}, as_json)
