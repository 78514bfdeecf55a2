"""The report page: whole, self-contained, and true to its numbers."""

from __future__ import annotations

import dataclasses
import re
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from clipstill.core.foresight import Foresight
from clipstill.core.protocols import Provenance
from clipstill.core.verdict import Advice
from clipstill.report.charts import ladder_chart, line_chart
from clipstill.report.data import Chart, Picture, ReportData, Series, Stage, picture_uri
from clipstill.report.html import (
    class_bars,
    confusion_rows,
    mistakes,
    picture_grid,
    render,
    setting_groups,
    summary,
)
from clipstill.report.templates import duration

LABELS = ("dog", "elephant", "guitar")
CONFUSION = [[8, 2, 0], [1, 9, 0], [0, 5, 5]]
URI = picture_uri(np.zeros((8, 8, 3), np.uint8))
VOID = {"meta", "img", "br", "hr", "link", "input"}


def ladder(title: str = "pictures of noise") -> dict[str, Any]:
    """Three measured rungs, the last one cheaper than the others, and one that was not measured."""

    def rung(name: str, top1: float, megabytes: float | None) -> dict[str, Any]:
        size = None if megabytes is None else round(1e6 * megabytes)
        cost = {"onnx_bytes": size, "parameters": 3, "gflop": 0.4, "latency_ms": megabytes, "minutes": 2.0}
        told = {"top1": top1, "ece": 0.1, "per_class": [0.5], "cost": {**cost, "photos": 0, "labels": 5}}
        return {"name": name, "title": title, "measured": told, "missing": "", "note": "", "command": "make it"}

    missing = {
        "name": "examples",
        "title": title,
        "measured": None,
        "missing": "give photos",
        "note": "",
        "command": "",
    }
    gap = {"share": 0.04, "low": -0.01, "high": 0.09, "p": 0.031, "measurable": True}
    return {
        "n": 30,
        "classes": list(LABELS),
        "rungs": [rung("teacher", 0.88, 60.0), rung("noise", 0.19, 13.6), rung("ours", 0.733, 13.6), missing],
        "against_ours": {"teacher": gap},
        "recommendation": {
            "ship": "ours",
            "better_with": None,
            "choice": f"Ship {title}.",
            "more": "Or not.",
            "command": "",
        },
    }


def curated(name: str, *values: float | None) -> dict[str, Any]:
    """What a run tells of the synthetic images of a class."""
    counts = ("made", "not_made", "kept", "low_score", "duplicates", "duplicate_pairs")
    return {"name": name, **dict(zip((*counts, "mean_score", "effective_number"), values, strict=True))}


def sample(**changes: Any) -> ReportData:
    data = ReportData(
        labels=LABELS,
        teacher="embedded-m",
        student="lite0",
        student_bytes=13_600_000,
        student_parameters=3_380_000,
        latency_ms=11.8,
        advice=Advice(
            "weak", "Weak so far: right and answered 70 %.", {"photos": "Give five photos of each class: ..."}
        ),
        teacher_bytes=27_200_000,
        teacher_parameters=6_100_000,
        parity={"max_difference": 4.2e-6, "top1_agreement": 1.0, "n": 32},
        evaluation={
            "n": 30, "classes": 3, "teacher_top1": 0.88, "student_top1": 0.733, "right_and_answered": 0.7,
            "chance": 1 / 3, "skipped": [],
            "student": {"top1": 0.733, "top5": None, "ece": 0.08, "per_class": [0.8, 0.9, 0.5], "confusion": CONFUSION},
            "teacher": {"top1": 0.88, "top5": None, "ece": 0.04, "per_class": [0.9, 0.95, 0.8], "confusion": CONFUSION},
        },
        pictures=tuple(Picture(name, style, URI, 0.9, f"a {name}") for name in LABELS for style in ("photo", "neon")),
        curation=(
            curated("dog", 16, 0, 15, 1, 0, 0, 0.91, 9.4),
            curated("guitar", 23, 1, 19, 0, 4, 6, 0.8, 7.25),
        ),
        charts=(Chart("Distillation loss", "step", (Series("train", ((0, 2.0), (10, 1.0), (20, 0.5))),)),),
        ladder=ladder(),
        stages=(Stage("class_vectors", 1.2), Stage("surrogate", 412.0, detail="840 images")),
        settings={"seed": 0, "synthesis": {"steps": 60, "tv_weight": None}},
        provenance=(Provenance("tower", "Apache-2.0", "a package", "ab" * 32),),
        environment={"torch": "2.15"},
        notes=("Measured on few photos.",),
        created="1 January 2030",
        version="0.1.0",
    )  # fmt: skip
    return dataclasses.replace(data, **changes)


