"""The folder that is shipped, whole or absent. Shapes: C classes, D teacher dimensions, N images.

It holds the student in several formats, class vectors, labels, preprocessing, measurements, ``card.md``,
``LICENCES.md``, a manifest, and a page that runs the model in a browser.
"""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from clipstill.core.description import Description, ExportFacts
from clipstill.core.errors import ArtifactError
from clipstill.core.file_names import METRICS_FILE, PARITY_FILE, STUDENT_FILE, VECTORS_FILE, VECTORS_NAME, visible
from clipstill.core.files import (
    MANIFEST,
    commit_manifest,
    read_json,
    read_manifest,
    replacing,
    sha256_file,
    sync,
    write_json,
    write_text,
    writing,
)
from clipstill.core.images import WIDEST
from clipstill.core.preprocess_file import PREPROCESS_FILE, read_preprocess
from clipstill.export.format import frozen
from clipstill.export.measure import FormatFacts, FormatRequest, references_of, write_formats
from clipstill.export.onnx import Onnx, export_onnx
from clipstill.export.page import software, write_page
from clipstill.export.parity import check_parity

if TYPE_CHECKING:
    from torch import Tensor, nn

    from clipstill.core.protocols import Preprocess

MODEL = Onnx.files[0]
CARD_FILE = "card.md"
TEACHER_PROMPTS_FILE = "teacher_prompts.safetensors"


@dataclass(frozen=True)
class BundleContent:
    """What goes into a bundle."""

    student: nn.Module  # Maps (N, 3, H, W) in [0, 1] to logits (N, C); normalises by itself.
    class_vectors_CD: Tensor  # The teacher's unit vectors of the classes.
    description: Description
    formats: FormatRequest = field(default_factory=FormatRequest)  # Formats beside ``model.onnx``.
    teacher_prompts: Path | None = None  # File of the prompts that the teacher learned.
    page: bool = True  # Whether to add a page that runs the model in a browser.


def write_bundle(
    folder: Path, content: BundleContent, texts: Callable[[ExportFacts], Mapping[str, str]], key: str = ""
) -> ExportFacts:
    """Export, check, measure and describe a student, in one folder that appears whole or not at all.

    An older bundle at the same place is replaced only after the new one is complete. A kill at any moment leaves the
    old one, the new one, or, between two renames, neither under that name; whoever reads or writes it next puts the old
    one back.

    ``texts`` makes the Markdown files by name (``card.md``, ``LICENCES.md``) from what the export measured; ``key`` is
    the hash of everything that the bundle depends on.

    Raises:
        ArtifactError: The folder holds something that is not a bundle.
        ExportError: The student cannot be exported, or the export answers otherwise.
        ResourceError: The disk is full or not writable.
    """
    description = content.description
    check_replaceable(folder)
    with replacing(folder) as partial:
        facts = _write_models(partial, content)
        _write_facts(partial, description, facts)
        for name, text in texts(facts).items():
            write_text(partial / name, text)
        if content.page:
            write_page(partial)
        origin = {"origin": description.origin} if description.origin else {}
        _copy_files_of_the_system(folder, partial)
        _commit(partial, key, {"kind": "bundle", **description.info, **origin})
    return facts


def add_formats(
    bundle: Path, out: Path, student: nn.Module, request: FormatRequest, card: Callable[[str, Mapping[str, Any]], str]
) -> list[FormatFacts]:
    """Write further formats of a bundle's student, into that bundle or into a copy of it.

    The bundle is verified, and stays as it is where ``out`` is another folder. ``card`` makes the new text of
    ``card.md`` from the old one and from the facts of all formats by name.

    Raises:
        ClipstillError: As for ``write_bundle`` and ``write_formats``.
    """
    manifest = read_manifest(bundle)
    assert manifest is not None
    check_replaceable(out)
    with replacing(out) as partial:
        for name in manifest.files:
            shutil.copyfile(bundle / name, partial / name)
        found = write_formats(partial, student, read_preprocess(bundle / PREPROCESS_FILE).size, request)
        metrics = read_json(partial / METRICS_FILE)
        known = metrics["export"].get("formats", {}) | {each.format: each.to_json() for each in found}
        # The model itself was timed when it was made, and keeps that time everywhere.
        known[Onnx.name]["latency_ms"] = metrics["export"]["latency_ms"]
        metrics["export"]["formats"] = known
        write_json(partial / METRICS_FILE, metrics)
        write_json(partial / PARITY_FILE, {**read_json(partial / PARITY_FILE), "formats": _parity_of(known)})
        if (partial / CARD_FILE).is_file():
            write_text(partial / CARD_FILE, card((partial / CARD_FILE).read_text(encoding="utf-8"), known))
        _copy_files_of_the_system(out, partial)
        _commit(partial, manifest.key, manifest.info)
    return found


