"""The student as one ONNX file.

Shapes: N images (any number), C classes, H = W = ``size`` (fixed, as compilers for phones want it).
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.errors import ExportError, reason_of
from clipstill.core.files import atomic_path
from clipstill.core.onnx_session import open_session
from clipstill.export.format import Format, Model, Source, frozen_copy

if TYPE_CHECKING:
    from torch import nn

INPUT = "image"
OUTPUT = "logits"
OPSET = 18


def export_onnx(student: nn.Module, path: Path, size: int) -> None:
    """Write the student as an ONNX file: float32 (N, 3, size, size) in [0, 1] -> logits (N, C), any N.

    The student normalises by itself, inside the graph. A copy is exported: device, mode and gradients stay as they are.

    Args:
        student: Maps (N, 3, H, W) in [0, 1] to logits (N, C).
        path: The file; it appears whole or not at all.
        size: Height and width of the input in pixels.

    Raises:
        ExportError: The student uses an operation that ONNX cannot express.
        ResourceError: The file cannot be written.
    """
    import onnx
    import torch

    model = frozen_copy(student)
    for module in model.modules():
        # In-place activations take a detour through the exporter's decompositions that doubles its time.
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    # Two images, not one: the exporter takes a dimension of 1 for a constant and would fix the batch.
    example = torch.linspace(0.0, 1.0, 2 * 3 * size * size).reshape(2, 3, size, size)
    try:
        with warnings.catch_warnings():
            # The exporter warns about its own internals; the parity check decides what matters.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        assert program is not None  # the signature allows None, the dynamo exporter never returns it
        graph = program.model_proto
        _strip_traces(graph)
        onnx.checker.check_model(graph)
    except Exception as error:  # the exporter raises a dozen private kinds; the user needs one
        raise ExportError(
            f"the student cannot be written as ONNX (opset {OPSET}): {reason_of(error)}. Choose another student: "
            "clipstill list students"
        ) from error
    with atomic_path(path) as temporary:
        onnx.save(graph, temporary)


def _strip_traces(model: Any) -> None:
    """Drop what the exporter notes beside each node: stack traces with the paths of this machine, a third of a file."""
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]:
        del item.metadata_props[:]
    for function in model.functions:
        for item in [function, *function.node, *function.value_info]:
            del item.metadata_props[:]


class Onnx(Format):
    """The student in float32: every bundle holds it, and all other ONNX files are made from it."""

    name = "onnx"
    files = ("model.onnx",)

    def _write(self, source: Source, folder: Path) -> None:
        target = folder / self.files[0]
        if target != source.onnx:
            shutil.copyfile(source.onnx, target)

    def _open(self, path: Path, threads: int) -> Model:
        session = open_session(path, threads)

        def model(x_N3HW: np.ndarray) -> np.ndarray:
            (logits_NC,) = session.run([OUTPUT], {INPUT: np.ascontiguousarray(x_N3HW, dtype=np.float32)})
            return np.asarray(logits_NC)

        return model
