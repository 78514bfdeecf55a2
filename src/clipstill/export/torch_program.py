"""The student as a program of ``torch.export`` (.pt2): for C++ and Python without the student's source code.

It opens with ``torch.export.load``, or goes on to AOTInductor, ExecuTorch and other compilers of PyTorch. The archive
holds a graph in JSON and plain bytes of weights, nothing that is pickled.
"""

from __future__ import annotations

import copy
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.export.format import Model, Source, all_cores, reason_of

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram


class TorchProgram:
    """float32, any number of pictures."""

    name = "torch"
    files = ("model.pt2",)
    exact = True
    calibrated = False

    def check(self) -> None:
        """Nothing is missing: clipstill depends on torch itself."""

    def write(self, source: Source, folder: Path) -> None:
        """Trace the student and store the program.

        Raises:
            ExportError: torch cannot trace it.
        """
        import torch

        try:
            program = exported_program(source.student, source.size, any_number=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                torch.export.save(program, folder / self.files[0])
        except Exception as error:  # the tracer raises a dozen private kinds
            raise ExportError(f"the student cannot be written by torch.export: {reason_of(error)}") from error

    def open(self, path: Path, threads: int = 0) -> Model:
        """Load the program; it sets torch's threads for the time of each call.

        Raises:
            ExportError: torch cannot open it.
        """
        import torch

        try:
            module = torch.export.load(path).module()
        except Exception as error:  # as above
            raise ExportError(f"torch cannot open {path} ({reason_of(error)}). Export the student again.") from error
        wanted = threads or all_cores()

        def model(image_N3HW: np.ndarray) -> np.ndarray:
            before = torch.get_num_threads()
            torch.set_num_threads(wanted)
            try:
                with torch.inference_mode():
                    logits_NC = module(torch.from_numpy(np.ascontiguousarray(image_N3HW, dtype=np.float32)))
            finally:
                torch.set_num_threads(before)
            return np.asarray(logits_NC.numpy())

        return model


def exported_program(student: nn.Module, size: int, any_number: bool) -> ExportedProgram:
    """Trace a copy of a student.

    Args:
        student: maps (N, 3, H, W) in [0, 1] to logits (N, C).
        size: height and width of the input, in pixels.
        any_number: of pictures; otherwise one at a time.
    """
    import torch

    model = copy.deepcopy(student).cpu().float().eval().requires_grad_(False)
    # Two images, not one, where the number shall stay open: a dimension of 1 would be taken for a constant.
    example = torch.zeros(2 if any_number else 1, 3, size, size)
    shapes = ({0: torch.export.Dim("batch")},) if any_number else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    # They would be stored as well: pickled example pictures, and stack traces with the paths of this machine.
    program.example_inputs = None
    for module in program.graph_module.modules():
        if isinstance(module, torch.fx.GraphModule):
            for node in module.graph.nodes:
                node.meta.pop("stack_trace", None)
    return program
