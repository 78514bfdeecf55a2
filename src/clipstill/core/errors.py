"""The errors a user may see. Each message says what is wrong, where (file, line, class name), and what to do.

The command line prints the message in one line without a traceback and exits with ``exit_code``. Characters of file
names that a terminal would obey, or that are not UTF-8, are escaped.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from clipstill.core.names import plain


class ClipstillError(Exception):
    """Base class of clipstill's own errors."""

    exit_code = 2

    def __init__(self, message: str = "") -> None:
        super().__init__(plain(message))


class TaskError(ClipstillError):
    """The class names or descriptions cannot be used."""


class ConfigError(ClipstillError):
    """A setting is unknown, malformed or contradicts another."""


class UnknownNameError(ClipstillError):
    """No part of that kind is registered under that name."""


class DataError(ClipstillError):
    """An image, a folder or a file given by the user cannot be read."""


class PictureTooLargeError(DataError):
    """A picture has more pixels than are decoded."""


class ArtifactError(ClipstillError):
    """A run folder, a stage, a checkpoint or a bundle is damaged, incomplete or of another kind."""


class ExportError(ClipstillError):
    """An exported model does not behave as the model it came from."""


class ResourceError(ClipstillError):
    """Disk, memory, device or an optional package is missing."""


class BusyError(ResourceError):
    """Another process of clipstill works on the folder."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``" Did you mean 'x'?"`` for the closest known name, or an empty string."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f" Did you mean '{close[0]}'?" if close else ""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory is exhausted. On the CPU torch raises a plain RuntimeError."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "DefaultCPUAllocator: can't allocate memory" in str(error))
    )


def reason_of(error: BaseException) -> str:
    """The first line of a library's error, or its class name if it has no text."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
