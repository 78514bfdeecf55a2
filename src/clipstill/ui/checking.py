"""What can be told of class names before anything is made: ``clipstill plan``, asked in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from clipstill.core.errors import ConfigError, ResourceError

TIMEOUT_S = 300.0
# Options of a run that say nothing of how it will go.
_NOT_PLANNED = ("--out", "--images")


def plan(run: Sequence[str]) -> dict[str, Any]:
    """What ``clipstill plan`` says of a run before it is started.

    A process of its own, because it loads a teacher, whose memory the run will need.

    Args:
        run: arguments of ``clipstill run``.

    Returns:
        ``classes``, ``findings`` (each with ``level``, ``kind``, ``classes``, ``message`` and ``advice``),
        ``expected_top1``, ``expected_per_class``, ``cost`` (with ``seconds`` and ``images``) and more.

    Raises:
        ConfigError: the plan refuses, in its own words.
        ResourceError: this version has no plan, or it took too long.
    """
    options = [
        part
        for option, value in zip(run[1::2], run[2::2], strict=True)
        if option not in _NOT_PLANNED
        for part in (option, value)
    ]
    command = [sys.executable, "-m", "clipstill", "plan", *options, "--json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ResourceError("the check takes too long on this machine. Start without it.") from None
    if done.returncode == 0:
        try:
            found = json.loads(done.stdout)
        except json.JSONDecodeError:
            found = None
        if isinstance(found, Mapping):
            return dict(found)
    if "No such command 'plan'" in done.stderr:
        raise ResourceError(
            "the names can be used. More cannot be told before the start: this version of clipstill has no plan."
        )
    said = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
    raise ConfigError(said[-1] if said else "the check gave no answer. Start without it.")
