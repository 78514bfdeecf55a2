"""Tables that results show in a notebook."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape


def html_table(rows: Mapping[str, object]) -> str:
    """Two columns as HTML; values that are None are left out."""
    cells = (
        f"<tr><th>{escape(name)}</th><td>{escape(str(value))}</td></tr>"
        for name, value in rows.items()
        if value is not None
    )
    return f"<table>{''.join(cells)}</table>"


def percent(share: float | None) -> str:
    """``81.4 %``; ``-`` for what was not measured."""
    return "-" if share is None else f"{100 * share:.1f} %"
