"""Durations as people write them."""

from __future__ import annotations

import pytest

from clipstill.core.duration import minutes_of
from clipstill.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "minutes"),
    [("10min", 10), ("90 s", 1.5), ("1h30min", 90), ("1.5h", 90), ("2", 2), (0, 0), (7.5, 7.5), ("1 H 30 S", 60.5)],
)
def test_what_people_write_is_understood(text: object, minutes: float) -> None:
    assert minutes_of(text) == pytest.approx(minutes)


@pytest.mark.parametrize("text", ["", "soon", "10 parsecs", "-5min", "5min!", None, True, float("nan")])
def test_everything_else_is_told_how_to_write_it(text: object) -> None:
    with pytest.raises(ConfigError, match="10min, 90s or 1h30min"):
        minutes_of(text)
