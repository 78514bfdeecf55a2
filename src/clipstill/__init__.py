"""Name your classes, get a small, fast, exportable image classifier distilled from CLIP, with no training data.

Example:
    >>> import clipstill
    >>> result = clipstill.distil(classes=["dog", "elephant", "giraffe"], out="runs/zoo")  # doctest: +SKIP
    >>> result.bundle.predict("photo.jpg")  # doctest: +SKIP

Nothing heavy is imported before one of the names below is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipstill.api import ArtifactError as ArtifactError
    from clipstill.api import Bundle as Bundle
    from clipstill.api import ClipstillError as ClipstillError
    from clipstill.api import ConfigError as ConfigError
    from clipstill.api import DataError as DataError
    from clipstill.api import ExportError as ExportError
    from clipstill.api import Prediction as Prediction
    from clipstill.api import ProgressEvent as ProgressEvent
    from clipstill.api import ResourceError as ResourceError
    from clipstill.api import RunOptions as RunOptions
    from clipstill.api import TaskError as TaskError
    from clipstill.api import UnknownNameError as UnknownNameError
    from clipstill.api import add_class as add_class
    from clipstill.api import distil as distil
    from clipstill.api import evaluate as evaluate
    from clipstill.api import export_formats as export_formats
    from clipstill.api import fine_tune as fine_tune
    from clipstill.api import ladder as ladder
    from clipstill.api import load_bundle as load_bundle
    from clipstill.api import plan as plan
    from clipstill.api import remove_class as remove_class
    from clipstill.api import zero_shot as zero_shot

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
        from clipstill import api

        return getattr(api, name)
    raise AttributeError(f"module 'clipstill' has no attribute '{name}'")


def __dir__() -> list[str]:
    return __all__
