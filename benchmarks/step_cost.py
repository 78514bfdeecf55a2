"""What one synthesis step asks of a GPU, counted without one: operators, kernels, casts, bytes, and what they allow.

    PYTHONPATH=src python benchmarks/step_cost.py                            # VQGAN f16-16384 and ViT-B-32, 224 pixels

Copied into ``benchmarks`` of an earlier version, it counts that one.

Tensors are on torch's device ``meta``: they have shapes, types and layouts, hold no numbers and take no time. Autocast
follows CUDA's rules for what these networks call. ``tolist`` is counted as a reading, and any other way to wait for the
device (``item``, ``nonzero``) fails there. Counted is the third step of a group, with all that ``Synthesiser.group``
does in it:

- *operators*: calls of ATen operators that compute or move something; views of the same memory count as nothing. Each
  is one kernel or a few; what cuDNN does inside one, such as changing a layout, is not seen.
- *casts*: of them, those that change the type of a tensor; *of weights*: those of frozen weights.
- *bytes*: all inputs and outputs of these operators once each, which is what a step moves at least as it is.
- *fused bytes*: those of convolutions, matrix products and attention alone, which is what a compiler reaches at best,
  were all else fused into its neighbours.
- *kept bytes*: what the forward pass keeps for the backward pass, each piece of memory once, without weights.
- *FLOPs*: of convolutions, matrix products and attention, forward and backward, by ``torch.utils.flop_counter``.

The roofline divides FLOPs by ``--tflops`` and bytes by ``--bandwidth``: what arithmetic and memory need alone.
Attention is counted in its plain form, which moves more than a fused kernel.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.flop_counter import FlopCounterMode

import synthesis
from clipstill.core.files import write_json
from clipstill.synthesis import engine as engines

_META = torch.device("meta")
# What CUDA's autocast computes in half precision, and what in float32, of what these networks call.
_IN_HALF = ("conv2d", "linear", "matmul", "__matmul__", "addmm", "mm", "bmm", "scaled_dot_product_attention")
_IN_FLOAT = ("group_norm", "layer_norm", "softmax", "norm")
_ALIASES = {"aten::detach", "aten::alias", "aten::lift_fresh", "aten::unfold", "aten::_unsafe_view"}
_MATRIX = ("convolution", "mm", "bmm", "addmm", "baddbmm", "scaled_dot_product", "_flash", "_efficient")


class Enough(Exception):
    """The counted step has ended."""


class Autocast(TorchFunctionMode):
    """``torch.autocast`` of CUDA for tensors on ``meta``."""

    active: ClassVar[list[Autocast]] = []

    def __init__(self, device: str, dtype: Any = None, enabled: bool = True, **more: Any) -> None:
        super().__init__()
        self.enabled = enabled

    def __enter__(self) -> Any:
        self.active.append(self)
        return super().__enter__()  # type: ignore[no-untyped-call]

    def __exit__(self, *raised: Any) -> None:
        self.active.pop()
        super().__exit__(*raised)  # type: ignore[no-untyped-call]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        dtype = torch.bfloat16 if name in _IN_HALF else torch.float32 if name in _IN_FLOAT else None
        if dtype is not None and self.active[-1].enabled and self.active[-1] is self:
            args, kwargs = tree_map_only(Tensor, lambda x: x.to(dtype), (args, kwargs or {}))
        return func(*args, **(kwargs or {}))


class Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operators between ``begin`` and ``end``."""

    def __init__(self, weights: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.weights, self.is_on = weights, False
        self.operators, self.bytes = Counter[str](), Counter[str]()
        self.casts = self.casts_of_weights = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not self.is_on or func.is_view or func._schema.name in _ALIASES:
            return result
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        outputs = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        name = func._schema.name.removeprefix("aten::")
        self.operators[name] += 1
        self.bytes[name] += sum(bytes_of(tensor) for tensor in (*inputs, *outputs))
        if name == "_to_copy" and inputs[0].dtype != outputs[0].dtype:
            self.casts += 1
            self.casts_of_weights += inputs[0].untyped_storage()._cdata in self.weights
        return result


def bytes_of(tensor: Tensor) -> int:
    """Bytes of a tensor in memory: an expanded dimension has one entry there."""
    sides = zip(tensor.shape, tensor.stride(), strict=True)
    return tensor.element_size() * math.prod(size for size, stride in sides if stride != 0)


def pretended(module: nn.Module) -> None:
    """Move a module's weights to the pretended device, in their types and layouts."""
    for each in module.modules():
        for name, weight in each._parameters.items():
            if weight is not None:
                each._parameters[name] = nn.Parameter(on_meta(weight.data), requires_grad=False)
        for name, buffer in each._buffers.items():
            if buffer is not None:
                each._buffers[name] = on_meta(buffer)


def on_meta(tensor: Tensor) -> Tensor:
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=_META)


