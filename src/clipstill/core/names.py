"""Names of classes."""

from __future__ import annotations

import re
import unicodedata

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def spoken(name: str) -> str:
    """The name as in a sentence: underscores become spaces, and repeated spaces one."""
    return " ".join(name.replace("_", " ").split())


def class_key(name: str) -> str:
    """The class name without case, spaces, underscores and hyphens, for comparison with others."""
    return re.sub(r"[\s_\-]+", "", unicodedata.normalize("NFKC", name)).casefold()


def plain(text: str) -> str:
    """A text for a terminal: characters that are not plain become escapes."""
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in text)


def is_plain(text: str) -> bool:
    """Whether a terminal and a page show a text as it is.

    Not plain are control characters, halves of surrogate pairs, line separators, and marks that turn the direction of
    the text around them. Joiners of scripts and emoji are plain.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNS for letter in text)
