"""ONNX graphs of the networks that a default run exports, without weights (``clipstill.export.stored_graphs``)."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch.nn.functional import normalize

from clipstill.assembly.students import new_student
from clipstill.assembly.zero_shot import zero_shot_student
from clipstill.core.lite_network import IMAGENET_CLASSES
from clipstill.core.packaged_weights import TOWERS
from clipstill.export.format import deployed_copy
from clipstill.export.onnx import traced_graph
from clipstill.export.stored_graphs import CLASSES, SOURCES, TRANSPOSED, signature, state_of, weight_of
from clipstill.students.student import FirstHead
from clipstill.teachers import load_teacher
from clipstill.workflow.settings import Settings

if TYPE_CHECKING:
    from clipstill.students.student import Student

# Elements of the largest constant that is no weight.
_MOST = 4096


def default_students(classes: int) -> Iterator[Student]:
    """The default's student, and each embedded teacher with stored vectors, all with heads of random values.

    A student whose class names are no English has no answers of ImageNet's classifier.
    """
    for answers_CK in (torch.randn(classes, IMAGENET_CLASSES), None):
        student = new_student(Settings().student, classes, "pretrained", 0)
        # The exporter leaves a bias of zeros out.
        student.begin_with(FirstHead(torch.randn(classes, student.head.in_features), torch.randn(classes), answers_CK))
        yield student
    for name in TOWERS:
        teacher = load_teacher(name, torch.device("cpu"))
        yield zero_shot_student(teacher, normalize(torch.randn(classes, teacher.dim), dim=1))


def build_graphs(out: Path) -> None:
    """Write one file a network into ``out/graphs``, in place of those that were there."""
    folder = out / "graphs"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for student in default_students(CLASSES):
        model, size = deployed_copy(student), student.preprocess.size
        path = folder / f"{signature(model, size)}.onnx"
        path.write_bytes(without_weights(traced_graph(model, size), model).SerializeToString(deterministic=True))
        print(f"{student.name}: {path.name}, {path.stat().st_size} bytes")


def without_weights(proto: Any, model: torch.nn.Module) -> Any:
    """The graph without the values of ``model``'s state; constants stay.

    Raises:
        ValueError: A large constant is neither a tensor of the state nor one with a BatchNorm folded in.
    """
    sources = {}
    for item in proto.graph.initializer:
        values = numpy_helper.to_array(item)
        found = _sources(item.name, values, model)
        if found:
            sources[item.name] = found
            item.CopyFrom(onnx.TensorProto(name=item.name))
        elif values.size > _MOST:
            raise ValueError(f"{item.name} {values.shape} is no weight of the network")
    proto.metadata_props.add(key=SOURCES, value=json.dumps(sources))
    return proto


def _sources(name: str, values: np.ndarray, model: torch.nn.Module) -> list[str] | None:
    """The tensor whose values these are, or the convolution and its BatchNorm; None for a constant of the graph."""
    state, convolution = state_of(model), name.removesuffix("_bias").removesuffix(".weight")
    norms = [each for each, module in model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)]
    candidates = [[name]]
    if values.ndim:  # A number may equal another by chance.
        candidates += [*([each] for each in state), *([each, TRANSPOSED] for each in state)]
    candidates += [[convolution, norm] for norm in norms if f"{convolution}.weight" in state]
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    for one in candidates:
        fits = shapes.get(one[0]) in (values.shape, values.shape[::-1]) or (
            one[-1] in norms and shapes[f"{one[1]}.weight"] == values.shape[:1]
        )
        if fits and np.array_equal(weight_of(model, state, name, one), values):
            return one
    return None
