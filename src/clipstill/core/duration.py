"""Reads durations."""

from __future__ import annotations

import math
import re

from clipstill.core.errors import ConfigError

_MINUTES = {"s": 1 / 60, "sec": 1 / 60, "min": 1.0, "m": 1.0, "": 1.0, "h": 60.0}
_PART = re.compile(r"\s*(\d+(?:\.\d+)?)\s*(sec|min|[smh]|(?![a-z]))\s*")


def minutes_of(value: object) -> float:
    """Minutes of a duration: ``"10min"``, ``"90 s"``, ``"1h30min"``, or a number of minutes.

    Raises:
        ConfigError: The value is no duration.
    """
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    text = value.lower() if isinstance(value, str) else ""
    parts = _PART.findall(text)
    if not parts or _PART.sub("", text):
        raise ConfigError(f"'{value}' is no duration. Write it like 10min, 90s or 1h30min.")
    return sum(float(number) * _MINUTES[unit] for number, unit in parts)


def budget_seconds(budget: str | None) -> float | None:
    """Seconds of a budget; None for none. ConfigError where it is no duration, or leaves no time."""
    if budget is None:
        return None
    minutes = minutes_of(budget)
    if minutes <= 0:
        raise ConfigError(f"the budget '{budget}' leaves no time. Write it like 10min, 90s or 1h30min.")
    return 60 * minutes
