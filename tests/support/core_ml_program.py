"""Computes a Core ML program with torch, for machines that have no Core ML: the operations that small networks need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F


def _conv(x: Any, weight: Any, *, bias: Any, strides: Any, pad: Any, dilations: Any, groups: Any, **_: Any) -> Any:
    top, bottom, left, right = (int(each) for each in pad)
    padded = F.pad(x, (left, right, top, bottom))
    return F.conv2d(padded, weight, bias, tuple(strides), dilation=tuple(dilations), groups=int(groups))


def _pad(x: Any, pad: Any, mode: Any, constant_val: Any) -> Any:
    assert mode == "constant", mode
    pairs = [int(each) for each in pad]
    # Torch begins with the last dimension.
    return F.pad(
        x, [each for i in range(len(pairs) - 2, -1, -2) for each in pairs[i : i + 2]], value=float(constant_val)
    )


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "real_div": lambda x, y: x / y,
    "pad": _pad,
    "relu": lambda x: x.relu(),
    "clip": lambda x, alpha, beta: x.clamp(float(alpha), float(beta)),
    "reduce_mean": lambda x, axes, keep_dims: x.mean(tuple(int(each) for each in axes), bool(keep_dims)),
    "reshape": lambda x, shape, **_: x.reshape(tuple(int(each) for each in shape)),
    "linear": lambda x, weight, bias: F.linear(x, weight, bias),
    "conv": lambda x, weight, bias=None, pad_type=None, **rest: _conv(x, weight, bias=bias, **rest),
}


def logits_of_program(package: Path, x_13HW: torch.Tensor) -> torch.Tensor:
    """Output of the program in an ``.mlpackage``, from its stored weights; an operation not listed is a KeyError."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(package), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    (function,) = program.functions.values()
    values: dict[Any, Any] = dict.fromkeys(function.inputs.values(), x_13HW)

    def value(variable: Any) -> Any:
        if variable in values:
            return values[variable]
        known = variable.val
        return torch.as_tensor(known) if getattr(known, "ndim", 0) else known

    for operation in function.operations:
        if operation.op_type == "const":
            continue
        given = {name: value(each) for name, each in operation.inputs.items() if not isinstance(each, (list, tuple))}
        if operation.op_type == "conv":
            assert given["pad_type"] in ("custom", "valid"), given["pad_type"]
        values[operation.outputs[0]] = _OPERATIONS[operation.op_type](**given)
    return values[function.outputs[0]]
