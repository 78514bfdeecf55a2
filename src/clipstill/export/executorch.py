"""The student as an ExecuTorch program (.pte) for phones and small boards; XNNPACK computes its convolutions.

It takes one picture at a time, because memory is planned ahead.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from clipstill.core.cores import usable_cores
from clipstill.export.format import Format, Model, Source, one_at_a_time
from clipstill.export.torch_program import exported_program


class ExecuTorch(Format):
    """float32 on the CPU."""

    name = "executorch"
    packages = ("executorch",)
    files = ("model.pte",)
    advice = "Each release of executorch works with few releases of torch: compare pip show executorch torch"

    def _write(self, source: Source, folder: Path) -> None:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        program = exported_program(source.student, source.size, any_number=False)
        lowered = to_edge_transform_and_lower(program, partitioner=[XnnpackPartitioner()]).to_executorch()
        (folder / self.files[0]).write_bytes(lowered.buffer)

    def _open(self, path: Path, threads: int) -> Model:
        import torch
        from executorch.extension.pybindings import portable_lib
        from executorch.runtime import Runtime

        method = Runtime.get().load_program(path).load_method("forward")
        wanted = threads or usable_cores()

        def model(x_13HW: np.ndarray) -> np.ndarray:
            # The thread pool belongs to the whole process.
            if portable_lib._threadpool_get_thread_count() != wanted:
                portable_lib._unsafe_reset_threadpool(wanted)
            # Copied, because the next call writes into the same memory.
            return np.array(method.execute((torch.from_numpy(x_13HW),))[0].numpy())

        return one_at_a_time(model)
