"""The student as an ExecuTorch program (.pte) for phones and small boards, its convolutions handed to XNNPACK.

It takes one picture at a time: on a device there is one, and its memory is planned for no more.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np

from clipstill.core.errors import ExportError
from clipstill.export.format import Model, Source, all_cores, need, reason_of
from clipstill.export.torch_program import exported_program


class ExecuTorch:
    """float32 on the CPU."""

    name = "executorch"
    files = ("model.pte",)
    exact = True
    calibrated = False

    def check(self) -> None:
        """Look for the package."""
        need("executorch", self.name)

    def write(self, source: Source, folder: Path) -> None:
        """Trace the student and lower it.

        Raises:
            ExportError: ExecuTorch cannot lower it.
        """
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
                from executorch.exir import to_edge_transform_and_lower

                program = exported_program(source.student, source.size, any_number=False)
                lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        except Exception as error:  # also an ImportError, where it was built for another torch
            raise ExportError(
                f"the student cannot be written for ExecuTorch: {reason_of(error)}. Its releases fit few releases of "
                f"torch: compare pip show executorch torch"
            ) from error
        (folder / self.files[0]).write_bytes(lowered.buffer)

    def open(self, path: Path, threads: int = 0) -> Model:
        """Load the program; the threads are those of the whole process.

        Raises:
            ExportError: ExecuTorch cannot open it.
        """
        try:
            import torch
            from executorch.extension.pybindings import portable_lib
            from executorch.runtime import Runtime

            method = Runtime.get().load_program(path).load_method("forward")
        except Exception as error:  # as above
            raise ExportError(
                f"ExecuTorch cannot open {path} ({reason_of(error)}). Export the student again."
            ) from error
        wanted = threads or all_cores()

        def model(image_N3HW: np.ndarray) -> np.ndarray:
            if portable_lib._threadpool_get_thread_count() != wanted:
                portable_lib._unsafe_reset_threadpool(wanted)
            images = torch.from_numpy(np.ascontiguousarray(image_N3HW, dtype=np.float32))
            # Copied, because the next call writes into the same memory.
            return np.concatenate([method.execute((images[i : i + 1],))[0].numpy().copy() for i in range(len(images))])

        return model
