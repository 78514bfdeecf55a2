"""The model card that lies in the bundle: what the model is, how good, what made it, where not to trust it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from clipstill.core.description import Description, ExportFacts
from clipstill.report.licences import Family, most_restrictive, spdx, spdx_of_all, verdict, warning

MAX_ROWS = 200
FORMATS_HEADING = "## Formats"
QUALITY_HEADING = "## Quality on real photos"
_CARD = """\
---
{front_matter}
---

# Image classifier: {classes}

{opening}

## Use

```python
from clipstill.runtime import load_bundle   # numpy, onnxruntime and Pillow; no torch

load_bundle("bundle").predict("photo.jpg", top=3)
```

| | |
|---|---|
| input | RGB, {fit} cut to {size} x {size} px, float32 in [0, 1]; normalisation is inside the model |
| output | {count} logits, in the order of `labels.json` |
| parameters | {export.parameters:,} |
| `model.onnx` | {megabytes:.1f} MB |
| one picture on one CPU core | {export.latency_ms:.1f} ms (median; without reading and resizing the file) |
| parity with the trained model | largest difference of a logit {export.parity[max_difference]:.1e}, \
same class for {export.parity[top1_agreement]:.1%} |

{formats}{quality_heading}

{quality}

## Limits

{limits}
- It inherits what its teacher believes about these words, biases among them.
- Do not use it where a wrong answer harms a person, nor to recognise or judge people.

## Licence

{licence} All parts: `LICENCES.md`.

