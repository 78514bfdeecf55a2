"""The report: one HTML file that holds its images and charts, without scripts, fonts or requests.

It follows the reader's choice of light or dark, and prints in light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from clipstill.core.files import write_text
from clipstill.report.card import per_class
from clipstill.report.charts import ladder_chart, line_chart
from clipstill.report.data import Picture, ReportData
from clipstill.report.licences import MEANINGS, family_of, most_restrictive, verdict, warning
from clipstill.report.templates import environment

MOST_GRID_CLASSES = 12
MOST_GRID_COLUMNS = 9
MOST_CONFUSION = 25


class Bar(NamedTuple):
    """One class: top-1 of the student and of the teacher, in [0, 1]."""

    name: str
    student: float
    teacher: float | None


class Grid(NamedTuple):
    """Synthetic images by class (rows) and style; None where there is no such image.

    Few styles fill several columns each; the first of them carries the style's name, the others an empty one.
    """

    columns: list[str]
    rows: list[tuple[str, list[Picture | None]]]
    classes_left_out: int
    styles_left_out: int


class Mistake(NamedTuple):
    """Photos of one class that the student took for another: their number and their share of the class."""

    true: str
    taken_for: str
    photos: int
    share: float


def write_report(path: Path, data: ReportData) -> None:
    """Render the report and write it atomically.

    Raises:
        ResourceError: The file cannot be written.
    """
    write_text(path, render(data))


def render(data: ReportData) -> str:
    """The report as HTML text. Names, prompts and settings are escaped: a class called ``<b>`` stays a class."""
    student = (data.evaluation or {}).get("student") or {}
    rungs = data.ladder["rungs"] if data.ladder else []
    family, _ = most_restrictive(data.provenance)
    return (
        environment()
        .get_template("template.html")
        .render(
            data=data,
            summary=summary(data),
            found=data.evaluation,
            grid=picture_grid(data.pictures, data.labels),
            curated=sorted(data.curation, key=lambda each: each.effective_number),
            bars=class_bars(data),
            confusion=confusion_rows(student, data.labels),
            mistakes=mistakes(student, data.labels),
            ladder=data.ladder,
            rungs=[rung for rung in rungs if rung["measured"]],
            unmeasured=[rung for rung in rungs if not rung["measured"]],
            ladder_charts=[svg for cost in ("onnx_bytes", "latency_ms") if (svg := ladder_chart(data.ladder, cost))],
            charts=[(chart, svg) for chart in data.charts if (svg := line_chart(chart))],
            seconds=sum(stage.seconds for stage in data.stages),
            settings=setting_groups(data.settings),
            environment=_flat(data.environment),
            licences=[(part, family_of(part.licence)) for part in data.provenance],
            meanings=MEANINGS,
            family=family,
            verdict=verdict(data.provenance),
            licence_warning=warning(data.provenance) is not None,
        )
    )


def summary(data: ReportData) -> str:
    """The result in a few sentences; the first one says what to ship."""
    found = data.evaluation
    if not found:
        text = "The classifier is ready. How good it is on real photos was not measured: none were given."
        if data.calibration:
            text += f" About {100 * data.calibration['expected_top1']:.0f}% of its answers are expected to be right."
        return text
    text = (
        f"On {found['n']:,} real photos the student names {100 * found['student_top1']:.1f}% right, "
        f"its teacher {100 * found['teacher_top1']:.1f}%; guessing would reach {100 * found['chance']:.1f}%."
    )
    if data.teacher_bytes and data.student_bytes < data.teacher_bytes:
        text += f" The student is {data.teacher_bytes / data.student_bytes:.1f} times smaller."
    return f"{data.ladder['recommendation']['text']} {text}" if data.ladder else text


def picture_grid(pictures: Sequence[Picture], labels: Sequence[str]) -> Grid:
    """The first images of each class and style, not the best ones, since a selection would mislead."""
    by_pair: dict[tuple[str, str], list[Picture]] = {}
    for picture in pictures:
        by_pair.setdefault((picture.class_name, picture.style), []).append(picture)
    present = {class_name for class_name, _ in by_pair}
    classes = [name for name in labels if name in present]
    styles = list(dict.fromkeys(style for _, style in by_pair))
    shown = styles[:MOST_GRID_COLUMNS]
    most = max((len(images) for images in by_pair.values()), default=0)
    each = min(most, MOST_GRID_COLUMNS // max(1, len(shown)))

    def row(name: str) -> list[Picture | None]:
        cells: list[Picture | None] = []
        for style in shown:
            images = by_pair.get((name, style), [])[:each]
            cells += [*images, *[None] * (each - len(images))]
        return cells

    return Grid(
        columns=[style if index == 0 else "" for style in shown for index in range(each)],
        rows=[(name, row(name)) for name in classes[:MOST_GRID_CLASSES]],
        classes_left_out=max(0, len(classes) - MOST_GRID_CLASSES),
        styles_left_out=len(styles) - len(shown),
    )


def class_bars(data: ReportData) -> list[Bar]:
    """One bar per measured class, the hardest first."""
    found = data.evaluation or {}
    student = per_class(found.get("student") or {}, data.labels)
    teacher = per_class(found.get("teacher") or {}, data.labels)
    bars = [Bar(name, score, teacher.get(name)) for name, score in student.items()]
    return sorted(bars, key=lambda bar: bar.student)


def confusion_rows(student: Mapping[str, Any], labels: Sequence[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows of the confusion matrix: the true class, then count and share of the row for each answer.

    It is empty without a matrix, and above ``MOST_CONFUSION`` classes, where the list of mistakes replaces it.
    """
    matrix = student.get("confusion")
    if not matrix or len(labels) > MOST_CONFUSION:
        return []
    rows = zip(labels, matrix, strict=True)
    return [(name, [(int(count), count / max(1, sum(row))) for count in row]) for name, row in rows]


def mistakes(student: Mapping[str, Any], labels: Sequence[str], most: int = 6) -> list[Mistake]:
    """The most frequent mistakes, by their share of the true class."""
    found = [
        Mistake(labels[true], labels[answer], int(count), count / sum(row))
        for true, row in enumerate(student.get("confusion") or [])
        for answer, count in enumerate(row)
        if true != answer and count
    ]
    return sorted(found, key=lambda each: (-each.share, -each.photos))[:most]


def setting_groups(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Settings by section; those without a section come first, as ``run``."""
    top = [(name, value) for name, value in settings.items() if not isinstance(value, Mapping)]
    groups = [("run", top)] if top else []
    return groups + [(name, _flat(value)) for name, value in settings.items() if isinstance(value, Mapping)]


def _flat(settings: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    rows: list[tuple[str, Any]] = []
    for name, value in settings.items():
        rows += _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else [(prefix + name, value)]
    return rows
