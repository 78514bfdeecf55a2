"""What an export format is, and what it is written from.

Shapes: N images, C classes, H = W = ``size``; float32 RGB in [0, 1].
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from clipstill.core.errors import ResourceError

if TYPE_CHECKING:
    from torch import nn

# Images (N, 3, H, W) -> logits (N, C), any N.
Model = Callable[[np.ndarray], np.ndarray]


def _no_images() -> np.ndarray:
    return np.zeros((0, 3, 1, 1), dtype=np.float32)


@dataclass(frozen=True)
class Source:
    """What every format is written from.

    Attributes:
        student: maps images in [0, 1] to logits; normalises by itself; on the CPU, in evaluation mode.
        size: height and width in pixels.
        onnx: the student as float32 ONNX, which has passed the parity gate.
        calibration_N3HW: pictures like those in use, from which int8 learns its ranges; may be none.
    """

    student: nn.Module
    size: int
    onnx: Path
    calibration_N3HW: np.ndarray = field(default_factory=_no_images)


class Format(Protocol):
    """One way to store a student.

    Attributes:
        name: as ``clipstill list formats`` shows it.
        files: names in a bundle; the first is the one that is opened.
        exact: it computes in float32, so that logits must agree; otherwise answers must.
        calibrated: it needs pictures.
    """

    name: str
    files: tuple[str, ...]
    exact: bool
    calibrated: bool

    def check(self) -> None:
        """Look for what the format needs, before any work.

        Raises:
            ResourceError: a package is not installed.
        """

    def write(self, source: Source, folder: Path) -> None:
        """Write ``files`` into a folder.

        Raises:
            ExportError: the student cannot be written so.
        """

    def open(self, path: Path, threads: int = 0) -> Model:
        """Make a written file ready to answer.

        Args:
            path: the first of ``files``.
            threads: CPU threads; 0 lets the library choose.

        Raises:
            ExportError: the file cannot be opened.
        """


def all_cores() -> int:
    """CPU cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def reason_of(error: Exception) -> str:
    """The first line of what a library says, or the kind of its error where it says nothing."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def need(package: str, extra: str) -> None:
    """Look for an optional package without importing it.

    Raises:
        ResourceError: it is not installed; says how to get it.
    """
    from importlib.util import find_spec

    if find_spec(package) is None:
        raise ResourceError(
            f"the format '{extra}' needs the package {package}, which is not installed: "
            f"pip install 'clipstill[{extra}]'"
        )
