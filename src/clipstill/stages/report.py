"""The results of all stages -> one HTML page."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import clipstill
from clipstill.assembly.adaptation import adaptation_line
from clipstill.core.device import describe, precision_on
from clipstill.core.errors import ArtifactError
from clipstill.core.file_names import ADVICE_FILE, METRICS_FILE, PLAN_FILE
from clipstill.core.files import read_json, write_json, write_text
from clipstill.core.foresight import known_best
from clipstill.core.names import with_articles
from clipstill.core.progress import listed
from clipstill.core.records import read_record
from clipstill.core.verdict import ENOUGH_PHOTOS, Advice, Shipped, advise, which_to_ship
from clipstill.evaluation.ladder import TEACHER
from clipstill.report.card import per_class
from clipstill.report.data import Chart, Picture, ReportData, Series, picture_uri
from clipstill.report.data import Stage as StageRow
from clipstill.stages import (
    adaptation,
    bundle,
    calibration,
    class_vectors,
    evaluation,
    images,
    ladder,
    prompts,
    student,
    teacher_prompts,
    zero_shot,
)
from clipstill.workflow.records import StoredMetrics, StoredPlan
from clipstill.workflow.run import Run
from clipstill.workflow.runner import seconds_of_work
from clipstill.workflow.stage import Stage, Step

NAME = "report"
REPORT_FILE = "report.html"
# The picture grid shows the first classes; a page of a thousand would be of no use.
_MOST_CLASSES = 40
# Kinds of findings that a description mends.
_DESCRIBED = ("ambiguous", "unknown", "similar", "unreadable")
_PROMPT_LOSSES = ("loss", "cross_entropy")
_DISTILLATION_CHARTS = {
    "loss": ("loss", "held_out_loss"),
    "agreement with the teacher on held-out images": ("agreement",),
    "cosine between gradients of different styles": ("alignment",),
}


def advice_of(run: Run) -> Advice:
    """The verdict on the student of a run, and what to do next."""
    measured = evaluation.read_evaluation(run)
    try:
        planned = read_record(run.store.path / PLAN_FILE, StoredPlan)
    except ArtifactError:  # A run that could not be planned has none.
        planned = {"findings": [], "expected_per_class": {}}
    expected = planned["expected_per_class"]
    findings = [one for one in planned["findings"] if one["kind"] in _DESCRIBED and one["level"] == "warning"]
    return advise(
        known_best(calibration.read_calibration(run)["foresight"], measured),
        evaluation=measured,
        per_class=expected if measured is None else per_class(measured["student"], run.task.names),
        classes=run.task.names,
        doubtful=[name for one in findings for name in one["classes"]],
        examples=run.photos.counts["examples"],
        teacher=run.settings.teacher.name,
        run=str(run.store.path),
    )


def two_bundles(run: Run) -> str:
    """Which of the bundles to ship, the student's or the small teacher's, and why."""
    folder, climbed = run.store.path, ladder.read_ladder(run)
    advice = climbed["recommendation"] if climbed else {"ship": None}
    recommended = advice["choice"] if advice["ship"] else None
    if not run.has(zero_shot.NAME):
        command = f"clipstill zero-shot --run {shlex.quote(str(folder))} --out DIR"
        return f"{recommended or ''} A teacher without training is a bundle too: {command}".strip()
    found = [read_record(run.folder(stage) / METRICS_FILE, StoredMetrics) for stage in (bundle.NAME, zero_shot.NAME)]
    names = (run.settings.student.name, run.settings.small_teacher)
    student_bundle, small = (
        Shipped(name, str(run.folder(stage)), metrics["export"]["onnx_bytes"], metrics["export"]["latency_ms"])
        for name, stage, metrics in zip(names, (bundle.NAME, zero_shot.NAME), found, strict=True)
    )
    refuses = calibration.threshold_of(calibration.read_calibration(run)) is not None
    return which_to_ship(student_bundle, small, refuses=refuses, run=str(folder), recommended=recommended)


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    from clipstill.report.html import render

    exported = run.folder(bundle.NAME)
    export = read_json(exported / METRICS_FILE)["export"]
    training = student.read_student_metadata(run)
    measured, settings = evaluation.read_evaluation(run), run.settings
    tower = int(class_vectors.read_teacher_metadata(run)["image_parameters"])
    adapted, climbed = adaptation.read_adaptation(run), ladder.read_ladder(run)
    details = {
        adaptation.NAME: "" if adapted is None else adaptation_line(adapted),
        **_image_details(run, training),
        teacher_prompts.NAME: "learned from examples",
        student.NAME: f"best at step {training['best_step']} ({training['best_phase']})",
    }
    precision = precision_on(run.models.device, settings.teacher.precision)
    data = ReportData(
        labels=run.task.names,
        teacher=settings.teacher.name,
        student=settings.student.name,
        student_bytes=int(export["onnx_bytes"]),
        student_parameters=int(export["parameters"]),
        latency_ms=float(export["latency_ms"]),
        teacher_parameters=tower,
        teacher_bytes=_teacher_bytes(climbed) or tower * (4 if precision == "fp32" else 2),
        parity=read_json(exported / "parity.json"),
        evaluation=measured,
        ladder=climbed,
        calibration=calibration.read_calibration(run),
        advice=advice_of(run),
        two_bundles=two_bundles(run),
        **run.photos.counts,
        pictures=_pictures(run),
        curation=_curation(run),
        charts=tuple(_charts(run, training["history"])),
        stages=tuple(
            StageRow(name, seconds, detail=details.get(name, ""))
            for name, seconds in seconds_of_work(run.store, run.steps).items()
        ),
        settings=settings.model_dump(mode="json"),
        provenance=tuple(bundle.provenance_of(run)),
        environment={**describe(run.store.path), **run.metadata()},
        notes=tuple(_notes(measured, training, export["formats"])),
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=clipstill.__version__,
    )
    write_text(folder / REPORT_FILE, render(data))
    # For the page of clipstill ui, which offers the steps as buttons.
    write_json(folder / ADVICE_FILE, {**asdict(data.advice), "which_to_ship": data.two_bundles})
    return [REPORT_FILE, ADVICE_FILE]


def _teacher_bytes(climbed: Mapping[str, Any] | None) -> int | None:
    """Bytes of the teacher's exported tower, where the ladder has one."""
    rungs = climbed["rungs"] if climbed else []
    exported = [
        rung["measured"]["cost"]["onnx_bytes"] for rung in rungs if rung["name"] == TEACHER and rung["measured"]
    ]
    return exported[0] if exported else None


