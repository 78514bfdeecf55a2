"""What the page shows, as pieces of HTML from ``panels.html``, which escapes every text."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2

from clipstill.core.errors import ArtifactError
from clipstill.core.notebook import percent
from clipstill.core.progress import span
from clipstill.stages import STAGES
from clipstill.ui.pictures import SyntheticImage
from clipstill.ui.runs import Amount, Figures, Run, amount_in

FILES = "/files"
_TITLES = {stage.name: stage.title for stage in STAGES}
_MOST_CELLS = 600


def panel(name: str, *values: Any, **named: Any) -> str:
    """The panel that a macro of ``panels.html`` makes of its values."""
    return str(getattr(_macros(), name)(*values, **named))


@cache
def _macros() -> Any:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("clipstill", "ui"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=lambda share, digits=0: percent(share, digits),
        span=span,
        amount=latest_amount,
        python=repr,
        title_of=lambda stage: _TITLES.get(stage, stage.replace("_", " ")),
        address=lambda run: f"{FILES}/{quote(run.name)}",
        # Changes with the file, so that a browser asks for it again.
        version=lambda file: file.stat().st_mtime_ns,
    )
    return environment.get_template("panels.html").module


def note(text: str, kind: str = "plain", items: Sequence[str] = ()) -> str:
    """A short message: ``plain``, ``good``, ``warn`` or ``wrong``."""
    return panel("note", text, kind, items)


def error_note(error: Exception, kind: str = "wrong") -> str:
    """An error as a sentence of its own."""
    text = str(error)
    return note(text[:1].upper() + text[1:], kind)


def latest_amount(lines: Sequence[str]) -> Amount | None:
    """How far the running stage is, by the last line of progress; None where the stage has ended or has none."""
    for line in reversed(lines):
        found = amount_in(line)
        if found is not None or line.endswith((": running", ": done already, skipped")) or ": done in " in line:
            return found
    return None


def images_panel(
    run: Run, images: Sequence[SyntheticImage], *, class_name: str | None, style: str | None, by_score: bool
) -> str:
    """Synthetic images: one per class and style, or all of a class, of a style, or with the lowest score first."""
    if not images:
        return note("There are no images yet. They appear here as soon as the first group of them is done.")
    classes = run.task.names if run.task is not None else ()
    styles = run.style_names()
    if class_name is None and style is None and not by_score:
        return _image_table(run, images, classes, styles)
    named = [(each, _at(classes, each.record.class_id), _at(styles, each.record.style_id)) for each in images]
    chosen = [entry for entry in named if class_name in (None, entry[1]) and style in (None, entry[2])]
    if by_score:
        chosen.sort(key=lambda entry: entry[0].record.score)
    return panel("gallery", run, len(images), chosen, most=_MOST_CELLS)


def _image_table(run: Run, images: Sequence[SyntheticImage], classes: Sequence[str], styles: Sequence[str]) -> str:
    """The first image of each class and style: a row per class, a column per style."""
    first: dict[tuple[int, int], SyntheticImage] = {}
    for each in images:
        first.setdefault((each.record.class_id, each.record.style_id), each)
    rows, columns = (sorted(set(ids)) for ids in zip(*first, strict=True))
    most = max(1, _MOST_CELLS // len(columns))
    table = [(_at(classes, row), [first.get((row, column)) for column in columns]) for row in rows[:most]]
    heads = [_at(styles, column) for column in columns]
    return panel("image_table", run, len(images), table, columns=heads, left_out=len(rows) - len(table))


def compare_table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Finished runs beside each other."""
    if len(rows) < 2:
        return note("Choose two or more finished runs.")
    warning = ""
    if len({frozenset(each.labels) for _, each in rows}) > 1:
        warning = "These runs have different classes, so their accuracies are of different questions."
    elif len({each.photos for _, each in rows if each.photos}) > 1:
        warning = "These runs were measured on different photos, so small differences mean little."
    return panel("compare_table", rows, warning)


def get_panel(run: Run, command: Sequence[str] | None) -> str:
    """The bundle to take away, and the commands that do the same."""
    if not run.has_bundle:
        return note("This run has no classifier yet. Watch it, or go on with it, until it is finished.")
    try:
        figures = run.figures()
    except ArtifactError as error:
        return error_note(error)
    shown = None if command is None else f"clipstill {shlex.join(command)}"
    predict = f"clipstill predict {shlex.quote(str(run.path))} photo.jpg"
    return panel("get", run, figures, command=shown, predict=predict)


def _at(names: Sequence[str], position: int) -> str:
    return names[position] if 0 <= position < len(names) else str(position)
