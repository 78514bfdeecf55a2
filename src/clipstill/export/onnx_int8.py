"""The student as ONNX with 8-bit weights and activations (QDQ): a quarter of the bytes, a fraction of the time on CPUs.

Static quantisation of onnxruntime: weights per channel, activations per tensor, their ranges from calibration pictures.
What it costs on photos: docs/export.md.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from clipstill.export.format import Source
from clipstill.export.onnx import INPUT, Onnx

# In networks of depthwise convolutions the first layers' channels differ most in range, and one scale for all of them
# leaves some with a few levels. Together they may be this share of the weights.
FLOAT_CONVOLUTIONS = 6
FLOAT_SHARE = 0.01
# The head's logits would be clipped to the range of the calibration pictures; with very many classes it is too large a
# part of the file to stay in float.
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

        class Reader(CalibrationDataReader):  # type: ignore[misc]
            """One picture at a time, as in use."""

            def __init__(self) -> None:
                self._rest = iter(source.calibration_N3HW)

            def get_next(self) -> dict[str, Any] | None:
                x_3HW = next(self._rest, None)
                return None if x_3HW is None else {INPUT: x_3HW[None]}

        with _silent(), tempfile.TemporaryDirectory() as work:
            prepared = Path(work) / "prepared.onnx"
            # Symbolic shapes would need sympy to know each operator; those of ONNX itself are enough here.
            quant_pre_process(str(source.onnx), str(prepared), skip_symbolic_shape=True)
            quantize_static(
                str(prepared),
                str(folder / self.files[0]),
                Reader(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                # 7-bit weights: with 8, sums of two products overflow 16 bits on CPUs without VNNI, and the same file
                # would answer otherwise on a newer CPU.
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibrate_method=CalibrationMethod.MinMax,
                nodes_to_exclude=_float_nodes(onnx.load(prepared)),
            )


def _float_nodes(model: Any) -> list[str]:
    """Names of the nodes that stay in float."""
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


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """The quantiser writes advice to the root logger and its progress to standard output."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