def _write_models(folder: Path, content: BundleContent) -> ExportFacts:
    from clipstill.core.tensors import write_tensors

    student, size, formats = frozen(content.student), content.description.preprocess.size, content.formats
    model = folder / MODEL
    export_onnx(student, model, size)
    references = references_of(student, size, formats.pictures)
    photos = next((references[name] for name in formats.pictures.photos), references.get("made"))
    parity = check_parity(student, model, size, photos)
    found = write_formats(folder, student, size, formats, references)
    write_tensors(folder / STUDENT_FILE, content.student.state_dict())
    write_tensors(folder / VECTORS_FILE, {VECTORS_NAME: content.class_vectors_CD.float()})
    if content.teacher_prompts is not None:
        shutil.copyfile(content.teacher_prompts, folder / TEACHER_PROMPTS_FILE)
    return ExportFacts(
        onnx_bytes=model.stat().st_size,
        student_bytes=(folder / STUDENT_FILE).stat().st_size,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        latency_ms=float(found[0].latency_ms or 0.0),
        parity=parity,
        formats={each.format: each.to_json() for each in found},
        files={path.name: sha256_file(path) for path in visible(folder.iterdir())},
        software=software() if content.page else (),
    )


def _write_facts(folder: Path, description: Description, facts: ExportFacts) -> None:
    labels = {
        "labels": list(description.labels),
        "temperature": description.temperature,
        "refusal_threshold": description.refusal_threshold,
    }
    measured = ("onnx_bytes", "student_bytes", "parameters", "latency_ms", "formats")
    metrics = {
        "evaluation": description.evaluation,
        "export": {name: getattr(facts, name) for name in measured},
        "provenance": [asdict(part) for part in description.provenance],
    }
    write_json(folder / "labels.json", labels)
    write_json(folder / PREPROCESS_FILE, preprocess_json(description.preprocess))
    write_json(folder / PARITY_FILE, {**facts.parity, "formats": _parity_of(facts.formats)})
    write_json(folder / METRICS_FILE, metrics)


def preprocess_json(preprocess: Preprocess) -> dict[str, Any]:
    """How a photo becomes the model's input: numbers, and steps in enough detail for any language."""
    height, width = preprocess.shape
    side = max(height, round(height / preprocess.crop_fraction))
    numbers = {"widest": WIDEST, "side": side, "height": height, "width": width, **asdict(preprocess)}
    numbers["size"] = [height, width] if height != width else height
    text = resources.files("clipstill").joinpath("export", "preprocess.yaml").read_text(encoding="utf-8")
    parts = yaml.safe_load(text.format(**numbers))
    is_odd = preprocess.resize_mode == "shortest" and height != width
    fitted = parts["fit"]["shortest, not square" if is_odd else preprocess.resize_mode]
    resize = {**fitted["resize"], "kernel": {**parts["kernels"][preprocess.interpolation], **parts["resampling"]}}
    steps = [
        parts["decode"],
        *fitted["before"],
        {**resize, "passes": parts["passes"]},
        *fitted["after"],
        parts["scale"],
    ]
    told = {name: parts[name] for name in ("channels", "model_input")}
    return {**asdict(preprocess), **told, "resize": fitted["told"], "steps": steps, "same_by": fitted["same_by"]}


def _commit(folder: Path, key: str, info: Mapping[str, Any]) -> None:
    names = [path.name for path in visible(folder.iterdir()) if path.name != MANIFEST]
    for name in names:
        sync(folder / name)
    commit_manifest(folder, key, names, dict(info))


def _parity_of(formats: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What ``parity.json`` says of each format."""
    shown = ("file", "max_difference", "top1_agreement", "agreement", "pictures", "warning", "refused")
    return {name: {fact: facts[fact] for fact in shown} for name, facts in formats.items()}


def check_replaceable(folder: Path) -> None:
    """Refuse to replace anything but a bundle or an empty folder; call it before the work too, which would be lost.

    Files of the system do not count, see ``core.file_names``.

    Raises:
        ArtifactError: The folder is a file, or holds something that is not a bundle.
        ResourceError: It cannot be written.
    """
    read_manifest(folder)  # Puts a bundle back whose replacement was killed.
    with writing(folder):
        nearest = next(place for place in (folder, *folder.absolute().parents) if place.exists())
        if not nearest.is_dir():
            raise ArtifactError(f"{nearest} is a file. Choose another place for the bundle.")
        if not os.access(nearest, os.W_OK):
            raise PermissionError(errno.EACCES, f"{nearest} is not writable")
        strange = visible(_strangers(folder)) if nearest == folder else []
    if strange:
        raise ArtifactError(
            f"{folder} holds '{strange[0].name}', which is no part of a bundle. Move it away or choose another folder."
        )


def _strangers(folder: Path) -> list[Path]:
    """What a folder holds beside the files of its bundle."""
    manifest = read_manifest(folder)
    known = {MANIFEST, *manifest.files} if manifest is not None else set()
    return [path for path in folder.iterdir() if path.name not in known]


def _copy_files_of_the_system(old: Path, new: Path) -> None:
    """Copy what file managers and tools (a ``.git``, say) keep in a folder to the one that replaces it."""
    for path in _strangers(old) if old.exists() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, new / path.name, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy2(path, new / path.name, follow_symlinks=False)
