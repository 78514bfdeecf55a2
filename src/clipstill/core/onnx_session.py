"""Opens ONNX files on the CPU; only onnxruntime is needed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import ArtifactError, ResourceError, reason_of

if TYPE_CHECKING:
    import onnxruntime


def open_session(path: Path, threads: int = 0) -> onnxruntime.InferenceSession:
    """Open an ONNX file on the CPU; with 0 ``threads`` inside one operation, onnxruntime chooses their number.

    Raises:
        ArtifactError: onnxruntime cannot run the file.
        ResourceError: onnxruntime is not installed.
    """
    try:
        import onnxruntime
    except ImportError:
        raise ResourceError("onnxruntime is not installed; a bundle runs on it: pip install onnxruntime") from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # Print fatal errors only; all others are raised.
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # The classes of onnxruntime's errors differ between versions.
        raise ArtifactError(
            f"{path} cannot be run by onnxruntime ({reason_of(error)}). Make the bundle again."
        ) from error
