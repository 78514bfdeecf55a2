"""Which licence the publisher of a model's folder states."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

UNKNOWN = "unknown"
# Model cards begin with YAML between two lines of dashes.
_FRONT_MATTER = re.compile(r"\A---\s*\n(.*?)\n---\s*(\n|\Z)", re.DOTALL)
# First words of licence texts, as their authors ask to reproduce them.
_TEXTS = {
    "MIT": "mit license",
    "Apache-2.0": "apache license version 2.0",
    "GPL-3.0-only": "gnu general public license version 3",
}


def licence_of(folder: Path) -> str:
    """The licence of a model: from the metadata of its ``README.md``, or else from a well-known ``LICENSE`` text.

    Args:
        folder: beside the weights.

    Returns:
        What the card says, such as ``"mit"`` or ``"creativeml-openrail-m"``; an SPDX identifier for a licence text;
        ``"unknown"`` where neither says.
    """
    return _from_card(folder / "README.md") or _from_text(folder / "LICENSE") or UNKNOWN


def _from_card(path: Path) -> str:
    matter = _FRONT_MATTER.match(_read(path))
    try:
        facts = yaml.safe_load(matter.group(1)) if matter else None
    except yaml.YAMLError:
        return ""
    if not isinstance(facts, dict):
        return ""
    licence = facts.get("license")
    if isinstance(licence, list):
        return " AND ".join(str(part) for part in licence)
    # "other" says only that the name stands in another field.
    name = facts.get("license_name") if licence in (None, "other") else licence
    return str(name) if name else ""


def _from_text(path: Path) -> str:
    words = " ".join(_read(path)[:400].lower().replace(",", " ").split())
    return next((name for name, start in _TEXTS.items() if start in words), "")


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig", errors="replace").replace("\r\n", "\n")
    except OSError:
        return ""
