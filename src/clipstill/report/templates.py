"""Templates of the report and of the model card."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from clipstill.core.progress import percent, span, whole_percent

if TYPE_CHECKING:
    import jinja2


@cache
def environment() -> jinja2.Environment:
    """Templates of this folder. HTML is escaped, Markdown is not; an unknown name is an error."""
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("clipstill", "report"),
        autoescape=jinja2.select_autoescape(["html"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "spec": lambda value, form: "-" if value is None else format(value, form),
        "cell": lambda value: str(value).replace("|", "/"),
        "percent": percent,
        "whole_percent": whole_percent,
        "size": _size,
        "count": _count,
        "duration": duration,
        "plain": _plain,
    }
    return made


def duration(seconds: float) -> str:
    """``0.4 s`` below ten seconds, else as ``core.progress.span`` writes it."""
    return f"{seconds:.1f} s" if seconds < 9.95 else span(seconds)


def _size(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.1f} MB" if count >= 1e5 else f"{count / 1e3:.1f} kB"


def _count(count: int | None) -> str:
    if count is None:
        return "-"
    return f"{count / 1e6:.2f} M" if count >= 1e6 else f"{count:,}"


def _plain(value: Any) -> str:
    """A setting as a person writes it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return ", ".join(str(each) for each in value) or "-"
    return f"{value:g}" if isinstance(value, float) else str(value)
