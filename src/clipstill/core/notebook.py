"""Tables of results and bars of progress in a notebook."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from clipstill.core.names import plain

if TYPE_CHECKING:
    from clipstill.core.progress import ProgressEvent

_DRAW_EVERY_S = 0.2


def html_table(rows: Mapping[str, object]) -> str:
    """Names and values as two columns in HTML; rows whose value is None are left out."""
    shown = {name: value for name, value in rows.items() if value is not None}
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(plain(str(value)))}</td></tr>" for name, value in shown.items())
    return f"<table>{''.join(cells)}</table>"


def percent(share: float | None, digits: int = 1) -> str:
    """``81.4 %``; ``-`` for what was not measured."""
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def notebook_bar() -> Callable[[ProgressEvent], None] | None:
    """A function that draws one piece of work as a bar below the running cell; None outside of a notebook."""
    ipython = sys.modules.get("IPython")
    shell = None if ipython is None else ipython.get_ipython()
    return None if getattr(shell, "kernel", None) is None else _Bar().show


class _Bar:
    """A bar in HTML. That of rich would need ipywidgets, which not every notebook has."""

    def __init__(self) -> None:
        self._handle: Any = None
        self._drawn = time.monotonic()

    def show(self, event: ProgressEvent) -> None:
        """Draw an event, unless the last one was drawn just now. Short work draws nothing."""
        now, line = time.monotonic(), plain(event.line())
        if now - self._drawn < _DRAW_EVERY_S and not (event.finished and self._handle):
            return
        self._drawn = now
        known = "" if event.total is None else f' max="{max(event.total, 1)}" value="{event.done}"'
        bar = "" if event.finished else f"<progress{known}></progress> "
        bundle = {"text/html": bar + escape(line), "text/plain": line}
        if self._handle is None:
            from IPython.display import display

            self._handle = display(bundle, raw=True, display_id=True)
        else:
            self._handle.update(bundle, raw=True)
