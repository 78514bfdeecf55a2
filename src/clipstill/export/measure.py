"""Writes and measures formats of a student: agreement with the student, size, latency and accuracy.

Shapes: N images, C classes, H x W pixels of the model's input.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.core.progress import percent, say
from clipstill.core.protocols import Size, height_and_width
from clipstill.export import load_format
from clipstill.export.format import Format, Model, Source
from clipstill.export.onnx import Onnx
from clipstill.export.parity import (
    Reference,
    allowed_difference,
    as_input,
    check_difference,
    logits_of,
    same_answers,
)
from clipstill.export.settings import ExportSettings

if TYPE_CHECKING:
    from torch import nn

# Sixteen pictures already give the int8 ranges of sixty-four.
LEAST_PICTURES = 8
# Share of changed answers that int8 or fp16 may have without a warning.
_WARN = 0.05


@dataclass(frozen=True)
class Photos:
    """Labelled real photos: uint8 (N, H, W, 3), and the class of each."""

    pixels_NHW3: np.ndarray
    label_N: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """Pictures that formats are calibrated and compared on; uint8 of any size."""

    calibration_NHW3: np.ndarray | None = None  # For the ranges of int8; None for none.
    held_out_NHW3: np.ndarray | None = None  # Others of the same kind, to compare on; smooth random ones where None.
    photos: Mapping[str, Photos] = field(default_factory=dict)  # By the name of their folder; for accuracy too.


@dataclass(frozen=True)
class FormatRequest:
    """Which formats to write, and how to judge them."""

    names: Sequence[str] = ()  # ``onnx`` is always added, as the others are compared with it.
    pictures: Pictures = field(default_factory=Pictures)
    limits: ExportSettings = field(default_factory=ExportSettings)


@dataclass(frozen=True)
class FormatFacts:
    """What was measured of one format."""

    format: str
    file: str | None = None  # The file to open; None where it was refused.
    bytes: int = 0  # Size of all its files.
    latency_ms: float | None = None  # Median for one picture on one CPU core, without reading and resizing the photo.
    latency_all_cores_ms: float | None = None
    max_difference: float | None = None  # Largest difference of a logit from the student's, over all pictures.
    top1_agreement: float | None = None  # Share of equal answers on the kind of pictures where it is lowest.
    agreement: Mapping[str, float] = field(default_factory=dict)  # By kind: ``held out`` or ``made``, and folders.
    pictures: Mapping[str, int] = field(default_factory=dict)  # Number of pictures by kind.
    accuracy: Mapping[str, float] = field(default_factory=dict)  # Top-1 by folder of photos.
    warning: str | None = None  # What to know before using it.
    refused: str | None = None  # Why there is no file.

    def to_json(self) -> dict[str, Any]:
        """As JSON values, without the name."""
        return {name: value for name, value in asdict(self).items() if name != "format"}


def write_formats(
    folder: Path,
    student: nn.Module,
    size: Size,
    request: FormatRequest,
    references: Mapping[str, Reference] | None = None,
) -> list[FormatFacts]:
    """Write formats of a student into a folder, compare each with the student, and measure it.

    A format that is refused leaves no file; the others are written all the same. The folder holds the student as
    float32 ONNX already, and ``size`` is that of its input. ``references`` are what ``references_of`` gives where they
    are None. The first entry is that of ``onnx``.

    Raises:
        UnknownNameError: There is no such format.
        ResourceError: A format's package is not installed.
        ExportError: ``onnx`` itself is refused.
    """
    references = references or references_of(student, size, request.pictures)
    formats = [load_format(name) for name in dict.fromkeys([Onnx.name, *request.names])]
    source = Source(student, size, folder / Onnx.files[0], as_input(request.pictures.calibration_NHW3, size))
    found = []
    for each in formats:
        facts = _write_and_measure(each, source, references, request.limits)
        if facts.refused and each.name == Onnx.name:
            # The runtime opens it, and the other ONNX formats are made from it.
            raise ExportError(
                f"the exported model {each.files[0]} is not the student: {facts.refused}. Export it again."
            )
        if facts.refused:
            say(f"export: {each.name} is refused: {facts.refused}")
        elif facts.warning:
            say(f"export: {each.name}: {facts.warning}")
        found.append(facts)
    return found


def references_of(student: nn.Module, size: Size, pictures: Pictures) -> dict[str, Reference]:
    """What formats are compared on, by kind: ``held out`` or ``made``, and folders of photos."""
    first = Reference.of(student, size, pictures.held_out_NHW3)
    found = {"made" if first.made else "held out": first}
    for name, photos in pictures.photos.items():
        found[name] = Reference.of(student, size, photos.pixels_NHW3, photos.label_N)
    return found


def _write_and_measure(
    form: Format, source: Source, references: Mapping[str, Reference], limits: ExportSettings
) -> FormatFacts:
    folder = source.onnx.parent
    paths = [folder / name for name in form.files]
    facts = FormatFacts(form.name)
    try:
        if form.calibrated and len(source.calibration_N3HW) < LEAST_PICTURES:
            raise ExportError(
                f"it needs {LEAST_PICTURES} pictures to calibrate on, there are {len(source.calibration_N3HW)}. Give "
                f"photos like those in use (labels are not needed): clipstill export RUN_OR_BUNDLE --calibration DIR"
            )
        form.write(source, folder)
        facts = replace(facts, file=form.files[0], bytes=sum(path.stat().st_size for path in paths))
        reason = form.not_run_here()
        if reason:
            return replace(facts, warning=f"its answers were not compared with the student's: {reason}")
        model = form.open(paths[0])
        facts = _compared(facts, model, references)
        warning = _judge(form, facts, limits, allowed_difference([each.logits_NC for each in references.values()]))
    except ExportError as error:
        for path in paths:
            path.unlink(missing_ok=True)
        return replace(facts, file=None, bytes=0, refused=str(error))
    return replace(
        facts,
        latency_ms=latency(form.open(paths[0], threads=1), source.size),
        latency_all_cores_ms=latency(model, source.size),
        warning=warning,
    )


def _compared(facts: FormatFacts, model: Model, references: Mapping[str, Reference]) -> FormatFacts:
    gaps, agreement, accuracy = [], {}, {}
    for kind, each in references.items():
        logits_NC = logits_of(model, each.x_N3HW)
        gaps.append(np.abs(logits_NC - each.logits_NC).max())
        agreement[kind] = same_answers(logits_NC, each.logits_NC)
        if each.label_N is not None:
            accuracy[kind] = float((logits_NC.argmax(axis=1) == each.label_N).mean())
    return replace(
        facts,
        max_difference=float(np.max(gaps)),  # Unlike max, np.max keeps a NaN.
        top1_agreement=min(agreement.values()),
        agreement=agreement,
        pictures={kind: len(each.x_N3HW) for kind, each in references.items()},
        accuracy=accuracy,
    )


def _judge(form: Format, facts: FormatFacts, limits: ExportSettings, allowed: float) -> str | None:
    """A warning for users of the format, or None; raises ExportError where it changes too many answers."""
    assert facts.max_difference is not None
    assert facts.top1_agreement is not None
    if not np.isfinite(facts.max_difference):
        raise ExportError("a logit is not finite")
    if form.exact:
        check_difference(facts.max_difference, facts.top1_agreement, allowed)
        return None
    changed = 1 - facts.top1_agreement
    kind = min(facts.agreement, key=lambda kind: facts.agreement[kind])
    what = f"it answers otherwise than the student for {percent(changed)} of {facts.pictures[kind]} pictures ({kind})"
    if changed > limits.int8_refuse:
        raise ExportError(f"{what}, allowed is {percent(limits.int8_refuse)}")
    return f"{what}; measure it on photos of your own" if changed > _WARN else None


def latency(model: Model, size: Size) -> float:
    """Median milliseconds for one picture, over 30 runs or 3 seconds."""
    x_13HW = np.full((1, 3, *height_and_width(size)), 0.5, dtype=np.float32)
    for _ in range(3):
        model(x_13HW)
    taken: list[float] = []
    while not taken or (len(taken) < 30 and sum(taken) < 3.0):
        start = time.perf_counter()
        model(x_13HW)
        taken.append(time.perf_counter() - start)
    return 1000.0 * median(taken)


def gflop(network: nn.Module, size: Size) -> float:
    """Billions of multiplications and additions for one picture; a multiply-add counts as two.

    Torch counts products and convolutions of tensors; element-wise operations are left out, as usual.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, *height_and_width(size), device=device))
    return float(counter.get_total_flops()) / 1e9
