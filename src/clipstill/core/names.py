"""Forms of class names, folders that are named after classes, and names of files as text."""

from __future__ import annotations

import difflib
import functools
import gzip
import importlib.util
import itertools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath
from urllib.parse import unquote

# Spaces without width, soft hyphens, marks of byte order and of direction, which come along with a copied text.
UNSEEN = "\u00ad\u061c\u200b\u200e\u200f\u2060\ufeff"
_HIDDEN = frozenset(UNSEEN + "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


NONE_OF_THESE = "none of these"  # What a classifier says of a photo that it refuses.
_WORDNET_ID = re.compile(r"^n\d{8}[\s_.-]+(?=\w)")
# A number before a name counts the classes if it has leading zeros or a dot after it: "01_school_bus", "12.beer-mug".
# Others are part of the name: "18_wheeler", "20_euro".
_COUNTER = re.compile(r"^(?:0\d*[_.-]|\d+\.)(?=[^\W\d_])")
# What tells classes of one name apart.
_ORDINAL = re.compile(r"(?<=\S) \((?:[2-9]|[1-9]\d)\)$")
# Characters that the name of no folder holds on some system; programs write an underscore instead, or leave them out.
_NO_FOLDER = re.compile(r'[/\\:*?"<>|]')
_DOT = re.compile(r"(?<=[^\W\d_]{2})\.(?=[^\W\d_]{2})")
_MERGES = 48_894  # The file has more, which no CLIP was trained with.
# An "a" before a vowel that is heard, not as in "a unicorn", nor where "a" is a letter as in "plan a and b".
_A = re.compile(
    r"\b(a) (?!(?:and|as|at|if|in|is|it|of|on|or|over|under|until|us)(?![\w-]))"
    r"(?!one\b|once|eu|ewe|uni(?!n|d|m)|uk|us[abeu]|ut[ei]|ur[aeio])(?=[aeiou]|hour|honest|heir|x-?ray)",
    re.IGNORECASE,
)
_HUMP = re.compile(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]{2})")


def spoken(name: str) -> str:
    """The name as in a sentence: its words with one space between them.

    Underscores become spaces. A name without spaces may be an identifier: ``GoldenRetriever``, ``school.bus`` and
    ``01_school_bus`` are split into words too, and lose a number that counts classes. So does ``missile (2)``.
    """
    name = _ORDINAL.sub("", _WORDNET_ID.sub("", name.strip()))
    if " " not in name:
        name = _DOT.sub(" ", _COUNTER.sub("", name))
    words = name.replace("_", " ").split()
    return _humps(words[0]) if len(words) == 1 else " ".join(words)


def with_articles(text: str) -> str:
    """A text with "an" where it says "a" before a vowel; prompts keep the "a" of the published sentences.

    Example:
        >>> with_articles("a photo of a elephant")
        'a photo of an elephant'
    """
    return _A.sub(r"\1n ", text)


def _humps(word: str) -> str:
    """The words of ``GoldenRetriever``; ``iPhone``, ``McDonald``, ``YouTube``, ``USB-C`` and ``DVDs`` are one word."""
    parts = _HUMP.split(word) if word.isalpha() and word.isascii() else [word]
    first, last = parts[0], parts[-1]
    # Short parts are parts of brands and surnames more often than words.
    is_name = len(first) < 3 and not (first.isupper() and len(first) == 2)
    if len(parts) == 1 or is_name or first.casefold() == "mac" or len(last) < 3 or word.lower() in single_tokens():
        return word
    # "schoolBus" writes its second word large only to mark where it begins.
    return " ".join(parts if first[0].isupper() else (part if part.isupper() else part.lower() for part in parts))


