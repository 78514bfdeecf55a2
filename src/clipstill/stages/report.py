"""What the stages left, told in one HTML page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import clipstill
from clipstill.core.device import describe
from clipstill.core.files import read_json
from clipstill.stages.ladder import LADDER_FILE
from clipstill.stages.stages import CURATION_FILE, KEPT_FILE, read_evaluation, synthesis_histories
from clipstill.workflow.cohorts import stage_of
from clipstill.workflow.keys import CLASS_VECTORS, LADDER, STUDENT, SURROGATE, TEACHER_PROMPTS
from clipstill.workflow.workbench import HISTORY_FILE, TEACHER_FILE, Workbench

if TYPE_CHECKING:
    from clipstill.report.data import Chart, Curated, Picture, Series

REPORT_FILE = "report.html"
# A page of a thousand classes would be of no use; the grid shows the first of them.
_MOST_CLASSES = 40
_PHOTOS_FOR_TRUST = 100
_PROMPT_LOSSES = ("loss", "cross_entropy")


def make_report(bench: Workbench, seconds: Mapping[str, float]) -> None:
    """Write ``report.html`` into the run folder.

    Args:
        bench: a run whose other stages are complete.
        seconds: of work a stage.
    """
    from clipstill.report.data import ReportData, Stage
    from clipstill.report.html import write_report

    bundle = bench.run.path / "bundle"
    export = read_json(bundle / "metrics.json")["export"]
    training = read_json(bench.run.stage(STUDENT) / HISTORY_FILE)
    evaluation = read_evaluation(bench)
    tower = int(read_json(bench.run.stage(CLASS_VECTORS) / TEACHER_FILE)["image_parameters"])
    details = {
        **_made_of(bench, training),
        TEACHER_PROMPTS: "learned from examples",
        STUDENT: f"best at step {training['best_step']} ({training['best_phase']})",
    }
    data = ReportData(
        labels=bench.task.names,
        teacher=bench.config.teacher.name,
        student=bench.config.student.name,
        student_bytes=int(export["onnx_bytes"]),
        student_parameters=int(export["parameters"]),
        latency_ms=float(export["latency_ms"]),
        teacher_parameters=tower,
        teacher_bytes=tower * (4 if bench.config.teacher.precision == "fp32" else 2),
        parity=read_json(bundle / "parity.json"),
        evaluation=evaluation,
        ladder=read_json(bench.run.stage(LADDER) / LADDER_FILE) if LADDER in bench.keys else None,
        calibration=bench.calibration,
        examples=0 if bench.examples is None else len(bench.examples.items),
        unlabelled=0 if bench.unlabelled is None else len(bench.unlabelled.items),
        pictures=_pictures(bench),
        curation=_curation(bench),
        charts=tuple(_charts(bench, training["history"])),
        stages=tuple(Stage(name, value, detail=details.get(name, "")) for name, value in seconds.items()),
        settings=bench.config.model_dump(mode="json"),
        provenance=tuple(bench.provenance()),
        environment={**describe(bench.run.path), **bench.facts()},
        notes=(*_notes(evaluation), *_notes_of_growth(bench), *_format_notes(export["formats"])),
        created=datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        version=clipstill.__version__,
    )
    write_report(bench.run.path / REPORT_FILE, data)


def _made_of(bench: Workbench, training: Mapping[str, Any]) -> dict[str, str]:
    """What came out of each stage of images."""
    parts = bench.image_parts
    if [part.cohort.drawn for part in parts] == [bench.task.names]:
        return {stage_of(SURROGATE, parts[0].cohort): f"{training['images_made']} images, {training['images']} kept"}
    told = {}
    for part, facts in zip(parts, _curation_facts(bench), strict=True):
        count = sum(each["made"] for each in facts["classes"] if each["name"] in part.used)
        more = f" and {len(part.used) - 4} more" if len(part.used) > 4 else ""
        told[stage_of(SURROGATE, part.cohort)] = f"{count} images in use, of {', '.join(part.used[:4])}{more}"
    return told


def _notes_of_growth(bench: Workbench) -> Iterable[str]:
    added = read_json(bench.run.stage(STUDENT) / HISTORY_FILE).get("by_vector", [])
    if added:
        yield (
            f"Added by their vectors alone: {', '.join(added)}. No image was made for them, and the student was not "
            f"taught again; measure it on real photos of them."
        )


def _pictures(bench: Workbench) -> tuple[Picture, ...]:
    """The first image of each class and style: chosen by its index, not by its looks."""
    from clipstill.report.data import Picture, picture_uri

    made = bench.made_images()
    if made is None:
        return ()
    # Those that got further images have further styles behind the common ones.
    styles = max((facts["styles"] for facts in _curation_facts(bench)), key=len)
    first: dict[tuple[int, int], int] = {}
    for position, record in enumerate(made.records):
        if record.class_id < _MOST_CLASSES:
            first.setdefault((record.class_id, record.style_id), position)
    pictures = []
    for position in first.values():
        record = made.records[position]
        pixels_HW3 = made.pixels_N3HW[position].permute(1, 2, 0).contiguous().numpy()
        name = bench.task.names[record.class_id]
        pictures.append(Picture(name, styles[record.style_id], picture_uri(pixels_HW3), record.score, record.prompt))
    return tuple(pictures)


def _curation(bench: Workbench) -> tuple[Curated, ...]:
    """What was made of each class, and what of it taught."""
    from clipstill.report.data import Curated

    made = {
        (number, each["name"]): each for number, facts in enumerate(_curation_facts(bench)) for each in facts["classes"]
    }
    in_use = {name: made[number, name] for number, part in enumerate(bench.image_parts) for name in part.used}
    if not in_use:
        return ()
    kept = zip(bench.task.names, read_json(bench.run.stage(STUDENT) / KEPT_FILE), strict=True)
    return tuple(
        Curated(class_name=in_use[name].pop("name"), **in_use[name], **of_class)
        for name, of_class in kept
        if name in in_use
    )


def _curation_facts(bench: Workbench) -> list[dict[str, Any]]:
    """What each cohort wrote down of its images."""
    folders = [bench.run.stage(stage_of(SURROGATE, part.cohort)) for part in bench.image_parts]
    return [read_json(folder / CURATION_FILE) for folder in folders]


def _charts(bench: Workbench, training: Sequence[Mapping[str, Any]]) -> Iterable[Chart]:
    from clipstill.report.data import Chart

    if TEACHER_PROMPTS in bench.keys:
        learned = read_json(bench.run.stage(TEACHER_PROMPTS) / HISTORY_FILE)["history"]
        if learned:
            yield Chart(
                "The teacher's prompts: loss",
                "epoch",
                tuple(_series(learned, name, "epoch") for name in _PROMPT_LOSSES),
            )
    synthesis = _mean_over_groups(synthesis_histories(bench))
    series = tuple(_series(synthesis, name) for name in _numbers(synthesis))
    if series:
        yield Chart("Synthesis: mean loss of the images", "step", series[:6])
    for phase in dict.fromkeys(str(entry["phase"]) for entry in training):
        entries = [entry for entry in training if entry["phase"] == phase]
        losses = tuple(_series(entries, name) for name in ("loss", "held_out_loss"))
        if any(each.points for each in losses):
            yield Chart(f"Distillation ({phase}): loss", "step", tuple(each for each in losses if each.points))
        agreement = _series(entries, "agreement")
        if agreement.points:
            title = f"Distillation ({phase}): agreement with the teacher on held-out images"
            yield Chart(title, "step", (agreement,), percent=True)
        alignment = _series(entries, "alignment")
        if alignment.points:
            yield Chart(f"Distillation ({phase}): cosine between gradients of different styles", "step", (alignment,))


def _mean_over_groups(histories: Sequence[Sequence[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """One entry a step: each number averaged over the groups that have that step."""
    gathered: dict[float, dict[str, list[float]]] = {}
    for history in histories:
        for entry in history:
            at_step = gathered.setdefault(float(entry["step"]), {})
            for name, value in entry.items():
                if name != "step" and isinstance(value, int | float):
                    at_step.setdefault(name, []).append(float(value))
    return [
        {"step": step, **{name: sum(values) / len(values) for name, values in gathered[step].items()}}
        for step in sorted(gathered)
    ]


def _numbers(history: Sequence[Mapping[str, float]]) -> list[str]:
    return [name for name in dict.fromkeys(name for entry in history for name in entry) if name != "step"]


def _series(history: Sequence[Mapping[str, Any]], name: str, x: str = "step") -> Series:
    from clipstill.report.data import Series

    points = ((float(entry[x]), entry.get(name)) for entry in history)
    return Series(name.replace("_", " "), tuple((step, float(value)) for step, value in points if value is not None))


def _notes(evaluation: Mapping[str, Any] | None) -> Iterable[str]:
    if evaluation is None:
        return
    if evaluation["n"] < _PHOTOS_FOR_TRUST:
        yield f"Only {evaluation['n']} photos were measured: the accuracies are rough, one photo moves them visibly."
    if evaluation.get("skipped"):
        yield f"{len(evaluation['skipped'])} files of the photo folder could not be read and were left out."


def _format_notes(formats: Mapping[str, Mapping[str, Any]]) -> Iterable[str]:
    """What is to be known of files that do not answer quite as the student does."""
    for name, facts in formats.items():
        if facts["refused"]:
            yield f"The format {name} was refused, and its file is not in the bundle: {facts['refused']}."
        elif facts["warning"]:
            yield f"The file {facts['file']}: {facts['warning']}."