class Reader(HTMLParser):
    """Checks nesting, and collects the text and every attribute that could load something."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def test_page_is_well_formed_and_shows_every_part() -> None:
    text = Reader(render(sample())).text
    for part in (
        "73.3 %", "88.0 %", "33.3 %", "0.83", "13.6", "11.8", "embedded-m", "Synthetic images", "SYNTHETIC",
        "Accuracy by class", "Confusion",
        "Was distillation worth it?",
        "pictures of noise", "not measured: give photos", "Distillation loss", "6 min 52 s",
        "Apache-2.0", "tv_weight", "Measured on few photos.", "1 January 2030",
    ):  # fmt: skip
        assert part in text, part


def test_page_loads_nothing_from_anywhere() -> None:
    page = render(sample())
    reader = Reader(page)
    assert reader.links
    assert all(link.startswith("data:image/") for link in reader.links)
    assert not reader.tags & {"script", "link", "iframe", "object"}
    assert "http" not in page
    assert "url(" not in page
    assert "@import" not in page


def test_page_knows_dark_and_print() -> None:
    page = render(sample())
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_names_prompts_and_settings_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    data = sample(
        labels=(evil, "elephant", "guitar"),
        teacher=evil,
        pictures=(Picture(evil, evil, URI, 0.9, f'"{evil}'),),
        charts=(Chart(evil, evil, (Series(evil, ((0, 1), (1, 2))), Series("b", ((0, 1), (1, 2))))),),
        ladder=ladder(evil),
        stages=(Stage(evil, 1.0, detail=evil),),
        settings={evil: {evil: evil}},
        provenance=(Provenance(evil, evil, evil),),
        notes=(evil,),
    )
    page = render(data)
    assert "script" not in Reader(page).tags
    assert "&lt;script&gt;" in page


def test_the_page_says_what_next_and_what_could_be_had_without_training() -> None:
    text = Reader(render(sample(two_bundles="embedded-s, 27.9 MB"))).text
    assert "Give five photos of each class: ..." in text
    assert "Which to ship: embedded-s, 27.9 MB" in text


@pytest.mark.parametrize(
    ("verdict", "kind"),
    [("good", " good"), ("good so far", ""), ("weak", " weak"), ("weak so far", " weak"), ("do not use", " wrong")],
)
def test_only_a_good_verdict_is_green(verdict: str, kind: str) -> None:
    assert f'<div class="tile{kind}"><div class="name">Right and answered' in render(
        sample(advice=Advice(verdict, "So.", {}))
    )


def test_page_without_measurement_says_so() -> None:
    bare = sample(
        evaluation=None, pictures=(), curation=(), charts=(), ladder=None, stages=(), settings={}, provenance=(),
        environment={}, parity={}, teacher_bytes=None, teacher_parameters=None,
        advice=Advice("not known", "Not known: nothing was measured.", {}),
    )  # fmt: skip
    text = Reader(render(bare)).text
    assert "not known, not measured" in text
    assert "%" not in text
    for part in (
        "Synthetic images",
        "Diversity of the images",
        "Accuracy by class",
        "Was distillation worth it?",
        "Training curves",
    ):
        assert part not in text


def test_summary_tells_both_scores_and_the_ratio_of_sizes() -> None:
    told = summary(sample())
    assert "With none of 30 photos refused, the student names 73.3 % right, its teacher 88.0 %" in told
    assert "2.0 times smaller" in told
    assert "smaller" not in summary(sample(teacher_bytes=1000))


def test_page_says_whether_the_temperature_suits_the_measured_photos() -> None:
    calibration = {
        "asked_about": "synthetic images", "temperature": 0.9, "temperature_fitted_on": "synthetic images",
        "foresight": Foresight("names alone", reason="untold").to_json(), "refusal": None,
        "agreement": {"held_out_styles": None, "views": 0.9},
    }  # fmt: skip
    evaluation = dict(sample().evaluation or {})
    evaluation["student"] = {**evaluation["student"], "ece": 0.045, "ece_uncalibrated": 0.036}
    page = render(sample(calibration=calibration, evaluation=evaluation))
    assert "On the 30 measured photos the scores would be better without this temperature" in page
    assert "0.90, fitted on synthetic images</td>" in render(sample(calibration=calibration, evaluation=None))


def test_page_names_the_classes_without_a_photo_beside_the_number() -> None:
    evaluation = dict(sample().evaluation or {})
    evaluation["student"] = {**evaluation["student"], "classes": list(LABELS), "per_class": [0.8, 0.9, None]}
    assert "30 labelled photos in 2 of the 3 classes (none of guitar)" in render(sample(evaluation=evaluation))


def test_teacher_that_knows_nothing_does_not_divide_by_zero() -> None:
    evaluation = {**(sample().evaluation or {}), "teacher_top1": 0.0}
    assert "0.0 %" in render(sample(evaluation=evaluation))


def test_hardest_class_comes_first_and_absent_classes_are_left_out() -> None:
    found = {"student": {"per_class": [0.8, None, 0.5]}, "teacher": {}}
    assert [name for name, _, _ in class_bars(sample(evaluation=found))] == ["guitar", "dog"]


def test_grid_leaves_a_gap_where_an_image_is_missing() -> None:
    grid = picture_grid([Picture("dog", "photo", URI, 1), Picture("guitar", "neon", URI, 1)], LABELS)
    assert [(name, [cell is None for cell in cells]) for name, cells in grid.rows] == [
        ("dog", [False, True]),
        ("guitar", [True, False]),
    ]


def test_grid_limits_the_classes_it_shows() -> None:
    names = [f"class {index}" for index in range(30)]
    grid = picture_grid([Picture(name, "", URI, 1) for name in names], names)
    assert (len(grid.rows), grid.classes_left_out) == (12, 18)


def rows_of(page: str, title: str) -> list[list[str]]:
    """The cells of the table under a title, without marks."""
    section = page.split(f"<h2>{title}</h2>")[1].split("</section>")[0]
    body = section.split("<tbody>")[1]
    cells = [re.findall(r"<td[^>]*>(.*?)</td>", row, re.DOTALL) for row in body.split("</tr>")[:-1]]
    return [[" ".join(re.sub(r"<[^>]*>", " ", cell).split()) for cell in row] for row in cells]


def test_curation_is_told_class_by_class_the_least_diverse_first() -> None:
    assert rows_of(render(sample()), "Diversity of the images") == [
        ["guitar", "7.2", "23", "1", "-", "4 6 pairs", "19", "80.0 %"],
        ["dog", "9.4", "16", "-", "1", "-", "15", "91.0 %"],
    ]


def test_a_class_of_no_image_has_no_score_and_comes_first() -> None:
    empty = curated("house", 0, 16, 0, 0, 0, 0, None, 0.0)
    data = sample(curation=(*sample().curation, empty))
    assert rows_of(render(data), "Diversity of the images")[0] == ["house", "0.0", "0", "16", "-", "-", "0", "-"]


def test_curation_shows_the_classes_that_need_a_look() -> None:
    many = tuple(curated(f"class {i}", 9, 0, 9, 0, 0, 0, 0.9, 50 - i / 10) for i in range(50))
    page = render(sample(curation=many))
    rows = rows_of(page, "Diversity of the images")
    assert (len(rows), rows[0][0]) == (40, "class 49")
    assert "10 more diverse classes are not shown" in page


def test_confusion_rows_are_shares_of_the_true_class() -> None:
    rows = confusion_rows({"confusion": CONFUSION}, LABELS)
    assert rows[0] == ("dog", [(8, 0.8), (2, 0.2), (0, 0.0)])
    assert confusion_rows({"confusion": [[0]]}, ["lonely"]) == [("lonely", [(0, 0.0)])]
    assert confusion_rows({"confusion": [[1] * 26] * 26}, [str(i) for i in range(26)]) == []


def test_mistakes_are_sorted_by_their_share() -> None:
    assert mistakes({"confusion": CONFUSION}, LABELS)[:2] == [
        ("guitar", "elephant", 5, 0.5),
        ("dog", "elephant", 2, 0.2),
    ]


def test_settings_are_grouped_by_section() -> None:
    groups = setting_groups({"synthesis": {"steps": 60, "views": {"crop": 0.5}}, "seed": 3})
    assert groups == [("run", [("seed", 3)]), ("synthesis", [("steps", 60), ("views.crop", 0.5)])]


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(0.04, "0.0 s"), (9.96, "10 s"), (59.6, "1 min 00 s"), (200, "3 min 20 s"), (7500, "2 h 05 min")],
)
def test_durations_read_as_a_person_says_them(seconds: float, told: str) -> None:
    assert duration(seconds) == told


def drawn(svg: str) -> list[tuple[float, float]]:
    found = re.search(r'points="([^"]*)"', svg)
    assert found is not None
    return [(float(x), float(y)) for x, y in (point.split(",") for point in found[1].split())]


def test_line_keeps_proportions() -> None:
    svg = line_chart(Chart("t", "x", (Series("a", ((0, 0.0), (5, 1.0), (10, 0.5))),)))
    (x0, y0), (x1, y1), (x2, y2) = drawn(svg)
    assert (x1 - x0) == pytest.approx(x2 - x1, abs=0.2)
    assert (y0 - y1) == pytest.approx(2 * (y2 - y1), abs=0.3)


def test_points_that_are_not_finite_are_left_out() -> None:
    svg = line_chart(Chart("t", "x", (Series("a", ((0, 1.0), (1, float("nan")), (2, float("inf")), (3, 2.0))),)))
    assert len(drawn(svg)) == 2
    assert "nan" not in svg


@pytest.mark.parametrize("points", [(), ((0, float("nan")),)])
def test_chart_of_nothing_is_nothing(points: tuple[tuple[float, float], ...]) -> None:
    assert line_chart(Chart("t", "x", (Series("a", points),))) == ""


def test_flat_line_and_single_point_are_drawn() -> None:
    assert "<circle" in line_chart(Chart("t", "x", (Series("a", ((3, 2.0),)),)))
    assert len(drawn(line_chart(Chart("t", "x", (Series("a", ((0, 2.0), (1, 2.0))),))))) == 2


@pytest.mark.parametrize("agreement", [(1.0, 1.0), (0.93, 1.0), (0.0, 0.0), (0.5, 0.500001)])
def test_an_axis_of_shares_ends_at_a_hundred_per_cent(agreement: tuple[float, float]) -> None:
    svg = line_chart(Chart("t", "x", (Series("a", tuple(enumerate(agreement))),), percent=True))
    ticks = [float(tick) for tick in re.findall(r">([\d.-]+) %<", svg)]
    assert len(ticks) > 1
    assert min(ticks) >= 0
    assert max(ticks) <= 100


def test_picture_is_scaled_down_and_kept_small() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (512, 512, 3), dtype=np.uint8)
    assert len(picture_uri(noise, side=96)) < 20_000
    assert picture_uri(noise).startswith("data:image/webp;base64,")


def test_the_verdict_comes_first_and_both_pictures_show_every_measured_rung() -> None:
    assert summary(sample()).startswith("Weak so far: right and answered 70 %. With none of 30 photos refused")
    assert "Ship pictures of noise" not in summary(sample())  # The ladder's section says it.
    assert render(sample()).count("<b>Ship pictures of noise.</b> Or not.") == 1
    for cost in ("onnx_bytes", "latency_ms"):
        svg = ladder_chart(ladder(), cost)
        assert svg.count('<circle class="rung') == svg.count('class="bar95"') == 3
        places = [float(x) for x in re.findall(r'cx="([0-9.]+)"', svg)]
        assert places[0] > places[2] > places[1] + 20  # equal costs stand side by side, the dear one to the right
        downs = [float(y) for y in re.findall(r'cy="([0-9.]+)"', svg)]
        assert downs[0] < downs[2] < downs[1]


def test_a_ladder_of_one_file_has_no_picture() -> None:
    alone = ladder()
    alone["rungs"] = alone["rungs"][:1]
    assert ladder_chart(alone, "onnx_bytes") == ""
    assert ladder_chart(None, "onnx_bytes") == ""


def test_only_boxes_stack_on_a_wide_screen() -> None:
    wide = render(sample()).partition("@media (max-width")[0]
    assert "div.stack {" in wide
    # A rule for every .stack would take the columns of the tables that stack on a phone.
    assert re.search(r"^\s*(table)?\.stack", wide, re.MULTILINE) is None
