"""The student as OpenVINO's intermediate representation: a graph (.xml) and its weights (.bin), in float32."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np

from clipstill.export.format import Format, Model, Source


def _openvino() -> Any:
    # Importing it alone sends usage statistics over the network; without this module it uses a stub.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino


class OpenVino(Format):
    """For Intel's CPUs, GPUs and NPUs."""

    name = "openvino"
    packages = ("openvino",)
    files = ("model.openvino.xml", "model.openvino.bin")

    def _write(self, source: Source, folder: Path) -> None:
        openvino = _openvino()
        graph = openvino.Core().read_model(str(source.onnx))
        openvino.save_model(graph, str(folder / self.files[0]), compress_to_fp16=False)

    def _open(self, path: Path, threads: int) -> Model:
        # Without the hint, OpenVINO takes bfloat16 on CPUs that have it.
        settings: dict[str, Any] = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        if threads:
            settings["INFERENCE_NUM_THREADS"] = threads
        compiled = _openvino().Core().compile_model(str(path), "CPU", settings)
        return lambda x_N3HW: np.array(compiled(x_N3HW)[compiled.output(0)])
