"""How many CPU cores there are to use; only the standard library is needed."""

from __future__ import annotations

import math
import os
from pathlib import Path

_CONTAINER_CORES = Path("/sys/fs/cgroup/cpu.max")  # Microseconds of processor time, and in how many.


def usable_cores() -> int:
    """CPU cores that this process may use, by its affinity and by the quota of its container."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = _CONTAINER_CORES.read_text(encoding="ascii").split()
        return min(cores, max(1, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError):  # No container, or one without a quota, which says "max".
        return cores
