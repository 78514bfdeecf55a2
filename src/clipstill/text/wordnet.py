"""WordNet's nouns: the senses of a class name, their kinds, and a short definition of each (gloss).

``python -m tools.weights wordnet`` makes the table.
"""

from __future__ import annotations

import difflib
import functools
import gc
import gzip
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipstill.core.errors import ArtifactError
from clipstill.core.names import spoken

_TABLE = Path(__file__).parents[1] / "assets" / "wordnet-nouns.json.gz"
# Numbers of WordNet's lexicographer files, see lexnames(5WN).
ANIMAL, ARTEFACT, BODY, FOOD, OBJECT, PERSON, PLANT = 5, 6, 8, 13, 17, 18, 20
_DOUBLE = re.compile(r"(.)\1")
# From this length on, a definition may end amid a sentence: the table holds at most 100 characters of each.
_LONG = 80
# Where a long definition ends for people: before its last clause, or its last phrase, behind these many characters.
_CLAUSE = re.compile(r".{30,}(?=,| (?:having|that|which|who|whose|where|with|or|and|used|resembling) )")
_PHRASE = re.compile(r".{30,}(?= (?:in|of|for|by|from|on|at|to|as|into) )")
_TYPING_MISTAKE = 0.88  # Similarity of two spellings (difflib) that differ by a typing mistake.
# Endings of plurals and of their singulars, the longest first.
_PLURALS = (
    *(("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("ses", "s"), ("xes", "x"), ("ches", "ch")),
    *(("shes", "sh"), ("es", "e"), ("s", "")),
)


@dataclass(frozen=True)
class Sense:
    """One meaning of a word."""

    number: int  # Row in the table.
    gloss: str  # Definition in a few words.
    count: int  # Occurrences of the word in this sense in tagged texts.
    file: int  # Number of the lexicographer file.

    @property
    def definition(self) -> str:
        """The gloss for people: it ends with a whole clause or phrase."""
        found = (_CLAUSE.match(self.gloss) or _PHRASE.match(self.gloss)) if len(self.gloss) >= _LONG else None
        return found[0] if found else self.gloss

    @property
    def is_visible(self) -> bool:
        """Whether photos show it. Persons do not count, since most nouns have a slang sense for a person."""
        return self.file in (ANIMAL, ARTEFACT, BODY, FOOD, OBJECT, PLANT)


class Wordnet:
    """The nouns of a table that ``tools.weights.wordnet.noun_table`` made."""

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._glosses: Sequence[str] = table["glosses"]
        self._files: Sequence[int] = table["kinds"]
        self._above: Sequence[Sequence[int]] = table["above"]
        self._words: Mapping[str, Sequence[int]] = table["words"]
        self._counts: Mapping[str, Sequence[int]] = table["counts"]
        self._words_in_order: list[str] = list(self._words)
        self._names: Sequence[int] = table["names"]
        self._imagenet: Sequence[int] = sorted(table["imagenet"])
        self._ups: dict[int, dict[int, int]] = {}
        self._depths: dict[int, int] = {}

    def lemma(self, name: str) -> str | None:
        """The word in the table for a class name: as written, in the singular, or as one word; None without one."""
        hyphened, plain = spoken(name).lower(), spoken(name.replace("-", " ")).lower()
        for text in (hyphened, plain, plain.replace(" ", ""), plain.replace(" ", "-")):
            for form in (text, *singulars(text)):
                if form in self._words:
                    return form
        return None

    def senses(self, name: str) -> list[Sense]:
        """All senses of a name, the most frequent first; empty for a name that is not in WordNet."""
        lemma = self.lemma(name)
        if lemma is None:
            return []
        numbers = self._words[lemma]
        counts = self._counts.get(lemma, [0] * len(numbers))
        return [
            Sense(number, self._glosses[number], count, self._files[number])
            for number, count in zip(numbers, counts, strict=True)
        ]

    def word(self, number: int) -> str:
        """The first word of a sense."""
        return self._words_in_order[self._names[number]]

    def words(self, number: int) -> list[str]:
        """All words of a sense, its first one first."""
        first = self.word(number)
        return [first, *(word for word in self._words_of.get(number, ()) if word != first)]

    def kind_word(self, number: int) -> str | None:
        """The word for what a sense is a kind of; None at the top of the tree."""
        above = self._above[number]
        return self.word(above[0]) if above else None

    def spelled_like(self, word: str) -> str | None:
        """The noun that ``word`` is a typing mistake away from, or that sounds like it (``elefant``), or None."""
        if len(word) < 5:
            return None
        rough = [
            each
            for each in self._words
            if each[:1] == word[:1] and abs(len(each) - len(word)) <= 1 and each.count(" ") == word.count(" ")
        ]
        close = difflib.get_close_matches(word, rough, n=1, cutoff=_TYPING_MISTAKE)
        return close[0] if close else self._by_sound.get(_sound(word))

    def distances_up(self, number: int) -> dict[int, int]:
        """The sense and all its kinds, each with the least number of steps up the tree."""
        if number not in self._ups:
            found, waiting = {number: 0}, [number]
            for current in waiting:
                for parent in self._above[current]:
                    if parent not in found:
                        found[parent] = found[current] + 1
                        waiting.append(parent)
            self._ups[number] = found
        return self._ups[number]

    def depth(self, number: int) -> int:
        """Steps down from the most general noun; deeper senses are more specific."""
        if number not in self._depths:
            self._depths[number] = max(self.distances_up(number).values())
        return self._depths[number]

    def covers_imagenet(self, number: int) -> bool:
        """Whether the sense is an ImageNet class or the kind of one."""
        return number in self._steps_to_imagenet

    def imagenet_kinship(self, number: int) -> float:
        """Similarity of the most similar ImageNet class in the tree, in [0, 1]; 1 if the sense is an ImageNet class.

        Source: Wu and Palmer, 1994: twice the depth of the common kind, over that plus the steps down to both.
        """
        best = 0.0
        for above, up in self.distances_up(number).items():
            down = self._steps_to_imagenet.get(above)
            depth = self.depth(above)
            if down is not None and depth > 0:
                best = max(best, 2 * depth / (2 * depth + up + down))
        return best

    def imagenet_words(self) -> list[str]:
        """The first word of each ImageNet class."""
        return [self.word(number) for number in self._imagenet]

    @functools.cached_property
    def _steps_to_imagenet(self) -> dict[int, int]:
        """Least steps down to an ImageNet class, for each sense that has one at or below it."""
        found: dict[int, int] = {}
        for number in self._imagenet:
            for above, steps in self.distances_up(number).items():
                found[above] = min(steps, found.get(above, steps))
        return found

    @functools.cached_property
    def _by_sound(self) -> dict[str, str]:
        return {_sound(word): word for word in reversed(self._words_in_order) if len(word) > 4}

    @functools.cached_property
    def _words_of(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for word, numbers in self._words.items():
            for number in numbers:
                found.setdefault(number, []).append(word)
        return found


def _sound(word: str) -> str:
    """A word written as it sounds, about: spellings of one sound become one."""
    for letters, sound in (("ph", "f"), ("ck", "k"), ("c", "k"), ("y", "i")):
        word = word.replace(letters, sound)
    return _DOUBLE.sub(r"\1", word)


def singulars(text: str) -> Iterator[str]:
    """Possible singulars of a text, the likeliest first; none if it does not look like a plural."""
    for ending, singular in _PLURALS:
        if text.endswith(ending) and len(text) > len(ending) + 1 and not text.endswith("ss"):
            yield text.removesuffix(ending) + singular


@functools.cache
def wordnet(path: Path = _TABLE) -> Wordnet:
    """The nouns of a stored table, read once."""
    was_collecting = gc.isenabled()
    gc.disable()  # It takes longer than the reading, as it looks through all objects again and again.
    try:
        return Wordnet(json.loads(gzip.decompress(path.read_bytes())))
    except (OSError, EOFError, ValueError, KeyError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}). Install clipstill again.") from None
    finally:
        if was_collecting:
            gc.enable()
