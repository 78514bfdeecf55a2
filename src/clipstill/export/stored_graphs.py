"""ONNX graphs of the default's networks, stored without weights, so that torch's slow exporter need not run for them.

A stored graph is what ``export.onnx`` has made of a network. Its weights are taken from the student at hand: a tensor
of its state, one transposed, or one with the BatchNorm behind it folded in. ``python -m tools.weights graphs`` writes
the files; the parity check of every bundle compares the result with the student.

Shapes: C classes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.files import sha256_json
from clipstill.core.protocols import Size, height_and_width

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor, nn

FOLDER = Path(__file__).parents[1] / "assets" / "graphs"
# C in a stored graph: a prime that is no other size in it.
CLASSES = 7919
# Key in the file's metadata: initialiser -> name of the tensor that it is, the same and ``TRANSPOSED``, or names of a
# convolution and its BatchNorm.
SOURCES = "sources"
TRANSPOSED = "transposed"


def signature(model: nn.Module, size: Size) -> str:
    """Hash of what the graph depends on, beside values of weights and the number of classes.

    ``model`` has parts ``backbone`` and ``head``; of its head only the classes may differ.
    """
    shapes = {
        name: list(value.shape)[1 if name.startswith("head.") else 0 :] for name, value in state_of(model).items()
    }
    kinds = [type(model).__name__, repr(model.backbone), type(model.head).__name__]
    return sha256_json([kinds, shapes, list(height_and_width(size))])[:16]


def state_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, the buffers that no file stores too."""
    return dict(model.named_parameters()) | dict(model.named_buffers())


def stored_graph(model: nn.Module, size: Size) -> Any | None:
    """The ONNX model of a student, filled from its weights; None where no graph of its network is stored.

    Args:
        model: A frozen student (``export.format.frozen``).
        size: Of the input in pixels.
    """
    import onnx
    from onnx import numpy_helper

    if not hasattr(model, "backbone") or not hasattr(model, "head"):
        return None
    path = FOLDER / f"{signature(model, size)}.onnx"
    if not path.is_file():
        return None
    proto, state = onnx.load(path), state_of(model)
    graph, sources = proto.graph, json.loads(proto.metadata_props[0].value)
    del proto.metadata_props[:]
    for item in graph.initializer:
        if item.name in sources:
            item.CopyFrom(numpy_helper.from_array(weight_of(model, state, item.name, sources[item.name]), item.name))
    classes = next(len(value) for name, value in state.items() if name.startswith("head."))
    for item in (*graph.value_info, *graph.output):
        for dimension in item.type.tensor_type.shape.dim:
            if dimension.dim_value == CLASSES:
                dimension.dim_value = classes
    return proto


def weight_of(model: nn.Module, state: dict[str, Tensor], name: str, sources: Sequence[str]) -> np.ndarray:
    """Values of the initialiser ``name``, as torch's exporter gives them; ``state`` is that of the model.

    Of a convolution without bias and the BatchNorm behind it, folded together, the bias has a name that says so.
    """
    import numpy as np

    if len(sources) == 1:
        return state[sources[0]].numpy()
    convolution, norm = sources
    if norm == TRANSPOSED:
        return state[convolution].numpy().T
    gamma, beta, mean, variance = (
        state[f"{norm}.{part}"].numpy() for part in ("weight", "bias", "running_mean", "running_var")
    )
    scale = gamma / np.sqrt(variance + float(model.get_submodule(norm).eps))  # type: ignore[arg-type]
    folded: np.ndarray
    if name.endswith("_bias"):
        folded = (0 - mean) * scale + beta
    else:
        folded = state[f"{convolution}.weight"].numpy() * scale[:, None, None, None]
    return folded
