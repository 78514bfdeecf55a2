"""The student as ONNX with 8-bit weights and activations (QDQ): a quarter of the bytes, a fraction of the time on CPUs.

Static quantisation by onnxruntime: weights per channel, activations per tensor, with ranges from calibration pictures.
docs/export.md says what it costs on photos.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any

from clipstill.export.format import Source, silent
from clipstill.export.onnx import INPUT, Onnx

# The first convolutions stay in float, up to this number and share of the weights: their channels differ most in range,
# and one scale for all would leave some with a few levels.
FLOAT_CONVOLUTIONS, FLOAT_SHARE = 6, 0.01
# The head stays in float up to this share of the weights: int8 would clip logits beyond those of the calibration.
FLOAT_HEAD_SHARE = 0.05


class OnnxInt8(Onnx):
    """8 bits inside, float32 in and out."""

    name = "onnx-int8"
    files = ("model.int8.onnx",)
    exact = False
    calibrated = True

    def _write(self, source: Source, folder: Path) -> None:
        import onnx
        from onnxruntime.quantization import (
            CalibrationDataReader,
            CalibrationMethod,
            QuantFormat,
            QuantType,
            quantize_static,
        )
        from onnxruntime.quantization.shape_inference import quant_pre_process

        pictures = iter([{INPUT: x_3HW[None]} for x_3HW in source.calibration_N3HW])

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            def get_next(self) -> dict[str, Any] | None:
                return next(pictures, None)

        with silent(), tempfile.TemporaryDirectory() as work:
            prepared = Path(work) / "prepared.onnx"
            # The shapes that ONNX infers by itself are enough.
            quant_pre_process(str(source.onnx), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(folder / self.files[0]),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # 7-bit weights: with 8, sums overflow 16 bits on CPUs without VNNI, and answers depend on the CPU.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=_float_nodes(onnx.load(prepared)),
            )


def _float_nodes(model: Any) -> list[str]:
    sizes = {each.name: math.prod(each.dims) for each in model.graph.initializer}
    total = sum(sizes.values())

    def share(node: Any) -> float:
        return float(sum(sizes.get(name, 0) for name in node.input) / total)

    kept: list[str] = []
    held = 0.0
    for node in [each for each in model.graph.node if each.op_type == "Conv"][:FLOAT_CONVOLUTIONS]:
        held += share(node)
        if held > FLOAT_SHARE:
            break
        kept.append(node.name)
    head = [node for node in model.graph.node if node.op_type in ("Gemm", "MatMul")][-1:]
    return kept + [node.name for node in head if share(node) <= FLOAT_HEAD_SHARE]
