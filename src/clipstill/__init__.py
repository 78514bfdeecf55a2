"""Name your classes, get a small, fast, exportable image classifier distilled from CLIP, with no training data.

Example:
    >>> import clipstill
    >>> bundle = clipstill.customize(classes=["dog", "elephant", "giraffe"], out="runs/zoo")  # doctest: +SKIP
    >>> bundle.predict("photo.jpg")  # doctest: +SKIP

Nothing heavy is imported before one of the names below is used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipstill.api import add_class as add_class
    from clipstill.api import customize as customize
    from clipstill.api import load_bundle as load_bundle
    from clipstill.api import plan as plan
    from clipstill.api import remove_class as remove_class

__version__ = "0.1.0"
__all__ = ["__version__", "add_class", "customize", "load_bundle", "plan", "remove_class"]


def __getattr__(name: str) -> Any:
    if name in ("add_class", "customize", "load_bundle", "plan", "remove_class"):
        from clipstill import api

        return getattr(api, name)
    raise AttributeError(f"module 'clipstill' has no attribute '{name}'")
