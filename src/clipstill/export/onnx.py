"""The student as one ONNX file.

Shapes: N images (any number), C classes, H = W = ``size`` (fixed: a phone's compiler wants it so).
"""

from __future__ import annotations

import copy
import time
import warnings
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ExportError
from clipstill.core.files import atomic_path

if TYPE_CHECKING:
    import numpy as np
    import onnxruntime
    from torch import nn

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


def latency_one_core(path: Path, runs: int = 30, seconds: float = 3.0) -> float:
    """Median milliseconds for one image on one CPU core, without decoding and resizing.

    Args:
        path: the ONNX file.
        runs: how many timed runs at most, after three that are not timed.
        seconds: stop earlier after this time (at least one run is timed).
    """
    import numpy as np

    session = open_session(path, threads=1)
    size = input_size(session)
    image = np.full((1, 3, size, size), 0.5, dtype=np.float32)
    for _ in range(3):
        run_session(session, image)
    taken: list[float] = []
    while not taken or (len(taken) < runs and sum(taken) < seconds):
        start = time.perf_counter()
        run_session(session, image)
        taken.append(time.perf_counter() - start)
    return 1000.0 * median(taken)
