"""Timings of the last hour, kept in the user's cache: whoever changes a class name plans again and need not wait."""

from __future__ import annotations

import platform
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ClipstillError
from clipstill.core.files import read_json, sha256_json, sweep, write_json
from clipstill.core.paths import cache_folder
from clipstill.core.progress import say
from clipstill.core.records import checked
from clipstill.planning.timings import Timings, measure

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.text.task import Task
    from clipstill.workflow.models import Models
    from clipstill.workflow.settings import Settings

# Other programs come and go, so older timings say little about now.
KEPT_S = 3600.0
_TIMED = ("teacher", "generator", "prompts", "synthesis", "student", "distillation", "deterministic")


def timings_of(
    settings: Settings, task: Task, models: Models, *, class_vectors_CD: Tensor, trains_all: bool, quiet: bool = False
) -> Timings:
    """The kept timings of the same models and settings on this machine, or ``measure``'s, which are kept then.

    Args:
        quiet: Whether to say nothing of it.
    """
    kept = None if models.built else _place(_key(settings, models, trains_all=trains_all))
    found = None if kept is None else _read(kept)
    if not quiet:
        say(f"plan: {'timing a few steps on' if found is None else 'with the timings of the last hour of'} this device")
    if found is None:
        found = measure(settings, task, models, class_vectors_CD=class_vectors_CD, trains_all=trains_all)
        if kept is not None:
            # A cache that cannot be written is no reason to stop.
            with suppress(ClipstillError, ValueError):
                sweep(kept.parent, KEPT_S)  # What killed processes left.
                write_json(kept, vars(found))
    return found


def _key(settings: Settings, models: Models, *, trains_all: bool) -> str:
    """Hash of all that makes a step slow; the classes do not."""
    import torch

    sections: dict[str, Any] = settings.model_dump(mode="json", include=set(_TIMED))
    gpu = torch.cuda.get_device_name(models.device) if models.device.type == "cuda" else ""
    machine = [platform.node(), str(models.device), gpu, torch.get_num_threads(), torch.__version__]
    return sha256_json([sections, models.teacher.weights_sha256, machine, trains_all])


def _place(key: str) -> Path | None:
    """None without a home folder."""
    try:
        return cache_folder() / "timings" / f"{key[:32]}.json"
    except (ClipstillError, RuntimeError):
        return None


def _read(path: Path) -> Timings | None:
    try:
        if abs(time.time() - path.stat().st_mtime) > KEPT_S:  # A clock that was set back says nothing of age.
            return None
        return checked(read_json(path), Timings, path)
    except (ClipstillError, OSError):
        return None
