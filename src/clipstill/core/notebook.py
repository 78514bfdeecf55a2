"""Tables of results in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from clipstill.core.names import plain


def html_table(rows: Mapping[str, object]) -> str:
    """Names and values as two columns in HTML; rows whose value is None are left out."""
    shown = {name: value for name, value in rows.items() if value is not None}
    cells = (f"<tr><th>{escape(name)}</th><td>{escape(plain(str(value)))}</td></tr>" for name, value in shown.items())
    return f"<table>{''.join(cells)}</table>"


def percent(share: float | None) -> str:
    """A share as everything shows it, ``81.4 %``; ``-`` for what was not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"