def _is_module(cell: Any) -> bool:
    return isinstance(cell.cell_contents, nn.Module)


def models(precision: str, folder: Path) -> synthesis.Setup:
    told = argparse.Namespace(
        size="full", embedded=False, device="cpu", precision=precision, image_size=224, views=8, steps=4
    )
    return synthesis.build(told, folder)


def move(holder: Any) -> None:
    """Move all tensors and modules that an object holds."""
    for name, value in vars(holder).items():
        if isinstance(value, nn.Module):
            pretended(value)
        elif isinstance(value, Tensor):
            setattr(holder, name, on_meta(value))
        elif isinstance(value, torch.device):
            setattr(holder, name, _META)


def count(setup: synthesis.Setup, images: int) -> dict[str, Any]:
    """Count the third step of a group."""
    readings, watched = [0], [0]
    generator, teacher, settings = setup.generators[0], setup.teacher, setup.settings.changed(group_size=images)
    real_tolist = Tensor.tolist

    def tolist(tensor: Tensor) -> Any:
        if tensor.device.type != "meta":
            return real_tolist(tensor)
        readings[0] += counting.is_on
        return torch.ones(tensor.shape).tolist()

    for holder in (generator, teacher):
        move(holder)
    decoder = getattr(generator, "network", None)
    if decoder is None:  # An earlier version held it in a closure.
        (decoder,) = (each.cell_contents for each in generator._decoder.__closure__ if _is_module(each))
        pretended(decoder)
    engine = engines.Synthesiser(teacher, [generator], on_meta(setup.vectors_CD), settings, _META)
    engine._at_once = images
    getattr(engines, "READ_EVERY", {})["meta"] = 16
    weights = {each.untyped_storage()._cdata for module in (teacher._model, decoder) for each in module.parameters()}
    counting, flops = Counting(weights), FlopCounterMode(display=False)

    def watch(x_N3HW: Tensor) -> None:
        watched[0] += 1
        counting.is_on = watched[0] == 2
        if watched[0] == 3:
            raise Enough

    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if counting.is_on and storage._cdata not in weights:
            kept[storage._cdata] = storage.nbytes()
        return tensor

    Tensor.tolist, torch.autocast = tolist, Autocast  # type: ignore[method-assign, misc, assignment]
    # So that what torch writes in Python is seen by its parts.
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        setattr(F, name, lambda *args: False)
    try:
        with flops, counting, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            engine.group(setup.group(images), watch)
    except Enough:
        pass
    finally:
        Tensor.tolist = real_tolist  # type: ignore[method-assign]
    matrix = {name for name in counting.operators if any(part in name for part in _MATRIX)}
    return {
        "operators": counting.operators.total(),
        "matrix_operators": sum(counting.operators[name] for name in matrix),
        "casts": counting.casts,
        "casts_of_weights": counting.casts_of_weights,
        "readings": readings[0],
        "bytes": counting.bytes.total(),
        "fused_bytes": sum(counting.bytes[name] for name in matrix),
        "kept_bytes": sum(kept.values()),
        "flops": flops.get_total_flops() / 3,  # Of three equal steps.
        "most_bytes": counting.bytes.most_common(12),
        "most_operators": counting.operators.most_common(12),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=32, help="of a group")
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--tflops", type=float, default=790.0, help="reachable matmul rate")
    parser.add_argument("--bandwidth", type=float, default=4.8, help="TB/s of memory")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        setup = models(args.precision, Path(folder))
    found = count(setup, args.images)
    arithmetic_s = found["flops"] / args.tflops / 1e12
    for name in ("bytes", "fused_bytes"):
        memory_s = found[name] / args.bandwidth / 1e12
        found[f"{name}_ms"] = 1000 * memory_s
        found[f"{name}_most_share"] = arithmetic_s / max(arithmetic_s, memory_s)
        found[f"{name}_share_if_one_after_the_other"] = arithmetic_s / (arithmetic_s + memory_s)
    found["arithmetic_ms"] = 1000 * arithmetic_s
    print("| counted | value |\n|---|---:|")
    for name, value in found.items():
        if not isinstance(value, list):
            print(f"| {name} | {value:,.2f} |" if isinstance(value, float) else f"| {name} | {value:,} |")
    for name in ("most_bytes", "most_operators"):
        print(f"\n{name}: " + ", ".join(f"{operator} {value:,}" for operator, value in found[name]))
    if args.json:
        write_json(args.json, found)


if __name__ == "__main__":
    main()
