"""Checks class names before a run: double meanings, two names of one thing, words that the teacher does not know.

WordNet lists the meanings of a name, the other classes decide which is wanted, and the teacher's text tower shows which
one it understands. Cosines become *shares*: 0 for unrelated words of this teacher, 1 for equal vectors, so that one
threshold suits any teacher. Shapes: C classes, W words, M texts, D teacher dimensions.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import TYPE_CHECKING

from clipstill.core.names import spoken, with_articles
from clipstill.core.progress import Progress
from clipstill.text.senses import (
    Meaning,
    are_related,
    common_kind,
    is_unseen,
    kind_of,
    look_different,
    share_kind,
    texts_about,
)
from clipstill.text.task import Task
from clipstill.text.word_checks import EXAMPLES_ADVICE, NOTE, WARNING, Finding, WordChecks
from clipstill.text.wordnet import PERSON, Sense, singulars

if TYPE_CHECKING:
    from torch import Tensor

# Function from texts to unit vectors (M, D), made as the teacher reads a bare class name.
Encode = Callable[[Sequence[str]], "Tensor"]

# From this share on, the teacher cannot tell two names apart: in the embedded teachers sofa and couch lie at 0.9, tulip
# and tulips at 0.84, dog and animal at 0.68, any two names of CIFAR-10 or PACS below 0.6.
_SAME = 0.8
# The teacher takes a bare name for another meaning if that is nearer than the wanted one by this share. Chosen from 0.1
# to 0.3 on the Caltech-101 names.
_LEANS = 0.15
# From this share on, two definitions are of things that look alike: bracelets 0.45, the two cranes 0.03.
_ALIKE = 0.35
# The same for a word of another kind, which must also have at least the second share.
_STRANGE, _STRANGE_NEAR = 0.25, 0.35
_STRANGENESS_UNKNOWN = -0.3
# The other classes decide for a meaning if they support it by this many more steps of WordNet's tree.
_DECIDED = 1.0
_FAR_OFTENER = 5  # Times that a meaning is used as often as another one to be the usual or the rare one.
_COVERED = 0.8  # A common kind is offered if WordNet knows this share of the classes.
_BATCH = 32


@dataclass(frozen=True)
class Known:
    """Common words, which every teacher should know."""

    words: Sequence[str]  # W common nouns.
    vectors_WD: Tensor  # Their unit vectors by the teacher.

    @functools.cached_property
    def unrelated(self) -> float:
        """Mean cosine of two different words."""
        between_WW = self.vectors_WD @ self.vectors_WD.T
        count = len(self.words)
        return float((between_WW.sum() - between_WW.trace()) / (count * (count - 1)))

    def share(self, cosines: Tensor) -> Tensor:
        """Cosines scaled to 0 for unrelated and 1 for equal vectors."""
        return (cosines - self.unrelated) / (1 - self.unrelated)


class Linter(WordChecks):
    """Checks one task for one teacher. A class with a description counts as clear, and so does one with examples.

    Args:
        encode: The teacher's text tower.
        multilingual: Whether it reads other languages than English.
        with_examples: Names of the classes with example images.
    """

    def __init__(
        self,
        task: Task,
        class_vectors_CD: Tensor,
        known: Known,
        encode: Encode,
        *,
        multilingual: bool = False,
        with_examples: Collection[str] = (),
    ) -> None:
        super().__init__(task, multilingual=multilingual, with_examples=with_examples)
        self.vectors_CD, self.known, self.encode = class_vectors_CD.float(), known, encode
        self._share_CC: list[list[float]] = known.share(self.vectors_CD @ self.vectors_CD.T).tolist()
        # Shares of each name without a description: of its meanings, and of known words.
        self._about: dict[int, list[float]] = {}
        # How near the definition of each meaning lies to that of the wanted one.
        self._alike: dict[int, list[float]] = {}
        self._near: dict[int, dict[str, float]] = {}
        unclear = [place for place, description in enumerate(self.read.descriptions) if not description]
        if unclear:
            self._encode_names(unclear)

    def _encode_names(self, unclear: Sequence[int]) -> None:
        """Compare names with their meanings and with known words."""
        names = [self.read.names[place] for place in unclear]
        about = [
            [texts_about(each.sense, name, self.nouns) for each in self.meanings[place]]
            for place, name in zip(unclear, names, strict=True)
        ]
        parts = [tokens if len(tokens := _tokens(name)) > 1 else [] for name in names]
        bare = [spoken(name) for name in names]
        glosses = [[each.sense.gloss for each in self.meanings[place]] for place in unclear]
        texts_of = [
            [*chain(*groups), *own, *of_name] for groups, own, of_name in zip(about, parts, glosses, strict=True)
        ]
        # Texts of similar length share a batch, which keeps padding short.
        unique = sorted({*bare, *(text for texts in texts_of for text in texts)}, key=lambda text: (len(text), text))
        vectors: dict[str, Tensor] = {}
        with Progress("texts about the names", total=len(unique), unit="text") as bar:
            for start in range(0, len(unique), _BATCH):
                batch = unique[start : start + _BATCH]
                vectors |= zip(batch, self.encode(batch), strict=True)
                bar.advance(len(batch))
        for number, place in enumerate(unclear):
            bare_D = vectors[bare[number]]
            share = {text: float(self.known.share(vectors[text] @ bare_D)) for text in texts_of[number]}
            self._about[place] = [max(share[text] for text in group) for group in about[number]]
            wanted_D = vectors[(glosses[number] or bare)[0]]
            self._alike[place] = [float(self.known.share(vectors[text] @ wanted_D)) for text in glosses[number]]
            near = self.known.share(self.known.vectors_WD @ bare_D).tolist()
            self._near[place] = dict(zip(self.known.words, near, strict=True))
            self._near[place] |= {part: share[part] for part in parts[number]}

    def findings(self) -> list[Finding]:
        """All findings, warnings first, each in the order of the classes."""
        found = self._clear_of_examples([*self._of_words(), *self._pairs(), *self._doubtful()])
        found += self._common_kind(found)
        return sorted(found, key=lambda one: one.level != WARNING)

    def strangeness(self, place: int) -> float:
        """How much nearer a name lies to another meaning or a word of another kind than to its own meaning, as a share.

        Negative if its own meaning is nearest. Names with a description or not in WordNet get a medium value.
        """
        if place not in self._about or not self.meanings[place]:
            return _STRANGENESS_UNKNOWN
        strangers = [share for share, _ in self._strangers(place, self.meanings[place][0].sense)]
        others = [share for share, _ in self._other_meanings(place)]
        return max([*strangers, *others], default=0.0) - self._about[place][0]

    # --- two classes ---

    def _pairs(self) -> Iterator[Finding]:
        """Two names of one thing, a kind of another class, and names that the teacher cannot tell apart."""
        for first, second in self._near_pairs():
            found = self._plural(first, second)
            if found is None and self.meanings[first] and self.meanings[second]:
                found = self._synonym(first, second) or self._hypernym(first, second) or self._hypernym(second, first)
            found = found or self._similar(first, second)
            if found is not None:
                yield found

    def _near_pairs(self) -> list[tuple[int, int]]:
        """The pairs, in order, that may be one thing, one a kind of the other, or one a plural: few of all pairs."""
        places = sorted({*range(len(self.task.names))} - self.unread)
        pairs = {pair for pair in combinations(places, 2) if self._share_CC[pair[0]][pair[1]] >= _SAME / 2}
        known_by: dict[int | str, list[int]] = {}
        senses = {place: self.meanings[place][0].sense.number for place in places if self.meanings[place]}
        words = {place: spoken(self.read.names[place]).lower() for place in places}
        for place, key in (*senses.items(), *words.items()):
            known_by.setdefault(key, []).append(place)
        for place in places:
            above = self.nouns.distances_up(senses[place]) if place in senses else ()
            others = {other for key in (*above, *singulars(words[place])) for other in known_by.get(key, ())}
            pairs |= {(min(place, other), max(place, other)) for other in others - {place}}
        return sorted(pairs)

    def _plural(self, first: int, second: int) -> Finding | None:
        a, b = self.task.names[first], self.task.names[second]
        one, many = (spoken(self.read.names[place]).lower() for place in (first, second))
        if many in singulars(one):
            one, many = many, one
        # Glasses are not the plural of glass: WordNet has both.
        if one not in singulars(many) or self.nouns.lemma(many) == many:
            return None
        message = f"'{a}' and '{b}' are one word."
        advice = f"Remove one of them, or say what differs: {a}: what it is."
        return Finding(WARNING, "plural", (a, b), message=message, advice=advice)

    def _synonym(self, first: int, second: int) -> Finding | None:
        one, other = self.meanings[first][0].sense, self.meanings[second][0].sense
        numbers = [{each.sense.number for each in self.meanings[place]} for place in (first, second)]
        shared = numbers[0] & numbers[1] & {one.number, other.number}
        if one.number != other.number and not (shared and self._share_CC[first][second] >= _SAME / 2):
            return None
        a, b = self.task.names[first], self.task.names[second]
        definition = (one if one.number in shared else other).definition
        message = f"'{a}' and '{b}' are two names of one thing ({definition})."
        return Finding(WARNING, "synonym", (a, b), message=message, advice="Keep one of them.")

    def _hypernym(self, low: int, high: int) -> Finding | None:
        sense, kind = self.meanings[low][0].sense, self.meanings[high][0].sense
        a, b = self.task.names[low], self.task.names[high]
        # Only for a common sense: an old sense of bus is a kind of car.
        usual = next((each for each in self.nouns.senses(self.read.names[low]) if each.is_visible), sense)
        is_usual = sense.number == usual.number or sense.count > 0
        if kind.number not in self.nouns.distances_up(sense.number) or not is_usual:
            return None
        message = f"'{a}' is a kind of '{b}', so a photo of the one is a photo of both."
        advice = (
            f"Replace '{b}' by its other kinds, or name what is left: {with_articles(f'{b}: any but a {spoken(a)}')}."
        )
        return Finding(WARNING, "hypernym", (a, b), message=message, advice=advice)

    def _similar(self, first: int, second: int) -> Finding | None:
        share = self._share_CC[first][second]
        if share < _SAME:
            return None
        a, b = self.task.names[first], self.task.names[second]
        message = f"the teacher can hardly tell '{a}' from '{b}': {share:.2f} from 0 (unrelated) to 1 (equal)."
        advice = f"Describe what differs ({a}: ...), give example images of both, or make them one class."
        return Finding(WARNING, "similar", (a, b), message=message, advice=advice)

    # --- one class ---

    def _doubtful(self) -> Iterator[Finding]:
        for place in (each for each in self._about if each not in self.unread):
            found = self._unseen(place) or self._ambiguous(place) or self._unknown(place) or self._unheard_of(place)
            if found is not None:
                yield found

    def _unseen(self, place: int) -> Finding | None:
        senses = [each.sense for each in self.meanings[place]]
        if not senses or not all(is_unseen(sense, self.nouns) for sense in senses):
            return None
        name = self.task.names[place]
        message = (
            f"'{name}' names nothing that a photo shows by itself ({senses[0].definition}); the teacher guesses what "
            "images of it show."
        )
        advice = f"Name what is to be seen, such as a thing or a scene; {EXAMPLES_ADVICE.format(folder=name)}."
        return Finding(NOTE, "unseen", (name,), message=message, advice=advice)

    def _ambiguous(self, place: int) -> Finding | None:
        if not self.meanings[place]:
            return None
        others, own = self._other_meanings(place), self._about[place][0]
        if max((share for share, _ in others), default=0.0) - own < _LEANS:
            others += self._persons(place)
        if not others:
            return None
        nearest, meaning = max(others, key=lambda one: one[0])
        chosen, name = self.meanings[place][0], self.task.names[place]
        wanted, other = chosen.sense, meaning.sense
        is_decided = chosen.context - meaning.context >= _DECIDED
        is_rare = wanted.count > _FAR_OFTENER * (other.count + 1)
        either = f"'{name}' can be {kind_of(wanted, self.nouns)} or {kind_of(other, self.nouns)}"
        lines = f"{name}: {wanted.definition} | {name}: {other.definition}"
        # A rare meaning counts where another class is of its kind, as the keyboard is beside a mouse.
        others_chosen = [of_name[0].sense for at, of_name in enumerate(self.meanings) if of_name and at != place]
        is_among = any(share_kind(other, each, self.nouns) for each in others_chosen)
        is_settled = is_rare and is_decided and not is_among
        # A chest is a part of the body so much oftener than a furniture that the teacher need not lean to it.
        is_common = other.count > _FAR_OFTENER * (wanted.count + 1)
        if nearest - own >= (0.0 if is_common else _LEANS) and not is_settled:
            wants = "the other classes suggest the first" if is_decided else "the other classes do not say which"
            message = f"{either}; {wants}, and the teacher seems to take the bare name for the second."
            taken_for, advice = kind_of(other, self.nouns), f"Say which: {lines}"
            return Finding(WARNING, "ambiguous", (name,), message=message, advice=advice, taken_for=taken_for)
        if is_decided or is_rare:
            return None
        message = f"{either}; the teacher seems to take it for the first."
        return Finding(NOTE, "ambiguous", (name,), message=message, advice=f"If that is wrong, say which: {lines}")

    def _other_meanings(self, place: int) -> list[tuple[float, Meaning]]:
        """Meanings that look different from the wanted one in photos, with the name's share of each."""
        meanings = self.meanings[place]
        others = list(zip(self._about[place], self._alike[place], meanings, strict=True))[1:]
        return [
            (share, each)
            for share, alike, each in others
            if each.sense.is_visible and alike < _ALIKE and look_different(meanings[0].sense, each.sense, self.nouns)
        ]

    def _persons(self, place: int) -> list[tuple[float, Meaning]]:
        """Persons that the name may mean. Most nouns have a slang sense for one, so the teacher must lean to it."""
        found = zip(self._about[place], self._alike[place], self.meanings[place], strict=True)
        return [
            (share, each)
            for share, alike, each in found
            if each.sense.file == PERSON and alike < _ALIKE and share - self._about[place][0] >= _LEANS
        ]

    def _unknown(self, place: int) -> Finding | None:
        if not self.meanings[place]:
            return None
        name, wanted, own = self.task.names[place], self.meanings[place][0].sense, self._about[place][0]
        strangest, word = max(self._strangers(place, wanted), default=(0.0, ""))
        if strangest < _STRANGE_NEAR or strangest - own < _STRANGE:
            return None
        message = (
            f"the teacher hardly knows '{name}' ({kind_of(wanted, self.nouns)}): its vector lies at {word} "
            f"({strangest:.2f}), farther from what it is ({own:.2f})."
        )
        advice = f"Describe it: {name}: {wanted.definition}; {EXAMPLES_ADVICE.format(folder=name)}."
        return Finding(WARNING, "unknown", (name,), message=message, advice=advice, taken_for=word)

    def _strangers(self, place: int, wanted: Sense) -> Iterator[tuple[float, str]]:
        """Words of another kind near the name, with their shares."""
        for word, share in self._near[place].items():
            if share >= _STRANGE_NEAR and not are_related(word, wanted, self.nouns):
                yield share, word

    def _unheard_of(self, place: int) -> Finding | None:
        name, parts = self.task.names[place], _tokens(self.read.names[place])
        if self.meanings[place] or any(self.nouns.senses(part) for part in parts):
            return None
        if self._likely(place):
            return None
        nearest = sorted(self.known.words, key=lambda word: -self._near[place][word])[:3]
        message = f"WordNet does not know '{name}'; the teacher puts it near {', '.join(nearest)}."
        advice = (
            f"If it is none of that kind, describe it: {name}: what it is and looks like; "
            f"{EXAMPLES_ADVICE.format(folder=name)}."
        )
        return Finding(NOTE, "unknown", (name,), message=message, advice=advice)

    # --- all classes ---

    def _common_kind(self, found: Sequence[Finding]) -> list[Finding]:
        """A sentence with the kind that all classes share, if a name is doubtful."""
        doubtful = [name for one in found if one.kind in ("ambiguous", "unknown") for name in one.classes]
        wanted = [meanings[0].sense for meanings in self.meanings if meanings]
        if not doubtful or len(wanted) < max(2, _COVERED * len(self.task.names)):
            return []
        kind = common_kind(wanted, {spoken(name).lower() for name in self.task.names}, self.nouns)
        if kind is None:
            return []
        template = json.dumps([f"{{class}}, a type of {kind}"])
        message = f"all classes are a kind of {kind}; a sentence that names it with each of them leaves less to guess."
        advice = f"--set 'prompts.templates={template}' (a CLIP teacher: \"a photo of a {{class}}, a type of {kind}.\")"
        return [Finding(NOTE, "constraint", tuple(dict.fromkeys(doubtful)), message=message, advice=advice)]


def _tokens(name: str) -> list[str]:
    return re.findall(r"[a-z]{3,}", spoken(name).lower())
