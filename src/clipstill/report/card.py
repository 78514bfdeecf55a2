"""The model card that lies in the bundle: what the model is, how good, what made it, where not to trust it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from clipstill.core.protocols import Preprocess, Provenance
from clipstill.report.licences import Family, most_restrictive, spdx, spdx_of_all, verdict, warning

SYNTHETIC_MARK = (
    "**SYNTHETIC.** This model was trained on synthetic images: software made them by inverting the teacher. They "
    "carry the IPTC digital source type `trainedAlgorithmicMedia`; keep that mark when you pass them on, and say so "
    "when you pass the model on."
)
MAX_ROWS = 200
FORMATS_HEADING = "## Formats"


@dataclass(frozen=True)
class CardData:
    """What a card tells.

    Attributes:
        labels: class names, in the order of the logits.
        teacher: the teacher's name.
        student: the student's name.
        preprocess: how a photo becomes the model's input.
        provenance: the weights that are in the model or that taught it.
        evaluation: what ``clipstill.evaluation`` measured on real photos; None where nothing was measured.
        parameters: numbers in the model.
        onnx_bytes: size of ``model.onnx``.
        latency_ms: median for one picture on one core.
        parity_difference: largest difference of a logit between the trained model and ``model.onnx``.
        parity_agreement: share of pictures on which both name the same class.
        formats: what each format of the model is worth, by its name.
        examples: example images that were given beside the class names.
        unlabelled: photos without labels that were.
        fine_tuned_on: labelled photos that the finished student was then tuned on.
        calibration: what is known of the scores without a photo; None where that is not known of this model.
        refuses: whether it says "none of these".
        zero_shot: it is the teacher's own image tower with stored class vectors: nothing was trained.
        software: files of other projects that lie in the bundle.
        origin: what was given and what made it, see ``clipstill.stages.origin``; empty where that is not known.
        files: sha256 of the model's files, by name.
        run: free facts of the run (seed, versions, device, commit).
    """

    labels: Sequence[str]
    teacher: str
    student: str
    preprocess: Preprocess
    provenance: Sequence[Provenance]
    evaluation: Mapping[str, Any] | None
    parameters: int
    onnx_bytes: int
    latency_ms: float
    parity_difference: float
    parity_agreement: float
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    examples: int = 0
    unlabelled: int = 0
    fine_tuned_on: int = 0
    calibration: Mapping[str, Any] | None = None
    refuses: bool = False
    zero_shot: bool = False
    software: Sequence[Provenance] = ()
    origin: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)


def model_card(data: CardData) -> str:
    """``card.md``, with the front matter that model hubs read."""
    shown = ", ".join(data.labels[:12]) + (f" and {len(data.labels) - 12} more" if len(data.labels) > 12 else "")
    parts = [*data.provenance, *data.software]
    warned = warning(parts)
    return "\n".join(
        [
            "---",
            yaml.safe_dump(front_matter(data), sort_keys=False, allow_unicode=True, width=10_000).strip(),
            "---",
            "",
            f"# Image classifier: {shown}",
            "",
            *_opening(data),
            "",
            "## Use",
            "",
            "```python",
            "from clipstill.runtime import load_bundle   # numpy, onnxruntime and Pillow; no torch",
            "",
            'load_bundle("bundle").predict("photo.jpg", top=3)',
            "```",
            "",
            *_facts(data),
            "",
            *_formats(data.formats),
            "## Quality on real photos",
            "",
            *_quality(data),
            "",
            "## Limits",
            "",
            *_limits(data.calibration, data.refuses),
            "- It inherits what its teacher believes about these words, biases among them.",
            "- Do not use it where a wrong answer harms a person, nor to recognise or judge people.",
            "",
            "## Licence",
            "",
            *([f"> **Warning.** {warned}", ""] if warned else []),
            (f"As an SPDX expression: `{spdx_of_all(parts)}`." if warned else verdict(parts))
            + " All parts: `LICENCES.md`.",
            "",
            *_origin(data.origin),
            *_hashes(data),
            *_run(data),
        ]
    )


def _opening(data: CardData) -> list[str]:
    given = f"{len(data.labels)} class names and {_given(data.examples, data.unlabelled)}"
    if data.zero_shot:
        return [
            f"The image tower of {data.teacher} with one stored vector a class, made of {given}. Nothing was trained, "
            f"and no image was made.",
        ]
    tuned = f" It was then tuned on {data.fine_tuned_on} labelled photos." if data.fine_tuned_on else ""
    return [
        f"> {SYNTHETIC_MARK}",
        "",
        f"A {data.student} student, distilled by clipstill from the teacher {data.teacher}. It was given {given}."
        + tuned,
    ]


def front_matter(data: CardData) -> dict[str, Any]:
    """What model hubs read of a card.

    There is no ``datasets``: that field takes names of public data sets, and what was given here are folders. A
    licence that is no single permissive one is ``other`` to a hub, with its name beside it.
    """
    parts = [*data.provenance, *data.software]
    family, _ = most_restrictive(parts)
    names = {spdx(part.licence) for part in parts}
    single = next(iter(names)) if len(names) == 1 and family is Family.PERMISSIVE else ""
    # A hub knows identifiers, in lower case, and no expressions.
    licence = single.lower() if single and " " not in single and not single.startswith("LicenseRef") else "other"
    named = {"license_name": spdx_of_all(parts), "license_link": "LICENCES.md"} if licence == "other" else {}
    made_by = ["zero-shot"] if data.zero_shot else ["distillation", "synthetic-data"]
    matter: dict[str, Any] = {
        "license": licence,
        **named,
        "library_name": "onnxruntime",
        "pipeline_tag": "image-classification",
        "tags": ["clipstill", *made_by, "onnx"],
    }
    found = data.evaluation
    if not found:
        return matter
    measured = [("accuracy", "top-1 accuracy", found["student_top1"])]
    student = found.get("student") or {}
    measured += [(kind, name, student.get(key)) for kind, name, key in (("accuracy", "top-5 accuracy", "top5"),)]
    measured += [("expected_calibration_error", "expected calibration error", student.get("ece"))]
    result = {
        "task": {"type": "image-classification", "name": "Image classification"},
        "dataset": {"type": "imagefolder", "name": f"{found['n']} photos of its user, {len(data.labels)} classes"},
        "metrics": [
            {"type": kind, "name": name, "value": round(float(value), 4)}
            for kind, name, value in measured
            if value is not None
        ],
    }
    # On one line: a line of dashes in a name would end the front matter.
    name = " ".join(f"{data.student} of {data.teacher}".split())
    return {**matter, "metrics": ["accuracy"], "model-index": [{"name": name, "results": [result]}]}


def _origin(origin: Mapping[str, Any]) -> list[str]:
    """What was given, and what made the student."""
    if not origin:
        return []
    teacher, prompts, student, teaching = (origin[name] for name in ("teacher", "prompts", "student", "distillation"))
    rows = [("class names", f"{origin['task']['classes']}, sha256 `{origin['task']['sha256'][:16]}`")]
    for name, photos in origin["given"].items():
        of_classes = f" of {photos['classes']} classes" if photos["classes"] else ""
        rows.append((name, f"{photos['photos']}{of_classes}, list sha256 `{photos['list_sha256'][:16]}`"))
    sentences = "; ".join(teacher["sentences"][:3]) + (" ..." if len(teacher["sentences"]) > 3 else "")
    rows += [
        ("teacher", f"{teacher['name']}, {teacher['precision']}, weights sha256 `{teacher['weights_sha256'][:16]}`"),
        ("its class vectors", f"of {len(teacher['sentences'])} sentences ({sentences}); prompts: {teacher['prompts']}"),
    ]
    if prompts is None:
        rows.append(("synthetic images", "none"))
    else:
        styles = ", ".join(prompts["styles"][:16]) + (" ..." if len(prompts["styles"]) > 16 else "")
        rows += [
            (
                "synthetic images",
                f"{prompts['prompts']}, {prompts['images_per_class']} a class, by {origin['generator']}",
            ),
            (
                "prompts",
                f"strategy {prompts['strategy']}, template {prompts['template']}, {len(prompts['styles'])} styles",
            ),
        ]
        rows += [("styles", styles)] if styles else []
    rows += [
        ("student", f"{student['name']}, started from {student['init']}, head {student['head']}"),
        ("distillation", ", ".join(f"{name} {value}" for name, value in teaching.items())),
        ("seed", str(origin["seed"])),
        ("all settings", f"sha256 `{origin['settings_sha256'][:16]}`"),
    ]
    return ["## What made it", "", "| | |", "|---|---|", *(f"| {a} | {b.replace('|', '/')} |" for a, b in rows), ""]


def _hashes(data: CardData) -> list[str]:
    """The sha256 of every artefact on the way, in whole."""
    rows = []
    for stage, told in data.origin.get("stages", {}).items():
        rows.append((f"stage {stage}, manifest", told["manifest_sha256"]))
        rows += [(f"stage {stage}, `{name}`", digest) for name, digest in told["tensors"].items()]
    rows += [(f"`{name}`", digest) for name, digest in sorted(data.files.items())]
    if not rows:
        return []
    lines = [f"| {name} | `{digest}` |" for name, digest in rows]
    return ["## Hashes", "", "| artefact | sha256 |", "|---|---|", *lines, ""]


def _limits(calibration: Mapping[str, Any] | None, refuses: bool) -> list[str]:
    lines = ["- It always answers with one of its classes, also for a photo that shows none of them."]
    if refuses:
        lines = [
            '- It says "none of these" below a score that was set on synthetic near misses: it still takes some photos '
            "of other things for its classes, and refuses some of its own."
        ]
    if calibration is None:
        return [*lines, "- What its scores are worth was not measured; choose a threshold on photos of your own."]
    expected, source = calibration["expected_top1"], calibration["temperature_fitted_on"]
    return [
        *lines,
        f"- Its scores were scaled on {source}; about {expected:.0%} of its answers for photos of the classes are "
        f"expected to be right. That is an estimate, which may be off by ten points and more.",
    ]


def _given(examples: int, unlabelled: int) -> str:
    kinds = (("example image", examples), ("unlabelled photo", unlabelled))
    parts = [f"one {name}" if count == 1 else f"{count} {name}s" for name, count in kinds if count]
    return " and ".join(parts) or "no labelled photo"


def _facts(data: CardData) -> list[str]:
    size, crop = data.preprocess.size, data.preprocess.crop_fraction
    fit = "short side" if crop == 1.0 else f"short side to {round(size / crop)} px, centre"
    return [
        "| | |",
        "|---|---|",
        f"| input | RGB, {fit} cut to {size} x {size} px, float32 in [0, 1]; normalisation is inside the model |",
        f"| output | {len(data.labels)} logits, in the order of `labels.json` |",
        f"| parameters | {data.parameters:,} |",
        f"| `model.onnx` | {data.onnx_bytes / 1e6:.1f} MB |",
        f"| one picture on one CPU core | {data.latency_ms:.1f} ms (median; without reading and resizing the file) |",
        f"| parity with the trained model | largest difference of a logit {data.parity_difference:.1e}, same class for "
        f"{data.parity_agreement:.1%} |",
    ]


def _formats(formats: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """A table of files, with what is to be known of them; nothing where ``model.onnx`` is all."""
    if not set(formats) - {"onnx"}:
        return []
    lines = [
        FORMATS_HEADING,
        "",
        "Times are medians for one picture on the machine that made the files, on one core and on all of them. The "
        "same answers: the lowest share over all kinds of pictures that were compared with the trained model.",
        "",
        "| format | file | MB | ms, one core | ms, all | same answers |",
        "|---|---|---:|---:|---:|---:|",
    ]
    notes = []
    for name, facts in formats.items():
        if facts["refused"]:
            notes.append(f"- `{name}` was refused and is not in this folder: {facts['refused']}.")
            continue
        if facts["warning"]:
            notes.append(f"- `{facts['file']}`: {facts['warning']}.")
        lines.append(
            f"| {name} | `{facts['file']}` | {facts['bytes'] / 1e6:.1f} | {facts['latency_ms']:.1f} | "
            f"{facts['latency_all_cores_ms']:.1f} | {facts['top1_agreement']:.1%} |"
        )
    return [*lines, *(["", *notes] if notes else []), ""]


def with_formats(card: str, formats: Mapping[str, Mapping[str, Any]]) -> str:
    """A card with its table of formats renewed, or put before the quality where it had none."""
    table = "\n".join(_formats(formats))
    before, old, rest = card.partition(FORMATS_HEADING + "\n")
    if old:
        rest = "\n## " + rest.partition("\n## ")[2]
    else:
        before, heading, rest = card.partition("## Quality on real photos")
        rest = f"\n{heading}{rest}"
    return (before + table + rest) if table else card


def _quality(data: CardData) -> list[str]:
    found = data.evaluation
    if not found:
        return [
            "Not measured: no real photos were given. Measure before you rely on it:",
            "`clipstill evaluate BUNDLE --images DIR`",
        ]
    student, teacher = found.get("student") or {}, found.get("teacher") or {}
    rows = [("top-1", found["student_top1"], found.get("teacher_top1"), ".1%", f"{found['chance']:.1%}")]
    rows.append(("top-5", student.get("top5"), teacher.get("top5"), ".1%", ""))
    rows.append(("calibration error (ECE)", student.get("ece"), teacher.get("ece"), ".3f", ""))
    lines = [
        f"Measured on {found['n']} photos of {len(data.labels)} classes; none of them was used for training.",
        "",
        f"| | student | teacher by names{' and examples' if data.examples else ' alone'} | chance |",
        "|---|---|---|---|",
    ]
    for name, own, by_teacher, form, chance in rows:
        if own is not None:
            other = "not measured" if by_teacher is None else format(by_teacher, form)
            lines.append(f"| {name} | {own:{form}} | {other} | {chance} |")
    classes = per_class(student, data.labels)
    if classes:
        lines += ["", "| class | student top-1 |", "|---|---|"]
        lines += [f"| {name.replace('|', '/')} | {score:.1%} |" for name, score in list(classes.items())[:MAX_ROWS]]
    return lines


def per_class(metrics: Mapping[str, Any], labels: Sequence[str]) -> dict[str, float]:
    """Top-1 of each class, whether the metrics hold a list or a mapping; classes without photos are left out."""
    raw = metrics.get("per_class") or {}
    pairs = raw.items() if isinstance(raw, Mapping) else zip(labels, raw, strict=False)
    return {str(name): float(value) for name, value in pairs if value is not None and value == value}


def _run(data: CardData) -> list[str]:
    if not data.run:
        return []
    rows = [f"| {name} | {str(value).replace('|', '/')} |" for name, value in sorted(data.run.items())]
    return ["## Versions", "", "| | |", "|---|---|", *rows, ""]
