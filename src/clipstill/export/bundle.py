"""The folder that is shipped, whole or absent.

``model.onnx student.safetensors class_vectors.safetensors labels.json preprocess.json metrics.json parity.json card.md
LICENCES.md MANIFEST.json``, the formats that were asked for beside ``model.onnx``, ``teacher_prompts.safetensors`` of a
teacher that learned, and ``index.html`` with what it needs to run the model in a browser. Shapes: C classes, D teacher
dimensions, N images.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.errors import ArtifactError, ExportError
from clipstill.core.files import (
    MANIFEST,
    Manifest,
    commit_manifest,
    disk_error,
    read_json,
    read_manifest,
    sha256_file,
    write_json,
    write_text,
)
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.export.measure import FormatFacts, Pictures, write_formats
from clipstill.export.onnx import export_onnx, open_session, run_session
from clipstill.export.page import software, write_page
from clipstill.export.parity import Parity, check_parity
from clipstill.export.preprocess import preprocess_json
from clipstill.export.settings import ExportSettings

if TYPE_CHECKING:
    from torch import Tensor, nn

MODEL = "model.onnx"
ONNX = "onnx"
METRICS_FILE = "metrics.json"
PARITY_FILE = "parity.json"
CARD_FILE = "card.md"
TEACHER_PROMPTS_FILE = "teacher_prompts.safetensors"


@dataclass(frozen=True)
class ExportFacts:
    """What the export measured.

    Attributes:
        onnx_bytes: size of ``model.onnx``.
        student_bytes: size of ``student.safetensors``.
        parameters: numbers in the student, without buffers.
        latency_ms: median for one picture on one CPU core.
        parity: the exported model against the student.
        formats: what each format is worth, that of ``model.onnx`` first.
        files: sha256 of the files with weights, by name.
        software: of other projects that comes with the model.
    """

    onnx_bytes: int
    student_bytes: int
    parameters: int
    latency_ms: float
    parity: Parity
    formats: tuple[FormatFacts, ...] = ()
    files: Mapping[str, str] = field(default_factory=dict)
    software: tuple[Provenance, ...] = ()

    def on_card(self) -> dict[str, Any]:
        """Those that a model card tells, by the names of its fields."""
        return {
            "parameters": self.parameters,
            "onnx_bytes": self.onnx_bytes,
            "latency_ms": self.latency_ms,
            "parity_difference": self.parity.max_difference,
            "parity_agreement": self.parity.top1_agreement,
            "formats": {each.format: each.to_json() for each in self.formats},
            "files": self.files,
            "software": self.software,
        }


@dataclass(frozen=True)
class BundleContent:
    """What goes into a bundle.

    Attributes:
        student: maps (N, 3, H, W) in [0, 1] to logits (N, C); normalises by itself.
        labels: C class names, in the order of the logits.
        class_vectors_CD: the teacher's unit vectors of the classes.
        preprocess: the student's.
        provenance: the weights in the student, and those that taught it.
        evaluation: measured on real photos; None where none were given.
        formats: names of those beside ``model.onnx``.
        pictures: that they are calibrated and compared on.
        limits: what a format may cost.
        parity_images_NHW3: uint8 pictures for the parity gate; smooth ones are made where None.
        temperature: logits are divided by it before they become probabilities.
        refusal_threshold: of the highest probability; below it, the answer is "none of these". None for a student that
            always answers.
        teacher_prompts: a file of what the teacher learned, so that it can be measured again; None where it did not.
        page: whether a page that runs the model in a browser comes with it.
        info: free facts for the manifest (seed, versions, device, commit, names of teacher and student).
    """

    student: nn.Module
    labels: Sequence[str]
    class_vectors_CD: Tensor
    preprocess: Preprocess
    provenance: Sequence[Provenance] = ()
    evaluation: Mapping[str, Any] | None = None
    formats: Sequence[str] = ()
    pictures: Pictures = field(default_factory=Pictures)
    limits: ExportSettings = field(default_factory=ExportSettings)
    parity_images_NHW3: np.ndarray | None = None
    temperature: float = 1.0
    refusal_threshold: float | None = None
    teacher_prompts: Path | None = None
    page: bool = True
    info: Mapping[str, Any] = field(default_factory=dict)


def write_bundle(
    folder: Path,
    content: BundleContent,
    texts: Callable[[ExportFacts], Mapping[str, str]],
    key: str = "",
) -> ExportFacts:
    """Export, check, measure and describe a student, in one folder that appears whole or not at all.

    An older bundle at the same place is replaced only after the new one is complete. A kill at any moment leaves the
    old one, the new one, or, between two renames, neither under that name; the next call puts the old one back first.

    Args:
        folder: the bundle.
        content: what goes in.
        texts: the Markdown files by name (``card.md``, ``LICENCES.md``), told from what the export measured.
        key: hash of everything the bundle depends on; the manifest's key.

    Raises:
        ArtifactError: the folder holds something that is not a bundle.
        ExportError: the labels do not fit the student, it cannot be exported, or the gate refuses it.
        ResourceError: the disk is full or not writable.
    """
    with _replacing(folder) as partial:
        return _fill(partial, content, texts, key)


def add_formats(
    bundle: Path,
    out: Path,
    student: nn.Module,
    size: int,
    names: Sequence[str],
    pictures: Pictures,
    limits: ExportSettings,
    card: Callable[[str, Mapping[str, Any]], str],
) -> list[FormatFacts]:
    """Write further formats of a bundle's student, into that bundle or into a copy of it.

    Args:
        bundle: whole and verified; it stays as it is where ``out`` is another folder.
        out: the bundle itself, or another place, as of ``write_bundle``.
        student: of the bundle.
        size: of the student's input, in pixels.
        names: of formats; ``onnx`` is measured too, as what the others are compared with.
        pictures: to calibrate and compare on.
        limits: what a format may cost.
        card: the text of ``card.md``, and what is now known of all formats -> the new text.

    Raises:
        ClipstillError: as ``write_bundle`` and ``write_formats``.
    """
    manifest = read_manifest(bundle)
    assert manifest is not None
    with _replacing(out) as partial:
        for name in manifest.files:
            shutil.copyfile(bundle / name, partial / name)
        found = write_formats(partial, partial / MODEL, student, size, [ONNX, *names], pictures, limits)
        metrics = read_json(partial / METRICS_FILE)
        known = {**metrics["export"].get("formats", {}), **{each.format: each.to_json() for each in found}}
        metrics["export"]["formats"] = known
        write_json(partial / METRICS_FILE, metrics)
        write_json(partial / PARITY_FILE, {**read_json(partial / PARITY_FILE), "formats": _parity_of(known)})
        if (partial / CARD_FILE).is_file():
            write_text(partial / CARD_FILE, card((partial / CARD_FILE).read_text(encoding="utf-8"), known))
        _commit(partial, manifest.key, manifest.info)
    return found


@contextmanager
def _replacing(folder: Path) -> Iterator[Path]:
    """An empty folder beside ``folder``, which takes its place at the end."""
    partial = folder.with_name(f".{folder.name}.clipstill-partial")
    previous = folder.with_name(f".{folder.name}.clipstill-previous")
    try:
        _recover(folder, partial, previous)
        check_replaceable(folder)
        partial.mkdir(parents=True)
        yield partial
        if folder.exists():
            folder.rename(previous)
        partial.rename(folder)
        _sync(folder.parent)
        shutil.rmtree(previous, ignore_errors=True)
    except OSError as error:
        raise disk_error(error, folder) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _fill(
    folder: Path,
    content: BundleContent,
    texts: Callable[[ExportFacts], Mapping[str, str]],
    key: str,
) -> ExportFacts:
    from safetensors.torch import save

    student, size = content.student, content.preprocess.size
    model = folder / MODEL
    export_onnx(student, model, size)
    parity = check_parity(student, model, content.parity_images_NHW3, content.limits.tolerance)
    _check_classes(content, model)
    formats = write_formats(folder, model, student, size, [ONNX, *content.formats], content.pictures, content.limits)

    # Cloned, because safetensors refuses tensors that share memory and layouts other than contiguous (channels-last).
    state = {name: value.detach().cpu().contiguous().clone() for name, value in student.state_dict().items()}
    (folder / "student.safetensors").write_bytes(save(state))
    vectors_CD = content.class_vectors_CD.detach().cpu().float().contiguous().clone()
    (folder / "class_vectors.safetensors").write_bytes(save({"class_vectors": vectors_CD}))
    if content.teacher_prompts is not None:
        shutil.copyfile(content.teacher_prompts, folder / TEACHER_PROMPTS_FILE)

    facts = ExportFacts(
        onnx_bytes=model.stat().st_size,
        student_bytes=(folder / "student.safetensors").stat().st_size,
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        latency_ms=float(formats[0].latency_ms or 0.0),
        parity=parity,
        formats=tuple(formats),
        files={path.name: sha256_file(path) for path in sorted(folder.iterdir())},
        software=software() if content.page else (),
    )
    known = {each.format: each.to_json() for each in formats}
    write_json(
        folder / "labels.json",
        {
            "labels": list(content.labels),
            "temperature": content.temperature,
            "refusal_threshold": content.refusal_threshold,
        },
    )
    write_json(folder / "preprocess.json", preprocess_json(content.preprocess))
    write_json(folder / PARITY_FILE, {**parity.to_json(), "formats": _parity_of(known)})
    write_json(
        folder / METRICS_FILE,
        {
            "evaluation": dict(content.evaluation) if content.evaluation is not None else None,
            "export": {
                "onnx_bytes": facts.onnx_bytes,
                "student_bytes": facts.student_bytes,
                "parameters": facts.parameters,
                "latency_ms": facts.latency_ms,
                "formats": known,
            },
            "provenance": [asdict(part) for part in content.provenance],
        },
    )
    for name, text in texts(facts).items():
        write_text(folder / name, text)
    if content.page:
        write_page(folder)
    _commit(folder, key, {"kind": "bundle", **content.info})
    return facts


def _commit(folder: Path, key: str, info: Mapping[str, Any]) -> None:
    names = [path.name for path in folder.iterdir() if path.name != MANIFEST]
    for name in names:
        _sync(folder / name)
    commit_manifest(folder, key, names, dict(info))


def _parity_of(known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """How far each format is from the student."""
    names = ("file", "max_difference", "top1_agreement", "agreement", "pictures", "warning", "refused")
    return {format_name: {name: facts[name] for name in names} for format_name, facts in known.items()}


def _check_classes(content: BundleContent, model: Path) -> None:
    size = content.preprocess.size
    outputs = run_session(open_session(model, threads=1), np.zeros((1, 3, size, size), dtype=np.float32)).shape[1]
    vectors = len(content.class_vectors_CD)
    if not outputs == len(content.labels) == vectors:
        raise ExportError(
            f"the student answers for {outputs} classes, but there are {len(content.labels)} labels and {vectors} "
            f"class vectors. Train the student for these classes again."
        )


def _recover(folder: Path, partial: Path, previous: Path) -> None:
    """Clear what a killed call left behind; both names are this function's own, so nothing of the user's is touched."""
    if previous.exists():
        if folder.exists():
            shutil.rmtree(previous)
        else:
            previous.rename(folder)
    if partial.exists():
        shutil.rmtree(partial)


def check_replaceable(folder: Path) -> None:
    """Only a bundle, or an empty folder, may be replaced: what the manifest does not list is somebody else's.

    Raises:
        ArtifactError: the folder is a file, or holds something that is not a bundle.
    """
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ArtifactError(f"{folder} is a file. Choose another place for the bundle.")
    manifest: Manifest | None = read_manifest(folder)
    known = {MANIFEST, *manifest.files} if manifest is not None else set()
    strange = sorted(path.name for path in folder.iterdir() if path.name not in known)
    if strange:
        raise ArtifactError(
            f"{folder} holds '{strange[0]}', which is no part of a bundle. Move it away or choose another folder."
        )


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
