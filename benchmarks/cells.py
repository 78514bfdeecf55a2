"""Run the cells of a table one after the other; several processes may share one table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipstill.core.errors import BusyError
from clipstill.core.files import read_json


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
