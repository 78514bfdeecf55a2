"""The student as a program of ``torch.export`` (.pt2): for C++ and Python without the student's source code.

``torch.export.load`` opens it, and PyTorch's compilers take it. The archive holds a graph in JSON and plain bytes of
weights; nothing is pickled.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstill.core.cores import usable_cores
from clipstill.core.protocols import Size, height_and_width
from clipstill.export.format import Format, Model, Source, deployed_copy

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
                    return np.asarray(module(torch.from_numpy(x_N3HW)).numpy())
            finally:
                torch.set_num_threads(before)

        return model


def exported_program(student: nn.Module, size: Size, any_number: bool) -> ExportedProgram:
    """Trace a copy of a student, with its branches fused, for any number of images, or for one."""
    import torch

    # Two images where the number is free, because a dimension of 1 would become a constant.
    example = torch.zeros(2 if any_number else 1, 3, *height_and_width(size))
    shapes = ({0: torch.export.Dim("batch")},) if any_number else None
    program = torch.export.export(deployed_copy(student), (example,), dynamic_shapes=shapes)
    # The archive would also hold pickled example pictures, and stack traces with paths of this machine.
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
