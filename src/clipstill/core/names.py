"""Names of classes."""

from __future__ import annotations


def spoken(name: str) -> str:
    """As it stands in a sentence: underscores are spaces, and one space is enough."""
    return " ".join(name.replace("_", " ").split())
