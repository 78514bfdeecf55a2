"""Name your classes, get a small, fast, exportable image classifier distilled from CLIP, with no training data.

Example:
    >>> import clipstill
    >>> result = clipstill.distil(classes=["dog", "elephant", "giraffe"], out="runs/zoo")  # doctest: +SKIP
    >>> result.bundle.predict("photo.jpg")  # doctest: +SKIP

The names of ``clipstill.api`` are looked up on first use, so that ``import clipstill`` is quick.
"""

from __future__ import annotations

import os
from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clipstill.api import *  # noqa: F403

__version__ = "0.1.0"

# How long OpenMP's threads wait busily for more work, of GCC in turns and of LLVM and Intel in milliseconds. By default
# they hold the cores that another process needs. torch reads this when it is loaded, and child processes inherit it.
os.environ.setdefault("GOMP_SPINCOUNT", "2000")
os.environ.setdefault("KMP_BLOCKTIME", "1")


def __getattr__(name: str) -> Any:
    # Subpackages are left to the import system: the runtime must load without the packages that the api needs.
    if find_spec(f"clipstill.{name}") is None:
        api = import_module("clipstill.api")
        if name in ("__all__", *api.__all__):
            return getattr(api, name)
    raise AttributeError(f"module 'clipstill' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*import_module("clipstill.api").__all__, "__version__"]
