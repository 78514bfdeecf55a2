"""Name your classes, get a small, fast, exportable image classifier distilled from CLIP, with no training data.

Example:
    >>> import clipstill
    >>> result = clipstill.distil(classes=["dog", "elephant", "giraffe"], out="runs/zoo")  # doctest: +SKIP
    >>> result.bundle.predict("photo.jpg")  # doctest: +SKIP

Nothing heavy is imported before one of the names below is used.
"""

# ruff: noqa: F403, F405 - type checkers find the names of ``__all__`` through the star imports.
from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipstill.api import *
    from clipstill.core.errors import *
    from clipstill.core.progress import ProgressEvent
    from clipstill.runtime import Bundle, Prediction, load_bundle

__version__ = "0.1.0"
__all__ = [
    "ArtifactError",
    "Bundle",
    "ClipstillError",
    "ConfigError",
    "DataError",
    "ExportError",
    "Prediction",
    "ProgressEvent",
    "ResourceError",
    "RunOptions",
    "TaskError",
    "UnknownNameError",
    "__version__",
    "add_class",
    "distil",
    "evaluate",
    "export_formats",
    "fine_tune",
    "ladder",
    "load_bundle",
    "plan",
    "remove_class",
    "zero_shot",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in ("core.errors", "core.progress", "api", "runtime"):
            place = import_module(f"clipstill.{module}")
            if hasattr(place, name):
                return getattr(place, name)
    raise AttributeError(f"module 'clipstill' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
