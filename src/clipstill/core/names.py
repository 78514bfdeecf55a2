"""Forms of class names, and names of files as text."""

from __future__ import annotations

import re
import unicodedata
from pathlib import PurePath

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def spoken(name: str) -> str:
    """The name as in a sentence: underscores become spaces, repeated spaces one space."""
    return " ".join(name.replace("_", " ").split())


def class_key(name: str) -> str:
    """The name without case, spaces, underscores and hyphens; equal keys count as the same class."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name)).casefold()


def plain(text: str | PurePath) -> str:
    """A text or a path as it is printed and stored: characters that are not plain are escaped, so that it is UTF-8."""
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in str(text))


def is_plain(text: str) -> bool:
    """Whether a text has no control characters, halves of surrogate pairs, line separators or marks of direction.

    Those would change how a terminal or a page shows the text around them. Joiners of scripts and emoji are plain.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNS for letter in text)
