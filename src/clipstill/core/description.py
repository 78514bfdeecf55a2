"""What is known of a finished classifier and of its exported files: bundles store it, model cards show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from clipstill.core.protocols import Preprocess, Provenance


@dataclass(frozen=True)
class Description:
    """What is known of a classifier before it is exported.

    Attributes:
        labels: Class names, in the order of the logits.
        preprocess: How a photo becomes the model's input.
        provenance: Weights that are in the model or that taught it.
        evaluation: Results on real photos as ``evaluation.compare`` returns them; None without photos.
        calibration: Label-free estimates of what the scores are worth; None where there are none.
        temperature: Divisor of the logits before softmax.
        refusal_threshold: Highest probability below which the answer is "none of these"; None for a model that always
            answers.
        examples: Number of labelled example images given beside the class names.
        unlabelled: Number of unlabelled photos given.
        origin: Inputs and settings that made the model, see ``clipstill.stages.origin``; empty where unknown.
        info: Free facts for manifest and card. ``teacher`` and ``student`` are names, ``zero_shot`` marks a model that
            was not trained, ``fine_tuned_on`` counts the photos of a later tuning.
    """

    labels: Sequence[str]
    preprocess: Preprocess
    provenance: Sequence[Provenance] = ()
    evaluation: Mapping[str, Any] | None = None
    calibration: Mapping[str, Any] | None = None
    temperature: float = 1.0
    refusal_threshold: float | None = None
    examples: int = 0
    unlabelled: int = 0
    origin: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ExportFacts:
    """What the export measured.

    Attributes:
        onnx_bytes: Size of ``model.onnx``.
        student_bytes: Size of ``student.safetensors``.
        parameters: Number of parameters, without buffers.
        latency_ms: Median milliseconds for one picture on one CPU core.
        parity: Comparison of ``model.onnx`` with the trained model, as in ``parity.json``.
        formats: Size, latency and agreement of each format by name, ``onnx`` first.
        files: Sha256 of the files with weights by name.
        software: Files of other projects that lie in the bundle.
    """

    onnx_bytes: int
    student_bytes: int
    parameters: int
    latency_ms: float
    parity: Mapping[str, Any]
    formats: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    software: Sequence[Provenance] = ()
