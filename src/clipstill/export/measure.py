"""What each format of a student is worth: whether it answers as the student does, size, and time. One code for all.

Shapes: N images, C classes, H = W = the exported size.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.core.progress import say
from clipstill.export import load_format
from clipstill.export.format import Format, Model, Source, reason_of
from clipstill.export.onnx import input_size, open_session, run_session
from clipstill.export.parity import REQUIRED_AGREEMENT, as_input, smooth_pictures
from clipstill.export.settings import ExportSettings

if TYPE_CHECKING:
    from torch import nn

# With fewer, neither the ranges nor the agreement would mean much; sixteen already give the ranges of sixty-four.
LEAST_PICTURES = 8
_AT_ONCE = 32
_MADE = 16
# Names of kinds of pictures that are no folder of photos.
HELD_OUT, MADE = "held out", "made"


@dataclass(frozen=True)
class Photos:
    """Labelled real photos: uint8 (N, H, W, 3), and the class of each."""

    pixels_NHW3: np.ndarray
    label_N: np.ndarray


@dataclass(frozen=True)
class Pictures:
    """What formats are calibrated and compared on; uint8, resized as in use where their size differs.

    Attributes:
        calibration_NHW3: for int8; None where there are none.
        held_out_NHW3: others of the same kind, to compare answers on; smooth ones are made where None.
        photos: by the name of their folder; answers are compared on them too, and accuracy is measured.
    """

    calibration_NHW3: np.ndarray | None = None
    held_out_NHW3: np.ndarray | None = None
    photos: Mapping[str, Photos] = field(default_factory=dict)


@dataclass(frozen=True)
class FormatFacts:
    """One format of one student.

    Attributes:
        format: its name.
        file: the one to open; None where it was refused.
        bytes: of all its files.
        latency_ms: median for one picture on one CPU core, without reading and resizing the photo.
        latency_all_cores_ms: the same on all cores.
        max_difference: of a logit from the float32 student's, over all pictures.
        top1_agreement: share of equal answers on the pictures where it is lowest.
        agreement: the same for each kind of picture: ``held out`` of those that int8 was calibrated on (or
            ``made``), and each folder of photos.
        pictures: how many of each kind.
        accuracy: top-1 on each folder of photos.
        warning: what is to be known before it is used; None where nothing is.
        refused: why there is no file; None where there is one.
    """

    format: str
    file: str | None
    bytes: int = 0
    latency_ms: float | None = None
    latency_all_cores_ms: float | None = None
    max_difference: float | None = None
    top1_agreement: float | None = None
    agreement: Mapping[str, float] = field(default_factory=dict)
    pictures: Mapping[str, int] = field(default_factory=dict)
    accuracy: Mapping[str, float] = field(default_factory=dict)
    warning: str | None = None
    refused: str | None = None

    def to_json(self) -> dict[str, Any]:
        """The same as plain values."""
        return {name: value for name, value in asdict(self).items() if name != "format"}


def write_formats(
    folder: Path,
    onnx: Path,
    student: nn.Module,
    size: int,
    names: Sequence[str],
    pictures: Pictures,
    limits: ExportSettings,
) -> list[FormatFacts]:
    """Write formats of a student into a folder, compare each with the student, and measure it.

    A format that is refused leaves no file; the others are made all the same.

    Args:
        folder: gets the files.
        onnx: the student as float32 ONNX, which has passed the parity gate.
        student: maps (N, 3, H, W) in [0, 1] to logits (N, C).
        size: of the student's input, in pixels.
        names: of formats; each is made once.
        pictures: to calibrate and compare on.
        limits: what a format may cost.

    Raises:
        UnknownNameError: no such format.
        ResourceError: a package is missing.
        ExportError: ``onnx`` itself is refused.
    """
    wanted = [load_format(name) for name in dict.fromkeys(names)]
    calibration_NHW3 = pictures.calibration_NHW3
    source = Source(student, size, onnx)
    if calibration_NHW3 is not None and len(calibration_NHW3):
        source = Source(student, size, onnx, as_input(calibration_NHW3, size))
    compared = _compared(pictures, size)
    expected = {kind: student_logits(student, image_N3HW) for kind, image_N3HW in compared.items()}
    found = []
    for each in wanted:
        facts = _make(each, source, folder, compared, expected, pictures, limits)
        if facts.refused and each.name == "onnx":
            # Nothing else can be trusted then; it is also what the runtime opens.
            raise ExportError(
                f"the exported model {each.files[0]} is not the student: {facts.refused}. Export it again."
            )
        if facts.refused:
            say(f"export: {each.name} is refused: {facts.refused}")
        elif facts.warning:
            say(f"export: {each.name}: {facts.warning}")
        found.append(facts)
    return found


def _make(
    made: Format,
    source: Source,
    folder: Path,
    compared: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    pictures: Pictures,
    limits: ExportSettings,
) -> FormatFacts:
    paths = [folder / name for name in made.files]
    try:
        if made.calibrated and len(source.calibration_N3HW) < LEAST_PICTURES:
            raise ExportError(
                f"it needs {LEAST_PICTURES} pictures to calibrate on and as many to be checked on, there are "
                f"{len(source.calibration_N3HW)}"
            )
        made.write(source, folder)
        model = made.open(paths[0])
        logits = {kind: _answers(model, image_N3HW) for kind, image_N3HW in compared.items()}
    except ExportError as error:
        return replace(_without_file(FormatFacts(made.name, None), paths), refused=str(error))
    gap = max(float(np.abs(logits[kind] - expected[kind]).max()) for kind in logits)
    agreement = {kind: float((logits[kind].argmax(axis=1) == expected[kind].argmax(axis=1)).mean()) for kind in logits}
    lowest = min(agreement, key=lambda kind: agreement[kind])
    facts = FormatFacts(
        format=made.name,
        file=made.files[0],
        max_difference=gap,
        top1_agreement=agreement[lowest],
        agreement=agreement,
        pictures={kind: len(image_N3HW) for kind, image_N3HW in compared.items()},
        accuracy={
            name: float((logits[name].argmax(axis=1) == photos.label_N).mean())
            for name, photos in pictures.photos.items()
        },
    )
    refused, warning = _judged(made, facts, lowest, limits)
    if refused:
        return replace(_without_file(facts, paths), refused=refused)
    return replace(
        facts,
        bytes=sum(path.stat().st_size for path in paths),
        latency_ms=latency(made.open(paths[0], threads=1), source.size),
        latency_all_cores_ms=latency(made.open(paths[0]), source.size),
        warning=warning,
    )


def _judged(made: Format, facts: FormatFacts, kind: str, limits: ExportSettings) -> tuple[str | None, str | None]:
    """Why there must be no file, and what is to be known of it; None where nothing is to be said."""
    assert facts.max_difference is not None
    assert facts.top1_agreement is not None
    changed = 1 - facts.top1_agreement
    what = f"it answers otherwise than the student for {changed:.1%} of {facts.pictures[kind]} pictures ({kind})"
    if not np.isfinite(facts.max_difference):
        return "a logit is not finite", None
    if made.exact:
        if facts.max_difference > limits.tolerance:
            return f"a logit differs by {facts.max_difference:.3g}, allowed is {limits.tolerance:.3g}", None
        return (what if facts.top1_agreement < REQUIRED_AGREEMENT else None), None
    if changed > limits.int8_refuse:
        return f"{what}, allowed is {limits.int8_refuse:.1%}", None
    return None, (f"{what}; measure it on photos of your own" if changed > limits.int8_warn else None)


def _without_file(facts: FormatFacts, paths: Sequence[Path]) -> FormatFacts:
    for path in paths:
        path.unlink(missing_ok=True)
    return replace(facts, file=None)


def _compared(pictures: Pictures, size: int) -> dict[str, np.ndarray]:
    """The pictures that answers are compared on, by kind, as a model takes them."""
    held_out_NHW3 = pictures.held_out_NHW3
    if held_out_NHW3 is not None and len(held_out_NHW3):
        compared = {HELD_OUT: as_input(held_out_NHW3, size)}
    else:
        compared = {MADE: smooth_pictures(np.random.default_rng(0), _MADE, size)}
    return compared | {name: as_input(photos.pixels_NHW3, size) for name, photos in pictures.photos.items()}


def student_logits(student: nn.Module, image_N3HW: np.ndarray) -> np.ndarray:
    """What the trained module answers: float32 (N, C). It is neither changed nor moved."""
    import torch

    model = copy.deepcopy(student).cpu().float().eval()
    with torch.inference_mode():
        return _answers(lambda part_N3HW: model(torch.from_numpy(part_N3HW)).numpy(), image_N3HW)


def _answers(model: Model, image_N3HW: np.ndarray) -> np.ndarray:
    """One picture alone, then the others in batches: a graph with a fixed batch fails here, not in use.

    Raises:
        ExportError: it does not run.
    """
    cuts = [1, *range(1 + _AT_ONCE, len(image_N3HW), _AT_ONCE)]
    try:
        return np.concatenate([model(part) for part in np.split(image_N3HW, cuts) if len(part)])
    except Exception as error:  # each runtime has kinds of its own
        raise ExportError(f"it does not run ({reason_of(error)})") from error


def latency(model: Model, size: int, runs: int = 30, seconds: float = 3.0) -> float:
    """Median milliseconds for one picture, without decoding and resizing.

    Args:
        model: opened with as many threads as shall be measured.
        size: side of the picture in pixels.
        runs: how many timed runs at most, after three that are not timed.
        seconds: stop earlier after this time (at least one run is timed).
    """
    image_13HW = np.full((1, 3, size, size), 0.5, dtype=np.float32)
    for _ in range(3):
        model(image_13HW)
    taken: list[float] = []
    while not taken or (len(taken) < runs and sum(taken) < seconds):
        start = time.perf_counter()
        model(image_13HW)
        taken.append(time.perf_counter() - start)
    return 1000.0 * median(taken)


def latency_one_core(path: Path) -> float:
    """As ``latency``, of an ONNX file on one CPU core."""
    session = open_session(path, threads=1)
    return latency(partial(run_session, session), input_size(session))
