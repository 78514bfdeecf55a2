"""Vectors of texts that are the same for every task, such as common words.

Shapes: M texts, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import ClipstillError
from clipstill.core.files import sha256_json, sweep
from clipstill.core.paths import cache_folder

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.workflow.settings import Settings

_ENCODED: dict[str, Tensor] = {}
_NAME, _HOUR_S = "vectors", 3600.0


def encode_once(teacher: Teacher, texts: Sequence[str], settings: Settings) -> Tensor:
    """Unit vectors (M, D) of texts, float32, on the CPU, encoded once in this process.

    Those of an embedded teacher are kept in the user's cache, under a key of all that may change a last bit. A file
    that is missing, damaged or of another key is made again.
    """
    import torch

    from clipstill.core.device import pick_device, precision_on
    from clipstill.core.tensors import tensor_digest, write_tensors
    from clipstill.teachers.embedded import EmbeddedTeacher

    device = pick_device(settings.device)
    machine = [torch.__version__, torch.get_num_threads(), torch.backends.cpu.get_cpu_capability(), device.type]
    key = sha256_json([teacher.weights_sha256, precision_on(device, settings.teacher.precision), machine, list(texts)])
    if key not in _ENCODED:
        path = _place(teacher.name, texts) if isinstance(teacher, EmbeddedTeacher) else None
        found = None if path is None else _kept(path, key)
        _ENCODED[key] = teacher.encode_text(texts).float().cpu() if found is None else found
        if path is not None and found is None:
            tensors = {_NAME: _ENCODED[key]}
            # A cache that cannot be written is no reason to stop.
            with suppress(ClipstillError, ValueError):
                sweep(path.parent, _HOUR_S)  # What killed processes left.
                write_tensors(path, tensors, {"key": key, "digest": tensor_digest(tensors)})
    return _ENCODED[key]


def _place(name: str, texts: Sequence[str]) -> Path | None:
    """One file for each teacher and list of texts; None without a home folder."""
    try:
        return cache_folder() / "texts" / f"{name}-{sha256_json(list(texts))[:16]}.safetensors"
    except (ClipstillError, RuntimeError):
        return None


def _kept(path: Path, key: str) -> Tensor | None:
    from clipstill.core.checkpoints import read_own_tensors
    from clipstill.core.tensors import tensor_digest

    try:
        found, metadata = read_own_tensors(path, "")
    except (ClipstillError, ValueError):
        return None
    return found[_NAME] if metadata == {"key": key, "digest": tensor_digest(found)} else None
