"""Chooses the meaning of a class name, and compares meanings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from clipstill.core.names import with_articles
from clipstill.text.wordnet import FOOD, PERSON, Sense, Wordnet

# Senses with a common kind deeper in WordNet's tree than "artefact" look alike.
_DEPTH_OF_ARTEFACT = 4
# Kinds above this depth, such as "living thing" and "device", are too general. Kinds are at most this many steps up.
_DEPTH_OF_KIND, _KINDS_UP = 6, 5
# Kinds that a photo cannot show, and kinds that it can although they are not things.
_UNSEEN = frozenset(("state", "feeling", "quality", "trait", "right"))
_COLOURS = frozenset(("color", "weather", "shape", "pattern", "texture"))
# Weights of a sense's frequency and visibility; the context of the other names has weight 1.
_FREQUENT, _VISIBLE = 3.0, 1.5
# One other name is little context: beside a guitar alone, a dog would be the catch of a ratchet.
_LEAST_OTHERS = 2

# Kinds with a plain word that also describes how a thing looks.
_PLAIN_KINDS = (
    "animal, bird, building, cat, clothing, color, dessert, dish, dog, fish, flower, food, fruit, furniture, garment, "
    "insect, machine, mammal, mushroom, musical instrument, plant, reptile, ship, shoe, tool, toy, tree, vegetable, "
    "vehicle, weapon"
)
_KINDS = frozenset(_PLAIN_KINDS.split(", "))


@dataclass(frozen=True)
class Meaning:
    """One sense of a name among the other names."""

    sense: Sense
    context: float  # Support by the other names: the number of kinds that it shares with them, on average.
    score: float  # Context plus terms for a frequent sense and for one that photos show.


def choose_senses(names: Sequence[str], nouns: Wordnet) -> list[list[Meaning]]:
    """The meanings of each name, the most likely first; none for a name that is not in WordNet.

    Next to heron and stork, a crane is a bird; next to an excavator it is a machine.
    """
    senses = [nouns.senses(name) for name in names]
    frequencies = [_frequencies(of_name) for of_name in senses]
    ups = [[nouns.distances_up(sense.number).keys() for sense in of_name] for of_name in senses]
    support: dict[int, dict[int, float]] = {}
    for place, ups_of_name in enumerate(ups):
        for above, frequency in zip(ups_of_name, frequencies[place], strict=True):
            for one in above:
                # Weighted by frequency, so that two names with a rare sense in common do not support each other.
                by_name = support.setdefault(one, {})
                by_name[place] = max(by_name.get(place, 0.0), frequency)
    total = {one: sum(by_name.values()) for one, by_name in support.items()}
    chosen = []
    for place, of_name in enumerate(senses):
        meanings = []
        for sense, above, frequency in zip(of_name, ups[place], frequencies[place], strict=True):
            context = sum(total[one] - support[one][place] for one in above) / max(_LEAST_OTHERS, len(names) - 1)
            visible = _VISIBLE * (sense.is_visible - (sense.file == PERSON))
            meanings.append(Meaning(sense, context, context + _FREQUENT * frequency + visible))
        chosen.append(sorted(meanings, key=lambda one: -one.score))
    return chosen


def _frequencies(senses: Sequence[Sense]) -> list[float]:
    """Share of each sense of a word, by its count and by its place in WordNet's order."""
    weights = [sense.count + 1 / (order + 1) for order, sense in enumerate(senses)]
    return [weight / sum(weights) for weight in weights]


def texts_about(sense: Sense, name: str, nouns: Wordnet) -> list[str]:
    """Gloss, kinds and other words of a sense, without the name itself."""
    kinds = [
        nouns.word(number)
        for number, steps in nouns.distances_up(sense.number).items()
        if steps == 1 or (1 < steps <= _KINDS_UP and nouns.depth(number) >= _DEPTH_OF_KIND)
    ]
    lemma = nouns.lemma(name) or name
    others = [word for word in nouns.words(sense.number) if lemma not in word and word not in lemma]
    # A gloss that contains the name, such as "the fur of a beaver", lies near it in every meaning.
    gloss = [] if re.search(rf"\b{re.escape(lemma)}", sense.gloss) else [sense.gloss]
    return [*gloss, *kinds, *others[:2]] or [sense.gloss]


def look_different(one: Sense, other: Sense, nouns: Wordnet) -> bool:
    """Whether photos of two senses show different things. A fish as food looks like a fish."""
    if one.file != other.file:
        return FOOD not in (one.file, other.file)
    up, other_up = nouns.distances_up(one.number), nouns.distances_up(other.number)
    return max(nouns.depth(number) for number in up.keys() & other_up.keys()) <= _DEPTH_OF_ARTEFACT


def share_kind(one: Sense, other: Sense, nouns: Wordnet) -> bool:
    """Whether two senses have a kind in common that is not too general."""
    common = nouns.distances_up(one.number).keys() & nouns.distances_up(other.number).keys()
    return any(nouns.depth(number) >= _DEPTH_OF_KIND for number in common)


def are_related(word: str, sense: Sense, nouns: Wordnet) -> bool:
    """Whether a meaning of the word and the sense share a kind, or the word is unknown."""
    senses = nouns.senses(word)
    return not senses or any(share_kind(each, sense, nouns) for each in senses)


def is_unseen(sense: Sense, nouns: Wordnet) -> bool:
    """Whether a photo cannot show the sense, such as freedom. Events, colours and shapes can be shown."""
    kinds = {nouns.word(number) for number in nouns.distances_up(sense.number)}
    return not sense.is_visible and bool(kinds & _UNSEEN) and not kinds & _COLOURS


def kind_of(sense: Sense, nouns: Wordnet) -> str:
    """The kind of a sense with its article, such as ``a wading bird``."""
    word = nouns.kind_word(sense.number) or sense.gloss
    return with_articles(f"a {word}")


def common_kind(senses: Sequence[Sense], excluded: set[str], nouns: Wordnet) -> str | None:
    """The narrowest plain word, beside those excluded, that all senses are a kind of; None if there is none."""
    ups = [nouns.distances_up(sense.number).keys() for sense in senses]
    common = set(ups[0]).intersection(*ups[1:])
    narrowest_first = sorted(common, key=lambda each: (nouns.depth(each), each), reverse=True)
    return next((word for word in map(nouns.word, narrowest_first) if word in _KINDS - excluded), None)
