"""The student as one ONNX file. Shapes: N images (any number), C classes, H x W pixels (fixed for phones)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clipstill.core.files import atomic_path
from clipstill.core.onnx_session import open_session
from clipstill.core.protocols import Size, height_and_width
from clipstill.export.format import Format, Model, Source, deployed_copy, exporting, frozen
from clipstill.export.stored_graphs import stored_graph

if TYPE_CHECKING:
    from torch import nn

INPUT = "image"
OUTPUT = "logits"
OPSET = 18


def export_onnx(student: nn.Module, path: Path, size: Size) -> None:
    """Write the student as an ONNX file: float32 (N, 3, H, W) in [0, 1] -> logits (N, C), any N.

    The student normalises by itself, inside the graph, and stays as it is: a copy is traced, with its branches fused.
    The file appears whole or not at all.

    Raises:
        ExportError: The student uses an operation that ONNX cannot express.
        ResourceError: The file cannot be written.
    """
    import onnx

    graph = stored_graph(frozen(student), size) or traced_graph(deployed_copy(student), size)
    with atomic_path(path) as temporary:
        onnx.save(graph, temporary)


def traced_graph(model: nn.Module, size: Size) -> Any:
    """The ONNX model of a deployed copy, by torch's exporter; arguments and errors as for ``export_onnx``."""
    import onnx
    import torch

    for module in model.modules():
        # In-place activations double the exporter's time.
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    # Two images, not one: the exporter takes a dimension of 1 for a constant and would fix the batch.
    height, width = height_and_width(size)
    example = torch.linspace(0.0, 1.0, 2 * 3 * height * width).reshape(2, 3, height, width)
    with exporting(f"ONNX (opset {OPSET})", "Choose another student: clipstill list students"):
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
        assert program is not None
        graph = program.model_proto
        _strip_traces(graph)
        onnx.checker.check_model(graph)
    return graph


def _strip_traces(model: Any) -> None:
    """Remove the exporter's stack traces: a third of the file, with paths of this machine."""
    graph = model.graph
    for item in [model, graph, *graph.node, *graph.initializer, *graph.input, *graph.output, *graph.value_info]:
        del item.metadata_props[:]
    for function in model.functions:
        for item in [function, *function.node, *function.value_info]:
            del item.metadata_props[:]


class Onnx(Format):
    """The student in float32. Every bundle holds it, and all other ONNX files are made from it."""

    name = "onnx"
    files = ("model.onnx",)

    def _write(self, source: Source, folder: Path) -> None:
        """Write nothing: ``source.onnx`` is this file."""

    def _open(self, path: Path, threads: int) -> Model:
        session = open_session(path, threads)
        return lambda x_N3HW: np.asarray(session.run([OUTPUT], {INPUT: x_N3HW})[0])
