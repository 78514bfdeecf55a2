"""The student as OpenVINO's intermediate representation: a graph (.xml) and its weights (.bin), in float32."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.export.format import Model, Source, need, reason_of


def _openvino() -> Any:
    # Its import alone reports to its makers over the network; where this module is missing, it takes a stub of its own.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVino:
    """For Intel's CPUs, GPUs and NPUs."""

    name = "openvino"
    files = ("model.openvino.xml", "model.openvino.bin")
    exact = True
    calibrated = False

    def check(self) -> None:
        """Look for the package."""
        need("openvino", self.name)

    def write(self, source: Source, folder: Path) -> None:
        """Read the ONNX file with OpenVINO and store what it made of it.

        Raises:
            ExportError: OpenVINO cannot read it.
        """
        openvino = _openvino()
        try:
            graph = openvino.Core().read_model(str(source.onnx))
            openvino.save_model(graph, str(folder / self.files[0]), compress_to_fp16=False)
        except Exception as error:  # a RuntimeError of many kinds
            raise ExportError(f"the student cannot be written for OpenVINO: {reason_of(error)}") from error

    def open(self, path: Path, threads: int = 0) -> Model:
        """Compile for the CPU, in float32 also where the CPU has a quicker and less exact type.

        Raises:
            ExportError: OpenVINO cannot open it.
        """
        openvino = _openvino()
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        try:
            compiled = openvino.Core().compile_model(str(path), "CPU", settings)
        except Exception as error:  # as above
            raise ExportError(f"OpenVINO cannot open {path} ({reason_of(error)}). Export the student again.") from error

        def model(image_N3HW: np.ndarray) -> np.ndarray:
            image_N3HW = np.ascontiguousarray(image_N3HW, dtype=np.float32)
            return np.array(compiled(image_N3HW)[compiled.output(0)])

        return model
