"""The content of a report."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from clipstill.core.protocols import Provenance
from clipstill.core.verdict import Advice

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class Picture:
    """One synthetic image."""

    class_name: str
    style: str  # Style of its prompt; empty for none.
    uri: str  # The image as a ``data:`` URI, see ``picture_uri``.
    score: float  # The teacher's probability of its class, in [0, 1].
    prompt: str = ""


@dataclass(frozen=True)
class Series:
    """One line of a chart: (x, y) points, x ascending."""

    name: str
    points: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Chart:
    """A line chart."""

    title: str
    x: str  # Name of the horizontal axis.
    series: tuple[Series, ...]  # At most six.
    percent: bool = False  # Whether to write y, a share in [0, 1], as per cent.


@dataclass(frozen=True)
class Stage:
    """One stage of the run, its seconds of work, and its result in a few words."""

    name: str
    seconds: float
    detail: str = ""


@dataclass(frozen=True)
class ReportData:
    """Everything that the report shows; the page leaves out what is absent."""

    labels: tuple[str, ...]  # Class names.
    teacher: str
    student: str
    student_bytes: int  # Size of the exported model.
    student_parameters: int
    latency_ms: float  # Median for one picture on one CPU core.
    advice: Advice  # Verdict on the student, and the next steps.
    teacher_bytes: int | None = None  # Size of the teacher's image tower; None where unknown.
    teacher_parameters: int | None = None  # The same for its parameters.
    parity: Mapping[str, Any] = field(default_factory=dict)  # Content of the bundle's ``parity.json``.
    evaluation: Mapping[str, Any] | None = None  # JSON values of an ``Evaluation``; None without photos.
    calibration: Mapping[str, Any] | None = None  # Label-free estimates of temperature, threshold and accuracy.
    two_bundles: str = ""  # Which to ship, the student or the small teacher without training, and why.
    examples: int = 0  # Number of example images given beside the class names.
    unlabelled: int = 0  # Number of unlabelled photos given.
    pictures: tuple[Picture, ...] = ()  # Synthetic images, in the order of their index.
    # One entry a class: counts of its synthetic images, ``made`` to ``duplicate_pairs``, and their quality.
    curation: tuple[Mapping[str, Any], ...] = ()
    charts: tuple[Chart, ...] = ()  # Losses and scores over the steps.
    ladder: Mapping[str, Any] | None = None  # JSON values of an ``evaluation.ladder.Ladder``; None if not measured.
    stages: tuple[Stage, ...] = ()  # Stages that ran.
    settings: Mapping[str, Any] = field(default_factory=dict)  # The run's settings as nested plain values.
    provenance: tuple[Provenance, ...] = ()  # Weights that are in the model or that taught it.
    environment: Mapping[str, Any] = field(default_factory=dict)  # Machine and versions.
    notes: tuple[str, ...] = ()  # Sentences that the reader must not miss.
    created: str = ""  # Date as text.
    version: str = ""  # Version of clipstill.


def picture_uri(pixels_HW3: np.ndarray, side: int = 128) -> str:
    """A synthetic image, uint8 RGB, as a ``data:`` URI: WebP of at most ``side`` pixels a side."""
    from PIL import Image

    from clipstill.core.synthetic_mark import save_marked

    image = Image.fromarray(pixels_HW3)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    save_marked(image, stream, "WEBP", quality=82, method=4)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode()
