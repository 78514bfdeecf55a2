"""Models of a bundle in other formats than ONNX, each run by its own library."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from clipstill.core.errors import ArtifactError


class Session:
    """A model (N, 3, H, W) -> (N, C) with what is asked of onnxruntime's sessions."""

    def __init__(self, model: Callable[[np.ndarray], np.ndarray]) -> None:
        self._model = model

    def get_inputs(self) -> list[SimpleNamespace]:
        """Its one input."""
        return [SimpleNamespace(name="image")]

    def run(self, outputs: None, inputs: dict[str, np.ndarray]) -> list[np.ndarray]:
        """The one output."""
        return [self._model(*inputs.values())]


def names() -> list[str]:
    """Formats that are no ONNX."""
    return [name for name in _export().formats.names() if not name.startswith("onnx")]


def file_of(name: str) -> str:
    """File of a format in a bundle.

    Raises:
        ResourceError: The library of the format is not installed.
    """
    return str(_export().load_format(name).files[0])


def open_other(name: str, path: Path, *, threads: int, classes: int, shape: tuple[int, int]) -> Session:
    """Open the file of a format.

    Raises:
        ArtifactError: This machine cannot run the format, or the model does not fit the labels or the pictures.
        ExportError: The file cannot be opened.
    """
    found = _export().load_format(name)
    reason = found.not_run_here()
    if reason is not None:
        raise ArtifactError(f"{path} cannot be run here: {reason}. Ask another model of the bundle.")
    model = found.open(path, threads)
    answer_NC = model(np.zeros((1, 3, *shape), dtype=np.float32))
    if answer_NC.shape != (1, classes):
        raise ArtifactError(f"{path} gives {answer_NC.shape[1:]}, not {classes} logits. Make the bundle again.")
    return Session(model)


def _export() -> Any:
    # By name, since the runtime and the service do without the exporters and what they import.
    return import_module("clipstill.export")
