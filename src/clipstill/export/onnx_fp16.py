"""The student as ONNX with half of the bytes: float16 weights and arithmetic, float32 at both ends.

GPUs and phones compute float16 natively. On CPUs onnxruntime has few float16 kernels, and is slower than in float32.
"""

from __future__ import annotations

from pathlib import Path

from clipstill.export.format import Source
from clipstill.export.onnx import Onnx


class OnnxFp16(Onnx):
    """float16 inside, float32 in and out."""

    name = "onnx-fp16"
    files = ("model.fp16.onnx",)
    exact = False

    def _write(self, source: Source, folder: Path) -> None:
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        graph = convert_float_to_float16(onnx.load(source.onnx), keep_io_types=True)
        # The converter appends its casts to the end of the list of nodes.
        OnnxModel(graph).topological_sort()
        onnx.checker.check_model(graph)
        onnx.save(graph, folder / self.files[0])
