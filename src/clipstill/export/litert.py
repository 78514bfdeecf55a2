"""The student as a LiteRT (TensorFlow Lite) model for Android and small boards, in float32 and with 8 bits.

It takes one picture at a time, channels first.
"""

from __future__ import annotations

import tempfile
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
        write_litert(source, folder / self.files[0])

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


class LiteRTInt8(LiteRT):
    """8-bit weights per channel and 8-bit activations, float32 in and out, with ranges from calibration pictures."""

    name = "litert-int8"
    packages = (*LiteRT.packages, "ai_edge_quantizer")
    files = ("model.int8.tflite",)
    exact = False
    calibrated = True

    def _write(self, source: Source, folder: Path) -> None:
        from ai_edge_quantizer import qtyping, quantizer, recipe

        with tempfile.TemporaryDirectory() as work:
            whole = Path(work, "model.tflite")
            write_litert(source, whole)
            pictures = [{"args_0": x_3HW[None]} for x_3HW in source.calibration_N3HW]
            with silent():
                quantiser = quantizer.Quantizer(str(whole), recipe.static_wi8_ai8())
                for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
                    quantiser.update_quantization_recipe(".*", end, algorithm_key="no_quantize")
                ranges = quantiser.calibrate({"serving_default": pictures}, num_threads=usable_cores())
                done = quantiser.quantize(ranges, enable_progress_bar=False, enable_progress_report=False)
        (folder / self.files[0]).write_bytes(done.quantized_model)


def write_litert(source: Source, path: Path) -> None:
    """Convert a copy of the student, with its branches fused, to float32."""
    import torch

    with silent():
        import litert_torch

        example = torch.zeros(1, 3, *height_and_width(source.size))
        litert_torch.convert(deployed_copy(source.student), (example,)).export(str(path))
