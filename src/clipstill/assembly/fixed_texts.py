"""Vectors of texts that are the same for every task, such as common words.

Shapes: M texts, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipstill.core.files import sha256_json

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.workflow.settings import Settings

_ENCODED: dict[str, Tensor] = {}


def encode_once(teacher: Teacher, texts: Sequence[str], settings: Settings) -> Tensor:
    """Unit vectors (M, D) of texts, float32, on the CPU, encoded once in this process."""
    from clipstill.core.device import pick_device, precision_on

    device = pick_device(settings.device)
    precision = precision_on(device, settings.teacher.precision)
    key = sha256_json([teacher.weights_sha256, device.type, precision, list(texts)])
    if key not in _ENCODED:
        _ENCODED[key] = teacher.encode_text(texts).float().cpu()
    return _ENCODED[key]
