"""The model card of a bundle: what the model is, how good it is, what made it, and where not to trust it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from clipstill.core.description import Description, ExportFacts
from clipstill.core.foresight import known_best, measured_photos
from clipstill.core.progress import percent
from clipstill.core.protocols import Provenance
from clipstill.core.verdict import UNMEASURED, verdict
from clipstill.report.licences import Family, most_restrictive, spdx, spdx_of_all, warning
from clipstill.report.licences import verdict as licence_verdict
from clipstill.report.templates import environment

FORMATS_HEADING = "## Formats"
QUALITY_HEADING = "## Quality on real photos"
_LOCAL = '("bundle")'  # The bundle that the card lies in, as the template loads it.


def model_card(model: Description, export: ExportFacts) -> str:
    """The text of ``card.md``, with the front matter that model hubs read."""
    parts, found = [*model.provenance, *export.software], model.evaluation or {}
    matter = yaml.safe_dump(front_matter(model, export), sort_keys=False, allow_unicode=True, width=10_000)
    student, teacher = found.get("student") or {}, found.get("teacher") or {}
    kinds = (("example image", model.examples), ("unlabelled photo", model.unlabelled))
    counts = [f"one {name}" if count == 1 else f"{count} {name}s" for name, count in kinds if count]
    chance = percent(found.get("chance"))
    card = environment().get_template("card.md.jinja")
    text = card.render(
        model=model,
        labels=list(model.labels),
        info=model.info,
        origin=model.origin,
        export=export,
        formats=export.formats,
        front_matter=matter.strip(),
        given=f"{len(model.labels)} class names and {' and '.join(counts) or 'no labelled photo'}",
        found=found,
        photos=found and measured_photos(found),
        verdict_text=_verdict_of(model),
        temperature_verdict=temperature_verdict(model.evaluation),
        measured=found
        and [
            ("right and answered", percent, found["right_and_answered"], found.get("teacher_top1"), chance),
            ("top-1, with no photo refused", percent, found["student_top1"], found.get("teacher_top1"), chance),
            ("top-5", percent, student.get("top5"), teacher.get("top5"), ""),
            ("calibration error (ECE)", "{:.3f}".format, student.get("ece"), teacher.get("ece"), ""),
        ],
        per_class=per_class(student, model.labels),
        warning=warning(parts),
        verdict=licence_verdict(parts),
        spdx=spdx_of_all(parts),
    )
    return text.rstrip() + "\n"


def _verdict_of(model: Description) -> str:
    """Whether it may be used, in words; empty where nothing was measured or foretold."""
    found, untold = model.evaluation, UNMEASURED.to_json()
    if not found and model.calibration is None:
        return ""
    known = known_best(model.calibration["foresight"] if model.calibration else untold, found)
    return verdict(known, found, len(model.labels))[1]


def temperature_verdict(found: Mapping[str, Any] | None) -> str:
    """In a sentence, whether the temperature suits the scores of measured photos; empty where none were measured."""
    student = (found or {}).get("student") or {}
    if found is None or student.get("ece_uncalibrated") is None:
        return ""
    with_it, without = f"{student['ece']:.3f}", f"{student['ece_uncalibrated']:.3f}"
    if with_it == without:
        verdict = f"this temperature changes nothing: calibration error {with_it} with and without it"
    elif with_it < without:
        verdict = f"this temperature makes the scores better: calibration error {with_it}, without it {without}"
    else:
        verdict = f"the scores would be better without this temperature: calibration error {without}, with it {with_it}"
    return f"On the {found['n']:,} measured photos {verdict}."


def front_matter(model: Description, export: ExportFacts) -> dict[str, Any]:
    """The fields of a card that model hubs read.

    The licence is ``other`` with a name beside it, unless all parts have one permissive licence.
    """
    made_by = ["zero-shot"] if model.info.get("zero_shot") else ["distillation", "synthetic-data"]
    matter: dict[str, Any] = {
        **_licence([*model.provenance, *export.software]),
        "library_name": "onnxruntime",
        "pipeline_tag": "image-classification",
        "tags": ["clipstill", *made_by, "onnx"],
    }
    found = model.evaluation
    if not found:
        return matter
    student = found.get("student") or {}
    measured = [
        ("accuracy", "top-1 accuracy", found["student_top1"]),
        ("accuracy", "top-5 accuracy", student.get("top5")),
        ("expected_calibration_error", "expected calibration error", student.get("ece")),
    ]
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {
            "type": "imagefolder",
            "name": f"{found['n']} photos of its user, {len(per_class(student, model.labels))} classes",
        },
        "metrics": [
            {"type": kind, "name": name, "value": round(float(value), 4)}
            for kind, name, value in measured
            if value is not None
        ],
    }
    # On one line: a line of dashes in a name would end the front matter.
    name = " ".join(f"{model.info.get('student')} of {model.info.get('teacher')}".split())
    return {**matter, "metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]}


def _licence(parts: Sequence[Provenance]) -> dict[str, str]:
    family, _ = most_restrictive(parts)
    names = {spdx(part.licence) for part in parts}
    single = next(iter(names)) if len(names) == 1 and family is Family.PERMISSIVE else ""
    # Hubs know identifiers in lower case, but no expressions.
    licence = single.lower() if single and " " not in single and not single.startswith("LicenseRef") else "other"
    named = {"license_name": spdx_of_all(parts), "license_link": "LICENCES.md"} if licence == "other" else {}
    return {"license": licence, **named}


def images_card(labels: Sequence[str], images: int, teacher: str, parts: Sequence[Provenance]) -> str:
    """The card of a data set of synthetic images, beside a file LICENSE.md."""
    matter = {
        **_licence(parts),
        "task_categories": ["image-classification"],
        "tags": ["clipstill", "synthetic"],
        "annotations_creators": ["machine-generated"],
    }
    return (
        environment()
        .get_template("images.md.jinja")
        .render(
            front_matter=_hub_matter(matter).strip(),
            labels=list(labels),
            images=images,
            teacher=teacher,
            verdict=licence_verdict(parts),
        )
    )


def with_formats(card: str, formats: Mapping[str, Mapping[str, Any]]) -> str:
    """A card with a new table of formats, in place of an old one or before the section on quality."""
    before, _, after = card.partition(f"\n{QUALITY_HEADING}\n")
    before, _, _ = before.partition(f"\n{FORMATS_HEADING}\n")
    table = environment().get_template("formats.md.jinja").render(formats=formats)
    return f"{before}\n{table}{QUALITY_HEADING}\n{after}"


def hub_card(card: str, repository: str) -> str:
    """A card as the README of a repository on the Hugging Face Hub.

    There a licence of another name is an identifier beside a file LICENSE.md, and the bundle is loaded by its address.
    """
    _, head, body = card.split("---\n", 2)
    head = _hub_matter(yaml.safe_load(head))
    body = body.replace(_LOCAL, _LOCAL.replace("bundle", f"hf:{repository}", 1), 1)
    return f"---\n{head}---\n{body}"


def _hub_matter(matter: Mapping[str, Any]) -> str:
    """Front matter as YAML."""
    if "license_name" in matter:
        identifier = re.sub(r"[^a-z0-9.]+", "-", matter["license_name"].lower()).strip("-")
        matter = {**matter, "license_name": identifier, "license_link": "LICENSE.md"}
    return yaml.safe_dump(matter, sort_keys=False, allow_unicode=True, width=10_000)


def per_class(metrics: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    """Top-1 of each class that has photos."""
    pairs = zip(labels, metrics.get("per_class") or [], strict=False)
    return {name: float(value) for name, value in pairs if value is not None}
