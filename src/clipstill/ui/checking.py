"""The button that checks names: ``clipstill plan`` in a process of its own, because it loads a teacher."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from clipstill.core.errors import ConfigError, ResourceError

TIMEOUT_S = 300.0
# Options of a run that say nothing of how it will go.
_NOT_PLANNED = ("--out", "--images")


def plan(run: Sequence[str]) -> dict[str, Any]:
    """What ``clipstill plan`` says of a run before it is started.

    Args:
        run: Arguments of ``clipstill run``.

    Returns:
        JSON values of ``planning.plan.Plan``.

    Raises:
        ConfigError: The plan refuses, in its own words.
        ResourceError: The plan took too long.
    """
    pairs = zip(run[1::2], run[2::2], strict=True)
    options = [part for pair in pairs if pair[0] not in _NOT_PLANNED for part in pair]
    command = [sys.executable, "-m", "clipstill", "plan", *options, "--json"]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        raise ResourceError("the check takes too long on this machine. Start without it.") from None
    if done.returncode == 0:
        return dict(json.loads(done.stdout))
    lines = [line.removeprefix("error: ") for line in done.stderr.splitlines() if line.strip()]
    raise ConfigError(lines[-1] if lines else "the check gave no answer. Start without it.")
