"""Tables of results and bars of progress in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any, ClassVar

from clipstill.core.names import plain

if TYPE_CHECKING:
    from clipstill.core.progress import ProgressEvent

_DRAW_EVERY_S = 0.2


def html_table(rows: Mapping[str, object]) -> str:
    """Names and values as two columns in HTML; rows whose value is None are left out."""
    shown = {name: value for name, value in rows.items() if value is not None}
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(plain(str(value)))}</td></tr>" for name, value in shown.items())
    return f"<table>{''.join(cells)}</table>"


def notebook_bar() -> Callable[[ProgressEvent], None] | None:
    """A function that draws one piece of work as a bar below the running cell; None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    if shell is None or getattr(shell, "kernel", None) is None:
        return None
    return _Bar(shell.execution_count).show


class _Bar:
    """A bar in HTML; that of rich would need ipywidgets, which not every notebook has.

    The works of one cell take turns in one line, of which the last one stays.
    """

    _last_cell: ClassVar[int | None] = None
    _line: ClassVar[Any] = None

    def __init__(self, cell: int) -> None:
        self._cell = cell
        self._is_shown, self._drawn = False, time.monotonic()

    def show(self, event: ProgressEvent) -> None:
        """Draw an event, unless the last one was drawn just now. Short work draws nothing."""
        now, line = time.monotonic(), plain(event.line())
        if now - self._drawn < _DRAW_EVERY_S and not (event.finished and self._is_shown):
            return
        self._drawn, self._is_shown = now, True
        known = "" if event.total is None else f' max="{max(event.total, 1)}" value="{event.done}"'
        bar = "" if event.finished else f"<progress{known}></progress> "
        bundle = {"text/html": bar + escape(line), "text/plain": line}
        if _Bar._last_cell == self._cell:
            _Bar._line.update(bundle, raw=True)
        else:
            from IPython.display import display

            _Bar._last_cell, _Bar._line = self._cell, display(bundle, raw=True, display_id=True)  # type: ignore[no-untyped-call]
