"""The student as a LiteRT (TensorFlow Lite) model for Android and small boards, in float32.

It takes one picture at a time, channels first.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipstill.core.cores import usable_cores
from clipstill.core.protocols import height_and_width
from clipstill.export.format import Format, Model, Source, deployed_copy, one_at_a_time, silent


class LiteRT(Format):
    """float32; XNNPACK computes it on CPUs."""

    name = "litert"
    packages = ("litert_torch", "ai_edge_litert")
    files = ("model.tflite",)
    advice = "Each release of litert-torch works with few releases of torch: compare pip show litert-torch torch"

    def _write(self, source: Source, folder: Path) -> None:
        import torch

        example = torch.zeros(1, 3, *height_and_width(source.size))
        with silent():
            import litert_torch

            litert_torch.convert(deployed_copy(source.student), (example,)).export(str(folder / self.files[0]))

    def _open(self, path: Path, threads: int) -> Model:
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(str(path), num_threads=threads or usable_cores())
        interpreter.allocate_tensors()
        image, logits = (
            each[0]["index"] for each in (interpreter.get_input_details(), interpreter.get_output_details())
        )

        def model(x_13HW: np.ndarray) -> np.ndarray:
            interpreter.set_tensor(image, x_13HW)
            interpreter.invoke()
            return np.asarray(interpreter.get_tensor(logits))  # A copy.

        return one_at_a_time(model)
