"""What is known of a finished classifier and of its exported files: bundles store it, model cards show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipstill.core.protocols import Preprocess, Provenance


@dataclass(frozen=True)
class Description:
    """What is known of a classifier before it is exported."""

    labels: Sequence[str]  # Class names, in the order of the logits.
    preprocess: Preprocess  # How a photo becomes the model's input.
    provenance: Sequence[Provenance] = ()  # Weights that are in the model or that taught it.
    evaluation: Mapping[str, Any] | None = None  # Result of ``evaluation.compare``; None without photos.
    calibration: Mapping[str, Any] | None = None  # Label-free estimates of what the scores are worth.
    temperature: float = 1.0  # Divisor of the logits before softmax.
    refusal_threshold: float | None = None  # Probability below which it says "none of these"; None for never.
    examples: int = 0  # Number of labelled example images given beside the class names.
    unlabelled: int = 0  # Number of unlabelled photos given.
    origin: Mapping[str, Any] = field(default_factory=dict)  # Inputs and settings, see ``clipstill.stages.origin``.
    # Free facts for manifest and card. ``teacher`` and ``student`` are names, ``zero_shot`` marks a model that was not
    # trained, ``fine_tuned_on`` counts the photos of a later tuning.
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportFacts:
    """What the export measured."""

    onnx_bytes: int  # Size of ``model.onnx``.
    student_bytes: int  # Size of ``student.safetensors``.
    parameters: int  # Number of parameters, without buffers.
    latency_ms: float  # Median for one picture on one CPU core.
    parity: Mapping[str, Any]  # Comparison of ``model.onnx`` with the trained model, as in ``parity.json``.
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Facts by format, ``onnx`` first.
    files: Mapping[str, str] = field(default_factory=dict)  # Sha256 of the files with weights by name.
    software: Sequence[Provenance] = ()  # Files of other projects that lie in the bundle.