def _image_details(run: Run, training: Mapping[str, Any]) -> dict[str, str]:
    """How many images each cohort has."""
    steps, parts = run.steps_of(images.NAME), run.cohorts.images
    if [part.drawn for part in parts] == [run.task.names]:
        return {steps[0].name: f"{training['images_made']} images, {training['images']} kept"}
    details = {}
    for step, part, facts in zip(steps, parts, images.read_curation(run), strict=True):
        count = sum(each["made"] for each in facts["classes"] if each["name"] in part.used)
        details[step.name] = f"{count} images in use, of {listed(part.used, most=4)}"
    return details


def _pictures(run: Run) -> tuple[Picture, ...]:
    """The first image of each class and style, chosen by its index and not by its looks."""
    found = images.read_images(run)
    if found is None:
        return ()
    styles = prompts.read_style_names(run)
    first: dict[tuple[int, int], int] = {}
    for position, record in enumerate(found.records):
        if record.class_id < _MOST_CLASSES:
            first.setdefault((record.class_id, record.style_id), position)
    pictures = []
    for position in first.values():
        record = found.records[position]
        pixels_HW3 = found.pixels_N3HW[position].permute(1, 2, 0).contiguous().numpy()
        name, style, uri = run.task.names[record.class_id], styles[record.style_id], picture_uri(pixels_HW3)
        pictures.append(Picture(name, style, uri, score=record.score, prompt=with_articles(record.prompt)))
    return tuple(pictures)


def _curation(run: Run) -> tuple[dict[str, Any], ...]:
    """How many images each class has, and how many of them were trained on."""
    in_use: dict[str, dict[str, Any]] = {}
    for part, facts in zip(run.cohorts.images, images.read_curation(run), strict=True):
        in_use |= {each["name"]: dict(each) for each in facts["classes"] if each["name"] in part.used}
    if not in_use:
        return ()
    kept = zip(run.task.names, student.read_kept(run), strict=True)
    return tuple({**in_use[name], **of_class} for name, of_class in kept if name in in_use)


def _charts(run: Run, training: Sequence[Mapping[str, Any]]) -> Iterable[Chart]:
    learned = teacher_prompts.read_history(run)
    if learned:
        losses = tuple(_series(learned, name, "epoch") for name in _PROMPT_LOSSES)
        yield Chart("The teacher's prompts: loss", "epoch", losses)
    synthesis = images.read_history(run)
    terms = dict.fromkeys(name for entry in synthesis for name in entry if name != "step")
    series = tuple(_series(synthesis, term) for term in terms)
    if series:
        yield Chart("Synthesis: mean loss of the images", "step", series[:6])
    for phase in dict.fromkeys(str(entry["phase"]) for entry in training):
        entries = [entry for entry in training if entry["phase"] == phase]
        for title, names in _DISTILLATION_CHARTS.items():
            lines = [series for series in (_series(entries, name) for name in names) if series.points]
            if lines:
                percent = "agreement" in names
                yield Chart(f"Distillation ({phase}): {title}", "step", tuple(lines), percent=percent)


def _series(history: Sequence[Mapping[str, Any]], name: str, x: str = "step") -> Series:
    points = ((float(entry[x]), entry.get(name)) for entry in history)
    return Series(name.replace("_", " "), tuple((step, float(value)) for step, value in points if value is not None))


def _notes(
    measured: Mapping[str, Any] | None, training: Mapping[str, Any], formats: Mapping[str, Mapping[str, Any]]
) -> Iterable[str]:
    """What a reader must know of the photos, the training, and formats whose answers differ from the student's."""
    if measured is not None and measured["n"] < ENOUGH_PHOTOS:
        yield f"Only {measured['n']} photos were measured: the accuracies are rough, one photo moves them visibly."
    if measured is not None and measured.get("skipped"):
        yield f"{len(measured['skipped'])} files of the photo folder could not be read and were left out."
    if training.get("by_vector"):
        yield (
            f"Added by their vectors alone: {', '.join(training['by_vector'])}. No image was made for them, and the "
            f"student was not trained again; measure it on real photos of them."
        )
    for name, facts in formats.items():
        if facts["refused"]:
            yield f"The format {name} was refused, and its file is not in the bundle: {facts['refused']}."
        elif facts["warning"]:
            yield f"The file {facts['file']}: {facts['warning']}."


STAGE = Stage(
    name=NAME,
    version=7,
    title="Write the report",
    make=_make,
    inputs=(bundle.NAME, ladder.NAME, zero_shot.NAME),
    folder=".",
)