{origin}{hashes}{versions}"""
_SYNTHETIC = (
    "> **SYNTHETIC.** This model was trained on synthetic images: software made them by inverting the teacher. They "
    "carry the IPTC digital source type `trainedAlgorithmicMedia`; keep that mark when you pass them on, and say so "
    "when you pass the model on."
)
_TIMES = (
    "Times are medians for one picture on the machine that made the files, on one core and on all of them. The "
    "same answers: the lowest share over all kinds of pictures that were compared with the trained model."
)


def model_card(model: Description, export: ExportFacts) -> str:
    """``card.md``, with the front matter that model hubs read."""
    labels, parts = model.labels, [*model.provenance, *export.software]
    size, crop = model.preprocess.size, model.preprocess.crop_fraction
    matter = yaml.safe_dump(front_matter(model, export), sort_keys=False, allow_unicode=True, width=10_000)
    warned = warning(parts)
    licence = f"> **Warning.** {warned}\n\nAs an SPDX expression: `{spdx_of_all(parts)}`." if warned else verdict(parts)
    versions = [(name, _cell(value)) for name, value in sorted(model.info.items())]
    card = _CARD.format(
        front_matter=matter.strip(),
        classes=", ".join(labels[:12]) + (f" and {len(labels) - 12} more" if len(labels) > 12 else ""),
        opening=_opening(model),
        fit="short side" if crop == 1.0 else f"short side to {round(size / crop)} px, centre",
        size=size,
        count=len(labels),
        export=export,
        megabytes=export.onnx_bytes / 1e6,
        formats=_formats(export.formats),
        quality_heading=QUALITY_HEADING,
        quality="\n".join(_quality(model)),
        limits="\n".join(_limits(model)),
        licence=licence,
        origin=_section("What made it", "| | |", _origin(model.origin)),
        hashes=_section("Hashes", "| artefact | sha256 |", _hashes(model, export)),
        versions=_section("Versions", "| | |", versions),
    )
    return card.rstrip() + "\n"


def front_matter(model: Description, export: ExportFacts) -> dict[str, Any]:
    """What model hubs read of a card.

    There is no ``datasets``: that field takes names of public data sets, and what was given here are folders. Unless
    all parts have one permissive licence, hubs get ``other`` with the licence's name beside it.
    """
    parts = [*model.provenance, *export.software]
    family, _ = most_restrictive(parts)
    names = {spdx(part.licence) for part in parts}
    single = next(iter(names)) if len(names) == 1 and family is Family.PERMISSIVE else ""
    # A hub knows identifiers, in lower case, and no expressions.
    licence = single.lower() if single and " " not in single and not single.startswith("LicenseRef") else "other"
    named = {"license_name": spdx_of_all(parts), "license_link": "LICENCES.md"} if licence == "other" else {}
    made_by = ["zero-shot"] if model.info.get("zero_shot") else ["distillation", "synthetic-data"]
    matter: dict[str, Any] = {
        "license": licence,
        **named,
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
        "dataset": {"type": "imagefolder", "name": f"{found['n']} photos of its user, {len(model.labels)} classes"},
        "metrics": [
            {"type": kind, "name": name, "value": round(float(value), 4)}
            for kind, name, value in measured
            if value is not None
        ],
    }
    # On one line: a line of dashes in a name would end the front matter.
    name = " ".join(f"{model.info.get('student')} of {model.info.get('teacher')}".split())
    return {**matter, "metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]}


def _table(header: str, rows: Iterable[Sequence[str]], rule: str = "") -> list[str]:
    """The lines of a Markdown table."""
    rule = rule or f"|{'---|' * (header.count('|') - 1)}"
    return [header, rule, *(f"| {' | '.join(row)} |" for row in rows)]


def _section(title: str, header: str, rows: Sequence[Sequence[str]]) -> str:
    """A heading and a table, or nothing without rows."""
    return "\n".join([f"## {title}", "", *_table(header, rows), "", ""]) if rows else ""


def _cell(value: object) -> str:
    return str(value).replace("|", "/")


def _opening(model: Description) -> str:
    info = model.info
    kinds = (("example image", model.examples), ("unlabelled photo", model.unlabelled))
    counts = [f"one {name}" if count == 1 else f"{count} {name}s" for name, count in kinds if count]
    given = f"{len(model.labels)} class names and {' and '.join(counts) or 'no labelled photo'}"
    if info.get("zero_shot"):
        return (
            f"The image tower of {info.get('teacher')} with one stored vector a class, made of {given}. Nothing was "
            f"trained, and no image was made."
        )
    tuned = info.get("fine_tuned_on")
    return (
        f"{_SYNTHETIC}\n\nA {info.get('student')} student, distilled by clipstill from the teacher "
        f"{info.get('teacher')}. It was given {given}."
        + (f" It was then tuned on {tuned} labelled photos." if tuned else "")
    )


def _formats(formats: Mapping[str, Mapping[str, Any]]) -> str:
    """A table of files, with what is to be known of them; nothing where ``model.onnx`` is all."""
    if not set(formats) - {"onnx"}:
        return ""
    rows, notes = [], []
    for name, facts in formats.items():
        if facts["refused"]:
            notes.append(f"- `{name}` was refused and is not in this folder: {facts['refused']}.")
            continue
        if facts["warning"]:
            notes.append(f"- `{facts['file']}`: {facts['warning']}.")
        latency, all_cores = f"{facts['latency_ms']:.1f}", f"{facts['latency_all_cores_ms']:.1f}"
        size, same = f"{facts['bytes'] / 1e6:.1f}", f"{facts['top1_agreement']:.1%}"
        rows.append((name, f"`{facts['file']}`", size, latency, all_cores, same))
    header = "| format | file | MB | ms, one core | ms, all | same answers |"
    table = _table(header, rows, "|---|---|---:|---:|---:|---:|")
    return "\n".join([FORMATS_HEADING, "", _TIMES, "", *table, *(["", *notes] if notes else []), "", ""])


def with_formats(card: str, formats: Mapping[str, Mapping[str, Any]]) -> str:
    """A card with its table of formats renewed, or put before the quality where it had none."""
    before, _, after = card.partition(f"\n{QUALITY_HEADING}\n")
    before, _, _ = before.partition(f"\n{FORMATS_HEADING}\n")
    return f"{before}\n{_formats(formats)}{QUALITY_HEADING}\n{after}"


def _quality(model: Description) -> list[str]:
    found = model.evaluation
    if not found:
        return [
            "Not measured: no real photos were given. Measure before you rely on it:",
            "`clipstill evaluate BUNDLE --images DIR`",
        ]
    student, teacher = found.get("student") or {}, found.get("teacher") or {}
    measured = [
        ("top-1", found["student_top1"], found.get("teacher_top1"), ".1%", f"{found['chance']:.1%}"),
        ("top-5", student.get("top5"), teacher.get("top5"), ".1%", ""),
        ("calibration error (ECE)", student.get("ece"), teacher.get("ece"), ".3f", ""),
    ]
    rows = [
        (name, format(own, form), "not measured" if other is None else format(other, form), chance)
        for name, own, other, form, chance in measured
        if own is not None
    ]
    given = "names and examples" if model.examples else "names alone"
    lines = [
        f"Measured on {found['n']} photos of {len(model.labels)} classes; none of them was used for training.",
        "",
        *_table(f"| | student | teacher by {given} | chance |", rows),
    ]
    classes = [(_cell(name), f"{score:.1%}") for name, score in per_class(student, model.labels).items()]
    return lines + (["", *_table("| class | student top-1 |", classes[:MAX_ROWS])] if classes else [])


def per_class(metrics: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    """Top-1 of each class that has photos."""
    pairs = zip(labels, metrics.get("per_class") or [], strict=False)
    return {name: float(value) for name, value in pairs if value is not None}


def _limits(model: Description) -> list[str]:
    if model.refusal_threshold is None:
        first = "- It always answers with one of its classes, also for a photo that shows none of them."
    else:
        first = (
            '- It says "none of these" below a score that was set on synthetic near misses: it still takes some photos '
            "of other things for its classes, and refuses some of its own."
        )
    known = model.calibration
    if known is None:
        return [first, "- What its scores are worth was not measured; choose a threshold on photos of your own."]
    return [
        first,
        f"- Its scores were scaled on {known['temperature_fitted_on']}; about {known['expected_top1']:.0%} of its "
        f"answers for photos of the classes are expected to be right. That is an estimate, which may be off by ten "
        f"points and more.",
    ]


def _origin(origin: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What was given, and what made the student."""
    if not origin:
        return []
    teacher, prompts, student = origin["teacher"], origin["prompts"], origin["student"]
    rows = [("class names", f"{origin['task']['classes']}, sha256 `{origin['task']['sha256'][:16]}`")]
    for name, photos in origin["given"].items():
        of_classes = f" of {photos['classes']} classes" if photos["classes"] else ""
        rows.append((name, f"{photos['photos']}{of_classes}, list sha256 `{photos['list_sha256'][:16]}`"))
    sentences = teacher["sentences"]
    shown = "; ".join(sentences[:3]) + (" ..." if len(sentences) > 3 else "")
    rows += [
        ("teacher", f"{teacher['name']}, {teacher['precision']}, weights sha256 `{teacher['weights_sha256'][:16]}`"),
        ("its class vectors", f"of {len(sentences)} sentences ({shown}); prompts: {teacher['prompts']}"),
    ]
    if prompts is None:
        rows.append(("synthetic images", "none"))
    else:
        count, styles = f"{prompts['prompts']}, {prompts['images_per_class']} a class", prompts["styles"]
        how = f"strategy {prompts['strategy']}, template {prompts['template']}, {len(styles)} styles"
        rows += [("synthetic images", f"{count}, by {origin['generator']}"), ("prompts", how)]
        if styles:
            rows.append(("styles", ", ".join(styles[:16]) + (" ..." if len(styles) > 16 else "")))
    rows += [
        ("student", f"{student['name']}, started from {student['init']}, head {student['head']}"),
        ("distillation", ", ".join(f"{name} {value}" for name, value in origin["distillation"].items())),
        ("seed", str(origin["seed"])),
        ("all settings", f"sha256 `{origin['settings_sha256'][:16]}`"),
    ]
    return [(name, _cell(value)) for name, value in rows]


def _hashes(model: Description, export: ExportFacts) -> list[tuple[str, str]]:
    """The whole sha256 of every artefact on the way."""
    rows = []
    for stage, facts in model.origin.get("stages", {}).items():
        rows.append((f"stage {stage}, manifest", facts["manifest_sha256"]))
        rows += [(f"stage {stage}, `{name}`", digest) for name, digest in facts["tensors"].items()]
    rows += [(f"`{name}`", digest) for name, digest in sorted(export.files.items())]
    return [(name, f"`{digest}`") for name, digest in rows]
