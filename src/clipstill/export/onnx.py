"""The student as one ONNX file.

Shapes: N images (any number), C classes, H = W = ``size`` (fixed: a phone's compiler wants it so).
"""

from __future__ import annotations

import copy
import shutil
import warnings
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ExportError
from clipstill.core.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from torch import nn

    from clipstill.export.format import Model, Source

INPUT = "image"
OUTPUT = "logits"
OPSET = 18


def export_onnx(student: nn.Module, path: Path, size: int, opset: int = OPSET) -> None:
    """Write the student as an ONNX file: float32 (N, 3, size, size) in [0, 1] -> logits (N, C), any N.

    Normalisation is the student's own and therefore inside the graph. The student is copied first: its device, its mode
    and its gradients stay as they are.

    Args:
        student: maps (N, 3, H, W) in [0, 1] to logits (N, C).
        path: the file; it appears whole or not at all.
        size: height and width of the input, in pixels.
        opset: ONNX operator set.

    Raises:
        ExportError: the student uses an operation that ONNX cannot express.
        ResourceError: the file cannot be written.
    """
    import onnx
    import torch

    model = copy.deepcopy(student).cpu().float().eval().requires_grad_(False)
    for module in model.modules():
        # In-place activations take a detour through the exporter's decompositions that doubles its time.
        if hasattr(module, "inplace"):
            module.inplace = False  # type: ignore[assignment]
    # Two images, not one: the exporter takes a dimension of 1 for a constant and would fix the batch.
    example = torch.linspace(0.0, 1.0, 2 * 3 * size * size).reshape(2, 3, size, size)
    try:
        with warnings.catch_warnings():
            # The exporter warns about its own internals; what matters is decided by the parity gate.
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                model,
                (example,),
                dynamo=True,
                opset_version=opset,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
        if program is None:  # the signature allows it, the dynamo exporter never does it
            raise RuntimeError("the exporter returned no program")
        graph = program.model_proto
        _strip_traces(graph)
        onnx.checker.check_model(graph)
    except Exception as error:  # the exporter raises a dozen private kinds; the user needs one
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ExportError(
            f"the student cannot be written as ONNX (opset {opset}): {reason}. Choose another student: "
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


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU.

    Args:
        path: the ONNX file.
        threads: threads inside one operation; 0 lets onnxruntime choose.

    Raises:
        ExportError: the file is no model that onnxruntime can run.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds differ between versions
        reason = str(error).strip().splitlines()[0]
        raise ExportError(f"onnxruntime cannot open {path} ({reason}). Export the student again.") from error


def input_size(session: onnxruntime.InferenceSession) -> int:
    """Height and width that the model was exported for."""
    return int(session.get_inputs()[0].shape[-1])


def run_session(session: onnxruntime.InferenceSession, image_N3HW: np.ndarray) -> np.ndarray:
    """Images float32 in [0, 1] -> logits (N, C)."""
    import numpy as np

    (logits_NC,) = session.run([OUTPUT], {INPUT: np.ascontiguousarray(image_N3HW, dtype=np.float32)})
    return np.asarray(logits_NC)


class Onnx:
    """The student in float32: what a bundle always holds, and what all other ONNX files are made from."""

    name = "onnx"
    files = ("model.onnx",)
    exact = True
    calibrated = False

    def check(self) -> None:
        """Nothing is missing: clipstill depends on onnx itself."""

    def write(self, source: Source, folder: Path) -> None:
        """Copy the file that passed the gate."""
        target = folder / self.files[0]
        if target != source.onnx:
            shutil.copyfile(source.onnx, target)

    def open(self, path: Path, threads: int = 0) -> Model:
        """See ``open_session``."""
        return partial(run_session, open_session(path, threads))
