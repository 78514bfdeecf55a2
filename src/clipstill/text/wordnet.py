"""What WordNet knows of a class name: its senses, what each is a kind of, and a gloss. Nothing heavy is loaded.

The table is made by ``python -m tools.weights wordnet``.
"""

from __future__ import annotations

import difflib
import functools
import gzip
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipstill.core.errors import ArtifactError
from clipstill.core.names import spoken

TABLE = Path(__file__).parents[1] / "assets" / "wordnet-nouns.json.gz"
# Numbers of WordNet's lexicographer files (lexnames(5WN)) whose nouns a photo can show. Persons are left out: most
# nouns have a slang sense for a person.
_ANIMAL, _ARTEFACT, _BODY, _FOOD, _OBJECT, _PERSON, _PLANT = 5, 6, 8, 13, 17, 18, 20
VISIBLE = frozenset({_ANIMAL, _ARTEFACT, _BODY, _FOOD, _OBJECT, _PLANT})
# Likeness of two spellings (difflib) from which on one is taken for the other.
_TYPING_MISTAKE = 0.88
# Endings of plurals, the longest first.
_PLURALS = (("ies", "y"), ("ves", "f"), ("ves", "fe"), ("men", "man"), ("ses", "s"), ("xes", "x"), ("ches", "ch"))
_MORE_PLURALS = (("shes", "sh"), ("es", "e"), ("s", ""))


@dataclass(frozen=True)
class Sense:
    """One meaning of a word.

    Attributes:
        number: row in the table; equal numbers are one meaning.
        gloss: what it is, in a few words.
        count: how often the word was met in this sense in tagged texts.
        is_visible: whether it is of a kind that photos show: an animal, a thing, a plant, food.
        is_person: whether it is a person.
    """

    number: int
    gloss: str
    count: int
    is_visible: bool
    is_person: bool


