"""Facts about a finished classifier and its exported files: bundles store them, model cards show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipstill.core.protocols import Preprocess, Provenance


@dataclass(frozen=True)
class Description:
    """Facts about a classifier before its export."""

    labels: Sequence[str]  # Class names, in the order of the logits.
    preprocess: Preprocess  # How a photo becomes the model's input.
    provenance: Sequence[Provenance] = ()  # Weights that are in the model or that trained it.
    evaluation: Mapping[str, Any] | None = None  # JSON values of an ``Evaluation``; None without photos.
    calibration: Mapping[str, Any] | None = None  # Estimates, made without labels, of how reliable the scores are.
    temperature: float = 1.0  # Divisor of the logits before softmax.
    refusal_threshold: float | None = None  # Probability below which it says "none of these"; None for never.
    examples: int = 0  # Number of labelled example images given beside the class names.
    unlabelled: int = 0  # Number of unlabelled photos given.
    origin: Mapping[str, Any] = field(default_factory=dict)  # Inputs and settings, see ``clipstill.stages.origin``.
    # Further facts for manifest and card. ``teacher`` and ``student`` are names, ``zero_shot`` marks a model that was
    # not trained, ``fine_tuned_on`` is the number of photos of a later fine-tuning.
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportFacts:
    """Measurements of the export."""

    onnx_bytes: int  # Size of ``model.onnx``.
    student_bytes: int  # Size of ``student.safetensors``.
    parameters: int  # Number of parameters, without buffers.
    latency_ms: float  # Median for one picture on one CPU core.
    parity: Mapping[str, Any]  # Comparison of ``model.onnx`` with the trained model, as in ``parity.json``.
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # Facts by format, ``onnx`` first.
    files: Mapping[str, str] = field(default_factory=dict)  # Sha256 of the files with weights by name.
    software: Sequence[Provenance] = ()  # Files of other projects that lie in the bundle.
