"""The report: one HTML file that holds its images and charts, without scripts, fonts or requests.

It follows the reader's choice of light or dark, and prints in light.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from clipstill.core.config import dotted
from clipstill.core.foresight import known_best, measured_photos
from clipstill.core.progress import percent
from clipstill.report.card import per_class, temperature_verdict
from clipstill.report.charts import ladder_chart, line_chart
from clipstill.report.data import Picture, ReportData
from clipstill.report.licences import family_of, most_restrictive, verdict, warning
from clipstill.report.templates import environment

MOST_GRID_CLASSES = 12
MOST_GRID_COLUMNS = 9
MOST_CONFUSION = 25


class Grid(NamedTuple):
    """Synthetic images by class (rows) and style (columns); None where there is no such image."""

    columns: list[str]
    rows: list[tuple[str, list[Picture | None]]]
    classes_left_out: int
    styles_left_out: int


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
            photos=data.evaluation and measured_photos(data.evaluation),
            temperature_verdict=temperature_verdict(data.evaluation),
            foresight=data.calibration and known_best(data.calibration["foresight"], data.evaluation),
            grid=picture_grid(data.pictures, data.labels),
            curated=sorted(data.curation, key=lambda each: float(each["effective_number"])),
            bars=class_bars(data),
            confusion=confusion_rows(student, data.labels),
            mistakes=mistakes(student, data.labels),
            ladder=data.ladder,
            rungs=[rung for rung in rungs if rung["measured"]],
            unmeasured=[rung for rung in rungs if not rung["measured"]],
            ladder_charts=[svg for cost in ("onnx_bytes", "latency_ms") if (svg := ladder_chart(data.ladder, cost))],
            charts=[(chart, svg) for chart in data.charts if (svg := line_chart(chart))],
            seconds=sum(stage.seconds for stage in data.stages),
            settings=setting_groups({**data.settings, "machine": data.environment}),
            licences=[(part, family_of(part.licence)) for part in data.provenance],
            family=family,
            verdict=verdict(data.provenance),
            licence_warning=warning(data.provenance) is not None,
        )
    )


def summary(data: ReportData) -> str:
    """The result in a few sentences; the first one is the verdict."""
    found, sentences = data.evaluation, [data.advice.text]
    if found:
        sentences.append(
            f"With none of {found['n']:,} photos refused, the student names {percent(found['student_top1'])} right, "
            f"its teacher {percent(found['teacher_top1'])}; guessing would reach {percent(found['chance'])}."
        )
    if data.teacher_bytes and data.student_bytes < data.teacher_bytes:
        sentences.append(f"The student is {data.teacher_bytes / data.student_bytes:.1f} times smaller.")
    return " ".join(sentences)


def picture_grid(pictures: Sequence[Picture], labels: Sequence[str]) -> Grid:
    """The pictures, of which there is at most one per class and style, as a table of limited size."""
    by_pair = {(picture.class_name, picture.style): picture for picture in pictures}
    present = {class_name for class_name, _ in by_pair}
    classes = [name for name in labels if name in present]
    styles = list(dict.fromkeys(style for _, style in by_pair))
    shown = styles[:MOST_GRID_COLUMNS]
    return Grid(
        columns=shown,
        rows=[(name, [by_pair.get((name, style)) for style in shown]) for name in classes[:MOST_GRID_CLASSES]],
        classes_left_out=max(0, len(classes) - MOST_GRID_CLASSES),
        styles_left_out=len(styles) - len(shown),
    )


def class_bars(data: ReportData) -> list[tuple[str, float, float | None]]:
    """Each measured class with the top-1 of student and teacher, in [0, 1]; the hardest first."""
    found = data.evaluation or {}
    student = per_class(found.get("student") or {}, data.labels)
    teacher = per_class(found.get("teacher") or {}, data.labels)
    bars = [(name, score, teacher.get(name)) for name, score in student.items()]
    return sorted(bars, key=lambda bar: bar[1])


def confusion_rows(student: Mapping[str, Any], labels: Sequence[str]) -> list[tuple[str, list[tuple[int, float]]]]:
    """Rows of the confusion matrix: the true class, then count and share of the row for each answer.

    It is empty without a matrix, and above ``MOST_CONFUSION`` classes, where the list of mistakes replaces it.
    """
    matrix = student.get("confusion")
    if not matrix or len(labels) > MOST_CONFUSION:
        return []
    rows = zip(labels, matrix, strict=True)
    return [(name, [(int(count), count / max(1, sum(row))) for count in row]) for name, row in rows]


def mistakes(student: Mapping[str, Any], labels: Sequence[str]) -> list[tuple[str, str, int, float]]:
    """The six most frequent mistakes: true class, answer, photos, and their share of the true class."""
    found = [
        (labels[true], labels[answer], int(count), count / sum(row))
        for true, row in enumerate(student.get("confusion") or [])
        for answer, count in enumerate(row)
        if true != answer and count
    ]
    return sorted(found, key=lambda each: (-each[3], -each[2]))[:6]


def setting_groups(settings: Mapping[str, Any]) -> list[tuple[str, list[tuple[str, Any]]]]:
    """Settings by section; those without a section come first, as ``run``."""
    top = [(name, value) for name, value in settings.items() if not isinstance(value, Mapping)]
    groups = [("run", top)] if top else []
    return groups + [(name, list(dotted(value))) for name, value in settings.items() if isinstance(value, Mapping)]
