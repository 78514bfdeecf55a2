"""Functions that torch compiles for a GPU once they have run for a minute, with a way back where it cannot."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from clipstill.core.errors import is_out_of_memory, reason_of
from clipstill.core.progress import say

# A compiler takes a minute or two: short work ends before it would pay.
COMPILE_AFTER_S = 60.0

Result = TypeVar("Result")


class Compiled:
    """A function and its compiled form, which is made where and when it pays.

    Args:
        name: Name of the work for users.
        function: Function of tensors; it reads nothing else that changes.
        device: Device of its tensors.
        wanted: False leaves the function as it is.
    """

    def __init__(self, name: str, function: Callable[..., Any], device: torch.device, *, wanted: bool = True) -> None:
        self._name, self._function = name, function
        self._is_possible = wanted and can_compile(device)
        self._compiled: Callable[..., Any] | None = None
        self._began: float | None = None

    @property
    def is_due(self) -> bool:
        """Whether the next use takes the compiled function."""
        worked_s = 0.0 if self._began is None else time.monotonic() - self._began
        return self._is_possible and worked_s >= COMPILE_AFTER_S

    def run(self, work: Callable[[Callable[..., Any]], Result]) -> Result:
        """Do some work with the function or its compiled form. If that fails, say so once, and go on without it.

        The work includes the backward pass, which is compiled late.

        Raises:
            torch.OutOfMemoryError: The memory does not hold it.
        """
        if not self.is_due:
            self._began = self._began or time.monotonic()
            return work(self._function)
        try:
            self._compiled = self._compiled or torch.compile(self._function, dynamic=False)
            return work(self._compiled)
        except Exception as error:  # Compilers raise many kinds.
            if is_out_of_memory(error):
                raise
            reason = reason_of(error)
        self._is_possible = False
        say(f"{self._name}: going on without compiled kernels, which is slower ({reason})")
        return work(self._function)


def can_compile(device: torch.device) -> bool:
    """Whether compiled functions pay on a device. The deterministic mode keeps to torch's own kernels."""
    return device.type == "cuda" and not torch.are_deterministic_algorithms_enabled()
