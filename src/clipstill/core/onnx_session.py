"""ONNX files on the CPU: the one way in which models are opened. Only onnxruntime is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import ArtifactError, ResourceError, reason_of

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU.

    Args:
        path: The ONNX file.
        threads: Threads inside one operation; 0 lets onnxruntime choose.

    Raises:
        ArtifactError: The file is no model that onnxruntime can run.
        ResourceError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ResourceError("onnxruntime is not installed; a bundle runs on it: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Print fatal errors only: all others are raised, and shown in one line.
    options.log_severity_level = 4
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's own kinds differ between versions
        raise ArtifactError(
            f"{path} cannot be run by onnxruntime ({reason_of(error)}). Make the bundle again."
        ) from error