@functools.cache
def single_tokens() -> frozenset[str]:
    """Words that CLIP's tokenizer has in one piece; none without open_clip, which prediction does without.

    Most are written in one word by people too: brands (``youtube``, ``playstation``), ``icecream``, ``hotdog``. A brand
    in two words is another text to a teacher (cosines of 0.3 to 0.8), ice cream in one word hardly is (0.8 to 0.99).
    """
    package = importlib.util.find_spec("open_clip")
    if package is None or package.origin is None:
        return frozenset()
    with gzip.open(Path(package.origin).with_name("bpe_simple_vocab_16e6.txt.gz"), "rt", encoding="utf-8") as lines:
        merges = ("".join(line.split()) for line in itertools.islice(lines, 1, _MERGES + 1))
        return frozenset(word.removesuffix("</w>") for word in merges if word.endswith("</w>"))


def class_key(name: str) -> str:
    """The name without case, spaces, underscores, hyphens and what is not seen; equal keys are the same class."""
    return re.sub(rf"[\s_\-{UNSEEN}]+", "", unicodedata.normalize("NFKC", name)).casefold()


def told_apart(names: Sequence[str]) -> list[str]:
    """The names with " (2)" behind the second of equal ones, " (3)" behind the third; ``spoken`` leaves that out."""
    taken = {class_key(name) for name in names}
    found: dict[str, str] = {}
    for name in names:
        own = name
        if class_key(name) in found:
            numbered = (f"{name} ({number})" for number in itertools.count(2))
            own = next(each for each in numbered if class_key(each) not in taken | set(found))
        found[class_key(own)] = own
    return list(found.values())


def labels_of_folders(folders: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Folder -> position of the class that it is named after, for those that are.

    Their keys are equal, with or without ``/``, ``:``, ``?`` and other signs that not every folder may have; without
    them, only where that leaves the keys of the classes distinct.
    """
    exact = {class_key(name): place for place, name in enumerate(classes)}
    keys = [class_key(_NO_FOLDER.sub("_", name)) for name in classes]
    times = Counter(keys)
    safe = {key: place for place, key in enumerate(keys) if key and times[key] == 1}
    found = {name: exact.get(class_key(name), safe.get(class_key(_NO_FOLDER.sub("_", name)))) for name in folders}
    return {name: place for name, place in found.items() if place is not None}


def folder_names(classes: Sequence[str]) -> list[str]:
    """A folder for each class, which ``labels_of_folders`` takes for it, and which no system reads otherwise."""
    return told_apart([re.sub(r"^\.+$", "_", _NO_FOLDER.sub("_", name)) for name in classes])


def by_position(folders: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Which class each folder ``0``, ``1``, ... would be if they count the classes; none for other folders."""
    numbers = {int(name): name for name in folders if name.isdecimal()}
    if not numbers or len(numbers) < len(folders):
        return []
    first = min(numbers)
    if first > 1 or max(numbers) - first >= len(classes):
        return []
    hints = [f"'{name}' would be class {n - first + 1}, '{classes[n - first]}'" for n, name in sorted(numbers.items())]
    return [f"numbers are not matched by position; counted in the order of the classes, {hints[0]}", *hints[1:]]


def class_meant(folder: str, classes: Sequence[str]) -> str | None:
    """The class that a folder without one is probably for: a plural, a singular, or another spelling."""
    keys = {class_key(name): name for name in classes}
    original = re.sub(r"\s*\(\d+\)$|\s-\s.*$", "", folder)  # Of "dog (1)" or "dog - Copy".
    # As text of UTF-8 that was read by a code page of Windows, and as a part of an address.
    forms = (original, original.encode("cp1252", "replace").decode(errors="replace"), unquote(original))
    close = [each for form in forms for each in difflib.get_close_matches(class_key(form), keys, n=1, cutoff=0.75)]
    return keys[close[0]] if close else None


def plain(text: str | PurePath) -> str:
    """A text or a path as it is printed and stored: characters that are not plain are escaped, so that it is UTF-8."""
    return "".join(letter if is_plain(letter) else ascii(letter)[1:-1] for letter in str(text))


def is_plain(text: str) -> bool:
    """Whether a text has no control characters, halves of surrogate pairs, line separators or what is not seen.

    Those would change how a terminal or a page shows the text around them. Joiners of scripts and emoji are plain.
    """
    return not any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") or letter in _HIDDEN for letter in text)
