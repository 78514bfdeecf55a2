"""What the verbs print on standard output: JSON for programs, tables for people."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import zip_longest
from typing import Any

from clipstill.core.names import plain

# Control characters and marks of direction that JSON leaves as they are, and a terminal obeys.
_OBEYED = re.compile("[\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")


def silence_output() -> None:
    """Drop what is printed from here on, where the reader of standard output has left (``... | head -1``)."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_json(value: Any) -> None:
    """Print one JSON value."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    print(_OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_text(text: str) -> None:
    """Print lines that may quote names of files."""
    print("\n".join(map(plain, text.split("\n"))))


def print_table(rows: Iterable[Sequence[str]], *, indent: str = "  ", numbers: bool = False) -> None:
    """Print aligned columns; ``numbers`` aligns all but the first to the right. A row may lack its last cells."""
    rows = [[plain(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]
    for first, *others in rows:
        cells = [
            cell.rjust(width) if numbers else cell.ljust(width) for cell, width in zip(others, widths[1:], strict=False)
        ]
        print(f"{indent}{'  '.join([first.ljust(widths[0]), *cells])}".rstrip())


def print_result(value: Any, facts: Mapping[str, str | None], as_json: bool) -> None:
    """Print a result as JSON, or its facts by name as a table; facts that are None are left out."""
    if as_json:
        print_json(value)
    else:
        print_table((name, text) for name, text in facts.items() if text is not None)
