"""Which class names a text tower can read, and what it reads of each class.

A tower that learned from English alone takes other scripts, other languages, numbers and nonsense for something at
random, and its vectors do not show it: they are as near to known words as those of English names are. So words decide.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import replace

from clipstill.core.names import single_tokens, spoken
from clipstill.text.task import Task
from clipstill.text.wordnet import wordnet

# A number or a letter that stands for a class.
_PLACEHOLDER = re.compile(
    r"(?:(?:class|label|category|group|type|item|object|folder|kind|id|number|no|nr)\W*)?(?:\d[\d\W]*|[a-z])"
)
_SUFFIXES = ("able", "ed", "er", "es", "ful", "ing", "ish", "ive", "less", "like", "ly", "ness", "ous", "s", "y")
_PREFIXES = ("un", "mis", "non", "over")
_LEAST_STEM = 3
# Names of what is left over.
_REST = re.compile(
    r"(none|nothing|neither|rest|the rest|others?|unknown|misc|miscellaneous|background|no class|unclassified"
    r"|none of .*|(any|some|every)thing( else)?|(all |any )?others? .*|not .*)"
)
_NOT = re.compile(r"(?:without an|without a|without|no|non)[ -](.+)")


@functools.cache
def is_english(text: str) -> bool:
    """Whether a text has at least one word that English has: in WordNet, in CLIP's vocabulary, or made of such words.

    Accents do not count: the towers' tokenizers leave them out.
    """
    letters = unicodedata.normalize("NFKD", spoken(text)).lower()
    plain = "".join(letter for letter in letters if not unicodedata.combining(letter)).strip()
    if _PLACEHOLDER.fullmatch(plain):
        return False
    if len(plain) == 2:  # ox, TV
        return plain.isalpha() and bool(wordnet().senses(plain))
    return any(map(_is_word, re.findall(r"[a-z]{3,}", plain)))


def _is_word(word: str) -> bool:
    if any(map(_is_listed, (word, f"{word}s", *_stems(word)))):
        return True
    # clownfish, coffeemaker
    cuts = range(_LEAST_STEM, len(word) - _LEAST_STEM + 1)
    return any(_is_common(word[:at]) and _is_common(word[at:]) for at in cuts)


def _stems(word: str) -> Iterator[str]:
    """What a word may be made of, at least three letters."""
    rests = [word.removesuffix(suffix) for suffix in _SUFFIXES if word.endswith(suffix)]
    rests += [word.removeprefix(prefix) for prefix in _PREFIXES if word.startswith(prefix)]
    for rest in rests:
        if len(rest) >= _LEAST_STEM:
            yield from (rest, f"{rest}e")  # misaligned, gauzy
            if rest[-1] == rest[-2]:
                yield rest[:-1]  # zigzagged


def _is_listed(word: str) -> bool:
    return bool(wordnet().senses(word)) or word in single_tokens()


def _is_common(word: str) -> bool:
    return word in single_tokens() and bool(wordnet().senses(word))


def as_read(task: Task, multilingual: bool) -> Task:
    """The task as the teacher reads it: where a name cannot be read, its description alone stands for it.

    Args:
        multilingual: Whether the teacher reads other languages than English; it reads every name.
    """
    alone = [
        bool(description) and not multilingual and not is_english(name)
        for name, description in zip(task.names, task.descriptions, strict=True)
    ]
    pairs = zip(task.names, task.descriptions, alone, strict=True)
    read = [(description, "") if is_alone else (name, description) for name, description, is_alone in pairs]
    return replace(task, names=tuple(name for name, _ in read), descriptions=tuple(text for _, text in read))


def unread(task: Task, multilingual: bool) -> list[int]:
    """Positions of the classes of which the teacher can read neither the name nor the description."""
    if multilingual:
        return []
    read = zip(task.names, task.descriptions, strict=True)
    return [place for place, texts in enumerate(read) if not any(map(is_english, filter(None, texts)))]


def is_negation(word: str, others: Sequence[str]) -> bool:
    """Whether a name says what a photo does not show: the rest, or none of another name."""
    refused = _NOT.fullmatch(word)
    return bool(_REST.fullmatch(word) or (refused and refused[1] in others))
