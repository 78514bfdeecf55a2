"""The student as a program of ``torch.export`` (.pt2): for C++ and Python without the student's source code.

It opens with ``torch.export.load``, or goes on to AOTInductor, ExecuTorch and other compilers of PyTorch. The archive
holds a graph in JSON and plain bytes of weights, nothing that is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstill.core.device import usable_cores
from clipstill.export.format import Format, Model, Source, frozen_copy

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


class TorchProgram(Format):
    """float32, any number of pictures."""

    name = "torch"
    files = ("model.pt2",)

    def _write(self, source: Source, folder: Path) -> None:
        import torch

        program = exported_program(source.student, source.size, any_number=True)
        torch.export.save(program, folder / self.files[0])

    def _open(self, path: Path, threads: int) -> Model:
        import torch

        module = torch.export.load(path).module()
        wanted = threads or usable_cores()

        def model(x_N3HW: np.ndarray) -> np.ndarray:
            before = torch.get_num_threads()
            torch.set_num_threads(wanted)
            try:
                with torch.inference_mode():
                    logits_NC = module(torch.from_numpy(np.ascontiguousarray(x_N3HW, dtype=np.float32)))
            finally:
                torch.set_num_threads(before)
            return np.asarray(logits_NC.numpy())

        return model


def exported_program(student: nn.Module, size: int, any_number: bool) -> ExportedProgram:
    """Trace a copy of a student.

    Args:
        student: Maps (N, 3, H, W) in [0, 1] to logits (N, C).
        size: Height and width of the input in pixels.
        any_number: Whether N is free; otherwise it is 1.
    """
    import torch

    # Two images, not one, where the number is free: a dimension of 1 would be taken for a constant.
    example = torch.zeros(2 if any_number else 1, 3, size, size)
    shapes = ({0: torch.export.Dim("batch")},) if any_number else None
    program = torch.export.export(frozen_copy(student), (example,), dynamic_shapes=shapes)
    # They would be stored as well: pickled example pictures, and stack traces with the paths of this machine.
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
