"""What the page shows, as pieces of HTML from ``panels.html``, which escapes every text."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any
from urllib.parse import quote

import jinja2

from clipstill.core.foresight import Foresight, measured_photos
from clipstill.core.names import with_articles
from clipstill.core.progress import percent, span
from clipstill.report.templates import environment
from clipstill.stages import TITLES
from clipstill.text.word_checks import WordChecks
from clipstill.ui.pictures import SyntheticImage
from clipstill.ui.runs import Run

FILES = "/files"
_MOST_CELLS = 600
_COUNTED = re.compile(r"[^:]+: (?P<done>\d+)/(?P<total>[1-9]\d*) \S+?(?:, (?P<rest>.*))?")


def panel(name: str, *values: Any, **named: Any) -> str:
    """The panel that a macro of ``panels.html`` makes of its values."""
    return str(getattr(_macros(), name)(*values, **named))


@cache
def _macros() -> Any:
    page = environment().overlay(loader=jinja2.PackageLoader("clipstill", "ui"))
    page.filters = page.filters | {
        "articles": with_articles,
        "percent": percent,
        "span": span,
        "amount": latest_amount,
        "python": repr,
        "foresight": Foresight.from_json,
        "photos": measured_photos,
        "taken_for": lambda findings: {
            each["classes"][0]: each["taken_for"] for each in findings if each.get("taken_for")
        },
        "title_of": lambda stage: TITLES.get(stage, stage.replace("_", " ")),
        "address": lambda run: f"{FILES}/{quote(run.name)}",
        # Changes with the file, so that a browser asks for it again.
        "version": lambda file: file.stat().st_mtime_ns,
    }
    return page.get_template("panels.html").module


def note(text: str, kind: str = "plain", items: Sequence[str] = ()) -> str:
    """A short message: ``plain``, ``good``, ``warn`` or ``wrong``."""
    return panel("note", text, kind, items)


def words_panel(checks: WordChecks, notes: Sequence[str]) -> str:
    """The classes, what each name means beside the others, and what is wrong with the words."""
    read = zip(checks.task.names, checks.task.descriptions, checks.meanings, strict=True)
    classes = [(name, text or (meanings[0].sense.definition if meanings else "")) for name, text, meanings in read]
    return panel("words", classes, checks.findings(), notes)


def error_note(error: Exception) -> str:
    """An error as a sentence of its own."""
    text = str(error)
    return note(text[:1].upper() + text[1:], "wrong")


def latest_amount(lines: Sequence[str]) -> dict[str, str | None] | None:
    """How far the running stage is, by the last line of progress; None where the stage has ended or has none.

    Of ``synthesis: 28/112 img, 1.2 img/s, 1 min left`` it is ``done`` 28, ``total`` 112 and what follows as ``rest``.
    """
    for line in reversed(lines):
        found = _COUNTED.fullmatch(line.strip())
        if found is not None or any(end in line for end in (": running", ": done already, skipped", ": done in ")):
            return found and found.groupdict()
    return None


def images_panel(
    run: Run, images: Sequence[SyntheticImage], *, class_name: str | None, style: str | None, by_score: bool
) -> str:
    """Synthetic images: one per class and style, or all of a class, of a style, or with the lowest score first."""
    if not images:
        return note("There are no images yet. They appear here as soon as the first group of them is done.")
    classes = run.task.names if run.task is not None else ()
    styles = run.style_names()
    if not (class_name or style or by_score):
        return _image_table(run, images, classes, styles)
    named = [(each, _at(classes, each.record.class_id), _at(styles, each.record.style_id)) for each in images]
    chosen = [entry for entry in named if class_name in ("", None, entry[1]) and style in ("", None, entry[2])]
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


def compare_table(rows: Sequence[tuple[str, Mapping[str, Any]]]) -> str:
    """Finished runs beside each other."""
    if len(rows) < 2:
        return note("Choose two or more finished runs.")
    warning = ""
    if len({frozenset(each["labels"]) for _, each in rows}) > 1:
        warning = "These runs have different classes, so their accuracies are of different questions."
    elif len({each["evaluation"]["n"] for _, each in rows if each["evaluation"]}) > 1:
        warning = "These runs were measured on different photos, so small differences mean little."
    return panel("compare_table", rows, warning)


def _at(names: Sequence[str], position: int) -> str:
    return names[position] if 0 <= position < len(names) else str(position)
