"""The student as ONNX with half of the bytes: float16 weights and arithmetic, float32 at both ends.

GPUs and phones compute so natively. onnxruntime's CPU provider has few float16 kernels: it casts around the others, and
takes longer than in float32.
"""

from __future__ import annotations

import warnings
from pathlib import Path

from clipstill.core.errors import ExportError
from clipstill.export.format import Source, reason_of
from clipstill.export.onnx import Onnx


class OnnxFp16(Onnx):
    """float16 inside, float32 in and out."""

    name = "onnx-fp16"
    files = ("model.fp16.onnx",)
    exact = False

    def write(self, source: Source, folder: Path) -> None:
        """Convert the float32 file.

        Raises:
            ExportError: an operation has no float16 form.
        """
        import onnx
        from onnxruntime.transformers.float16 import convert_float_to_float16
        from onnxruntime.transformers.onnx_model import OnnxModel

        try:
            with warnings.catch_warnings():
                # It tells of each weight that is cut off at the limits of float16; the gate judges what that costs.
                warnings.simplefilter("ignore")
                graph = convert_float_to_float16(onnx.load(source.onnx), keep_io_types=True)
            # Its casts at both ends stand at the end of the list.
            OnnxModel(graph).topological_sort()
            onnx.checker.check_model(graph)
        except Exception as error:  # whatever the converter stumbles over
            raise ExportError(f"the student cannot be written in float16: {reason_of(error)}") from error
        onnx.save(graph, folder / self.files[0])
