"""Numbers that the published code of others gave on tiny models; the recipe in each file says how they were made."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from clipstill.core.files import read_json


def golden(name: str) -> Any:
    return read_json(Path(__file__).parents[1] / "golden" / f"{name}.json")
