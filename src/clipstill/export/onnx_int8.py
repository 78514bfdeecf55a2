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
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.export.format import Source, reason_of
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

    def write(self, source: Source, folder: Path) -> None:
        """Quantise the float32 file.

        Raises:
            ExportError: there are no calibration pictures, or the graph cannot be quantised.
        """
        pictures_N3HW = source.calibration_N3HW
        if not len(pictures_N3HW):
            raise ExportError("int8 needs pictures to calibrate on, and there are none. Give some: --calibration DIR")
        target = folder / self.files[0]
        try:
            with _silent(), tempfile.TemporaryDirectory() as work:
                _quantise(source.onnx, target, pictures_N3HW, Path(work))
        except Exception as error:  # whatever the quantiser stumbles over
            target.unlink(missing_ok=True)
            raise ExportError(f"the student cannot be quantised: {reason_of(error)}") from error


def _quantise(onnx_path: Path, target: Path, pictures_N3HW: np.ndarray, work: Path) -> None:
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Pictures(CalibrationDataReader):  # type: ignore[misc]
        """One at a time, as in use."""

        def __init__(self) -> None:
            self._rest = iter(pictures_N3HW)

        def get_next(self) -> dict[str, Any] | None:
            image_3HW = next(self._rest, None)
            return None if image_3HW is None else {INPUT: image_3HW[None]}

    prepared = work / "prepared.onnx"
    # Symbolic shapes would need sympy to know each operator; those of ONNX itself are enough here.
    quant_pre_process(str(onnx_path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(target),
        Pictures(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # 7-bit weights: with 8, sums of two products overflow 16 bits on CPUs without VNNI, and the same file would
        # answer otherwise on a newer CPU.
        reduce_range=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        calibrate_method=CalibrationMethod.MinMax,
        nodes_to_exclude=_in_float(onnx.load(prepared)),
    )


def _in_float(model: Any) -> list[str]:
    """Names of the nodes that stay as they are."""
    sizes = {each.name: math.prod(each.dims) for each in model.graph.initializer}
    whole = sum(sizes.values())

    def share(node: Any) -> float:
        return float(sum(sizes.get(name, 0) for name in node.input) / whole)

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
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
