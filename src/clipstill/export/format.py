"""What an export format is. Shapes: N images, C classes, H x W pixels; float32 RGB in [0, 1]."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import io
import logging
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstill.core.errors import ClipstillError, ExportError, ResourceError, reason_of

if TYPE_CHECKING:
    from torch import nn

    from clipstill.core.protocols import Size

# Maps images (N, 3, H, W) to logits (N, C), any N.
Model = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Source:
    """What every format is written from."""

    student: nn.Module  # Maps images in [0, 1] to logits; normalises by itself.
    size: Size  # Of the input in pixels.
    onnx: Path  # The student as float32 ONNX, after the parity check.
    calibration_N3HW: np.ndarray  # Typical pictures for the ranges of int8; may be empty.


@contextlib.contextmanager
def exporting(name: str, advice: str) -> Iterator[None]:
    """Raise an exporter's errors as ``ExportError`` with the name of the format and advice."""
    try:
        with warnings.catch_warnings():
            # Exporters warn about their own internals; the comparison with the student decides what matters.
            warnings.simplefilter("ignore")
            yield
    except (ClipstillError, OSError):
        raise
    except Exception as error:  # Each exporter raises kinds of its own.
        reason = reason_of(error.__cause__ or error).rstrip(".")  # torch puts its own advice around the cause.
        raise ExportError(f"the student cannot be written as {name}: {reason}. {advice}".strip()) from error


@contextlib.contextmanager
def silent() -> Iterator[None]:
    """Silence converters that write to the root logger, to standard output or to standard error."""
    before = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            yield
    finally:
        logging.disable(before)


class Format(ABC):
    """One way to store a student."""

    name: str  # Name in ``clipstill list formats``.
    files: tuple[str, ...]  # File names in a bundle; the first one is opened.
    packages: tuple[str, ...] = ()  # Optional ones, in the extra of clipstill that has the format's name.
    advice = ""  # Last sentence of the message when writing fails.
    exact = True  # Whether it computes in float32, so that logits must agree; otherwise only answers must.
    calibrated = False  # Whether it needs calibration pictures.

    def check(self) -> None:
        """Look for the optional packages without importing them.

        Raises:
            ResourceError: One is not installed.
        """
        for package in self.packages:
            if importlib.util.find_spec(package) is None:
                raise ResourceError(
                    f"the format '{self.name}' needs the package {package}, which is not installed: "
                    f"pip install 'clipstill[{self.name}]'"
                )

    def not_run_here(self) -> str | None:
        """Why this machine writes the files but cannot run them, or None."""
        return None

    def write(self, source: Source, folder: Path) -> None:
        """Write ``files`` into a folder.

        Raises:
            ExportError: The student cannot be written in this format.
        """
        with exporting(self.name, self.advice):
            self._write(source, folder)

    def open(self, path: Path, threads: int = 0) -> Model:
        """Load the first of ``files``; with 0 threads the library chooses their number.

        Raises:
            ExportError: The file cannot be opened.
        """
        try:
            model = self._open(path, threads)
        except Exception as error:  # Each library raises kinds of its own.
            raise ExportError(
                f"{path} cannot be opened as {self.name} ({reason_of(error)}). Export the student again."
            ) from error
        return lambda x_N3HW: model(np.ascontiguousarray(x_N3HW, dtype=np.float32))

    @abstractmethod
    def _write(self, source: Source, folder: Path) -> None: ...

    @abstractmethod
    def _open(self, path: Path, threads: int) -> Model:
        """A model that is called with contiguous float32 only."""


def one_at_a_time(model: Model) -> Model:
    """A model for any number of images from one that takes a single image (1, 3, H, W)."""
    return lambda x_N3HW: np.concatenate([model(x_N3HW[i : i + 1]) for i in range(len(x_N3HW))])


def frozen(student: nn.Module) -> nn.Module:
    """The student if it is float32, on the CPU, in evaluation mode and without gradients; else a copy that is."""
    import torch

    is_frozen = all(
        each.device.type == "cpu" and not each.requires_grad and each.dtype in (torch.float32, torch.int64)
        for each in (*student.parameters(), *student.buffers())
    )
    if is_frozen and not any(module.training for module in student.modules()):
        return student
    return copy.deepcopy(student).cpu().float().eval().requires_grad_(False)


def deployed_copy(student: nn.Module) -> nn.Module:
    """A ``frozen`` copy whose parallel branches, where timm knows how, are fused: fewer layers, the same function."""
    from timm.utils.model import reparameterize_model

    fused: nn.Module = reparameterize_model(frozen(student))
    return fused.eval().requires_grad_(False)
