"""Opens ONNX files on the CPU; only onnxruntime is needed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.cores import usable_cores
from clipstill.core.errors import ArtifactError, ResourceError, reason_of

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU; with 0 ``threads`` inside one operation, onnxruntime chooses their number.

    Threads that have nothing to do sleep at once: alone a photo takes as long, beside other work much less.

    Raises:
        ArtifactError: onnxruntime cannot run the file.
        ResourceError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ResourceError("onnxruntime is not installed; a bundle runs on it: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    cores = usable_cores()
    # Left to itself, onnxruntime counts the machine's cores and not the container's.
    options.intra_op_num_threads = threads or (cores if cores < (os.cpu_count() or 1) else 0)
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # Print fatal errors only; all others are raised.
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # The classes of onnxruntime's errors differ between versions.
        raise ArtifactError(
            f"{path} cannot be run by onnxruntime ({reason_of(error)}). Make the bundle again."
        ) from error
