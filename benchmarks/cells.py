"""Run the cells of a table one after the other; several processes may share one table."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipstill.core.errors import BusyError
from clipstill.core.files import read_json


def parser_of(description: str | None) -> ArgumentParser:
    """The options that tables of whole runs share."""
    parser = ArgumentParser(description=description, formatter_class=RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for the runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings that all rows share")
    return parser


def results_of(cells: Sequence[tuple[Any, int]], place: Callable[..., Path], make: Callable[..., None]) -> list[Any]:
    """Run the missing cells and read all that are done.

    Args:
        cells: Row and seed of each cell.
        place: Cell -> the JSON file with its result.
        make: Runs a cell and writes that file. A cell that another process works on is skipped.
    """
    for cell in cells:
        if place(*cell).exists():
            continue
        try:
            make(*cell)
            print(f"{cell[0]}, seed {cell[1]}: done", file=sys.stderr, flush=True)
        except BusyError:
            pass
    done = [place(*cell) for cell in cells if place(*cell).exists()]
    if len(done) < len(cells):
        print(f"{len(cells) - len(done)} runs are still made by other processes", file=sys.stderr)
    return [read_json(path) for path in done]
