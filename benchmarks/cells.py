"""The cells of a table, each a run: one after the other, and shared with other processes that are at the same table."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from clipstill.core.errors import ResourceError
from clipstill.core.files import read_json


def results_of(cells: Sequence[tuple[Any, int]], place: Callable[..., Path], make: Callable[..., None]) -> list[Any]:
    """Make the cells that are not there, and read all that are.

    Args:
        cells: what a cell is about, and its seed.
        place: cell -> the JSON file that says that it is done.
        make: cell -> nothing; writes that file. A cell that another process is at is left to that one.
    """
    for cell in cells:
        if place(*cell).exists():
            continue
        try:
            make(*cell)
            print(f"{cell[0]}, seed {cell[1]}: done", file=sys.stderr, flush=True)
        except ResourceError as error:
            if "another clipstill process" not in str(error):
                raise
    done = [place(*cell) for cell in cells if place(*cell).exists()]
    if len(done) < len(cells):
        print(f"{len(cells) - len(done)} runs are still at work elsewhere", file=sys.stderr)
    return [read_json(path) for path in done]
