"""Names of classes."""

from __future__ import annotations

import unicodedata

_TURNS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def spoken(name: str) -> str:
    """As it stands in a sentence: underscores are spaces, and one space is enough."""
    return " ".join(name.replace("_", " ").split())


def plain(text: str) -> str:
    """A text with escapes in place of what is not plain, for a terminal."""
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in text)


def is_plain(text: str) -> bool:
    """Whether a terminal and a page show a text as it stands.

    That is: no control character, which a terminal would obey, no half of a surrogate pair, which cannot be written as
    UTF-8, no line separator, and nothing that turns the direction of the text around it. Joiners of scripts and emoji
    are plain.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _TURNS for letter in text)