class Wordnet:
    """The nouns.

    Args:
        table: plain values, as ``tools.weights.wordnet.noun_table`` makes them.
    """

    def __init__(self, table: Mapping[str, Any]) -> None:
        self._glosses: Sequence[str] = table["glosses"]
        self._kinds: Sequence[int] = table["kinds"]
        self._above: Sequence[Sequence[int]] = table["above"]
        self._words: Mapping[str, Sequence[int]] = table["words"]
        self._counts: Mapping[str, Sequence[int]] = table["counts"]
        self._names: Sequence[int] = table["names"]
        self._imagenet = frozenset(table["imagenet"])
        self._ups: dict[int, dict[int, int]] = {}
        self._depths: dict[int, int] = {}

    @classmethod
    def load(cls, path: Path = TABLE) -> Wordnet:
        """From the stored file.

        Raises:
            ArtifactError: missing or damaged.
        """
        try:
            return cls(json.loads(gzip.decompress(path.read_bytes())))
        except (OSError, EOFError, ValueError, KeyError) as error:
            raise ArtifactError(f"{path} cannot be read ({error}). Install clipstill again.") from None

    def lemma(self, name: str) -> str | None:
        """The entry that a class name is found under: as it is written, without a plural, or in one word."""
        plain = spoken(name.replace("-", " ")).lower()
        hyphened = spoken(name).lower()
        for text in dict.fromkeys((hyphened, plain, plain.replace(" ", ""), plain.replace(" ", "-"))):
            for form in (text, *singulars(text)):
                if form in self._words:
                    return form
        return None

    def senses(self, name: str) -> list[Sense]:
        """All senses of a name, the most frequent first; empty where WordNet does not know it."""
        lemma = self.lemma(name)
        if lemma is None:
            return []
        numbers = self._words[lemma]
        counts = self._counts.get(lemma, [0] * len(numbers))
        return [
            Sense(
                number,
                self._glosses[number],
                count,
                self._kinds[number] in VISIBLE,
                self._kinds[number] == _PERSON,
            )
            for number, count in zip(numbers, counts, strict=True)
        ]

    def word(self, number: int) -> str:
        """The first word of a sense."""
        return self._words_in_order[self._names[number]]

    def words(self, number: int) -> list[str]:
        """All words of a sense, its first one first."""
        first = self.word(number)
        return [first, *(word for word in self._words_of.get(number, ()) if word != first)]

    def gloss(self, number: int) -> str:
        """What the sense is, in a few words."""
        return self._glosses[number]

    def kind(self, number: int) -> int:
        """The lexicographer file of a sense."""
        return self._kinds[number]

    def is_food(self, number: int) -> bool:
        """Whether it is something to eat; the same word is often a plant or an animal, too."""
        return self._kinds[number] == _FOOD

    def is_plain(self, number: int) -> bool:
        """Whether its first word is one that people say: a single one, met in tagged texts in this sense."""
        word = self.word(number)
        counts = dict(zip(self._words[word], self._counts.get(word, [0] * len(self._words[word])), strict=True))
        return word.isalpha() and counts.get(number, 0) > 0

    def kind_word(self, number: int) -> str | None:
        """The word for what the sense is a kind of; None at the top of the tree."""
        above = self._above[number]
        return self.word(above[0]) if above else None

    def spelled_like(self, word: str) -> str | None:
        """The word that this one is a typing mistake away from, or None."""
        rough = [
            each
            for each in self._words
            if each[:1] == word[:1] and abs(len(each) - len(word)) <= 1 and each.count(" ") == word.count(" ")
        ]
        close = difflib.get_close_matches(word, rough, n=1, cutoff=_TYPING_MISTAKE) if len(word) >= 5 else []
        return close[0] if close else None

    def distances_up(self, number: int) -> dict[int, int]:
        """The sense and all it is a kind of, each with the least number of steps up."""
        if number in self._ups:
            return self._ups[number]
        found, waiting = {number: 0}, [number]
        for current in waiting:
            for parent in self._above[current]:
                if parent not in found:
                    found[parent] = found[current] + 1
                    waiting.append(parent)
        self._ups[number] = found
        return found

    def depth(self, number: int) -> int:
        """Steps down from the most general noun: the larger, the more it says."""
        if number not in self._depths:
            self._depths[number] = max(self.distances_up(number).values())
        return self._depths[number]

    def imagenet_distance(self, number: int) -> int | None:
        """Steps up to the nearest sense that an ImageNet class is of; 0 also for kinds of which there are classes.

        None where neither the sense nor anything above it or below it is one.
        """
        if number in self._above_imagenet:
            return 0
        steps = [steps for above, steps in self.distances_up(number).items() if above in self._imagenet]
        return min(steps) if steps else None

    def imagenet_kinship(self, number: int) -> float:
        """How near the nearest ImageNet class is in the tree, in [0, 1]; 1 where there is one of this very sense.

        Source: Wu and Palmer, 1994: twice the depth of what both are, over that and the steps down to either.
        """
        best = 0.0
        for above, up in self.distances_up(number).items():
            down = self._steps_to_imagenet.get(above)
            depth = self.depth(above)
            if down is not None and depth > 0:
                best = max(best, 2 * depth / (2 * depth + up + down))
        return best

    @functools.cached_property
    def _steps_to_imagenet(self) -> dict[int, int]:
        """Least steps down to an ImageNet class, for what is above one."""
        found: dict[int, int] = {}
        for number in self._imagenet:
            for above, steps in self.distances_up(number).items():
                found[above] = min(steps, found.get(above, steps))
        return found

    def imagenet_words(self) -> list[str]:
        """The first word of each ImageNet class."""
        return [self.word(number) for number in sorted(self._imagenet)]

    @functools.cached_property
    def _words_in_order(self) -> list[str]:
        return list(self._words)

    @functools.cached_property
    def _words_of(self) -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        for word, numbers in self._words.items():
            for number in numbers:
                found.setdefault(number, []).append(word)
        return found

    @functools.cached_property
    def _above_imagenet(self) -> frozenset[int]:
        return frozenset(above for number in self._imagenet for above in self.distances_up(number))


def singulars(text: str) -> Iterator[str]:
    """What a text may be the plural of, the likeliest first."""
    for ending, singular in (*_PLURALS, *_MORE_PLURALS):
        if text.endswith(ending) and len(text) > len(ending) + 1 and not text.endswith("ss"):
            yield text.removesuffix(ending) + singular


@functools.cache
def wordnet() -> Wordnet:
    """The stored table, read once."""
    return Wordnet.load()
