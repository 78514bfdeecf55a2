"""What may go wrong with class names before anything is computed: double meanings, names of one thing, unknown words.

WordNet says what a name can mean, the other classes say which meaning is wanted, and the teacher's text tower says what
it takes the bare name for. All cosines are read as *shares*: 0 where unrelated words lie in this teacher's space, 1 at
identity, so that one threshold serves any teacher.

Shapes: C classes, W words, M texts, D teacher dimensions.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from clipstill.core.names import spoken
from clipstill.text.task import Task
from clipstill.text.wordnet import Sense, Wordnet, singulars

if TYPE_CHECKING:
    from torch import Tensor

# Texts -> unit vectors (M, D), made as the teacher reads a bare class name.
Encode = Callable[[Sequence[str]], "Tensor"]

WARNING, NOTE = "warning", "note"

# From here on the teacher has one vector for two names: with the embedded teachers sofa and couch lie at 0.9, tulip and
# tulips at 0.84, dog and animal at 0.68, any two of CIFAR-10's or PACS's names below 0.6.
_SAME = 0.8
# How much nearer a bare name must lie to another meaning than to the wanted one before the teacher is said to mean it.
# Of 0.1 to 0.3 chosen on the Caltech-101 names.
_LEANS = 0.15
_STRANGENESS_UNKNOWN = -0.3
# The same between a word of another kind and all that WordNet says of the name, and how near that word must lie.
_STRANGE, _STRANGE_NEAR = 0.2, 0.35
# By how much the other classes must prefer one meaning before it counts as decided, in steps of WordNet's tree.
_DECIDED = 1.0
# Senses that differ are of two lexicographer files, or meet no deeper than "artefact".
_DEPTH_OF_ARTEFACT = 4
# Kinds above this depth ("living thing", "device") say too little; and how far up they are looked for.
_DEPTH_OF_KIND, _KINDS_UP = 6, 5
# Kinds that people have a plain word for, and that say how a thing looks.
_PLAIN_KINDS = (
    "animal, bird, building, cat, clothing, color, dessert, dish, dog, fish, flower, food, fruit, furniture, garment, "
    "insect, machine, mammal, mushroom, musical instrument, plant, reptile, ship, shoe, tool, toy, tree, vegetable, "
    "vehicle, weapon"
)
KINDS = frozenset(_PLAIN_KINDS.split(", "))
# Kinds of what cannot be photographed. Events, colours and shapes, which are no things either, can.
_UNSEEN = frozenset(("state", "feeling", "quality", "trait", "right"))
_COLOURS = frozenset(("color", "weather", "shape", "pattern", "texture"))
# Share of the classes whose meaning must be known for a kind to be said with all of them.
_COVERED = 0.8
# Weights of a sense beside what the other classes say: how frequent it is, and whether a photo can show it.
_FREQUENT, _VISIBLE = 3.0, 1.5
_EXAMPLES_ADVICE = "or give a few example images of just this class (--examples DIR/{folder})"


@dataclass(frozen=True)
class Finding:
    """One thing to know before a run.

    Attributes:
        level: ``"warning"`` where quality is likely lost, ``"note"`` where it may be.
        kind: ``spelling``, ``plural``, ``synonym``, ``hypernym``, ``similar``, ``ambiguous``, ``unknown``,
            ``unseen`` or ``constraint``.
        classes: names that it is about.
        message: what is wrong.
        advice: what to do, with a line to paste where there is one.
    """

    level: str
    kind: str
    classes: tuple[str, ...]
    message: str
    advice: str

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "classes": list(self.classes)}


@dataclass(frozen=True)
class Known:
    """Words that any teacher is taken to know, in its space.

    Attributes:
        words: W common nouns.
        vectors_WD: unit vectors.
        unrelated: mean cosine between two of them.
    """

    words: Sequence[str]
    vectors_WD: Tensor
    unrelated: float

    @classmethod
    def of(cls, words: Sequence[str], encode: Encode) -> Known:
        """Ask the teacher."""
        vectors_WD = encode(words)
        between_WW = vectors_WD @ vectors_WD.T
        count = len(words)
        return cls(words, vectors_WD, float((between_WW.sum() - between_WW.trace()) / (count * (count - 1))))

    def share(self, cosines: Tensor) -> Tensor:
        """Cosines -> 0 for unrelated, 1 for the same."""
        return (cosines - self.unrelated) / (1 - self.unrelated)


@dataclass(frozen=True)
class Meaning:
    """One sense of a name among the other names.

    Attributes:
        sense: what it means.
        context: how much the other names speak for it: the part of the way up WordNet's tree that it has in common with
            them, in steps.
        score: the same with how frequent the sense is and whether photos show it.
    """

    sense: Sense
    context: float
    score: float


def choose_senses(names: Sequence[str], nouns: Wordnet) -> list[list[Meaning]]:
    """The meanings of each name, the likeliest first; none for a name that WordNet does not know.

    Next to heron and stork, a crane is a bird; next to an excavator it is a machine.
    """
    senses = [nouns.senses(name) for name in names]
    likely = [_frequencies(of_name) for of_name in senses]
    ups = [[nouns.distances_up(sense.number).keys() for sense in of_name] for of_name in senses]
    support: dict[int, dict[int, float]] = {}
    for place, ups_of_name in enumerate(ups):
        for above, share in zip(ups_of_name, likely[place], strict=True):
            for one in above:
                # By frequency: two names that share a rare sense would else speak for each other.
                by_name = support.setdefault(one, {})
                by_name[place] = max(by_name.get(place, 0.0), share)
    total = {one: sum(by_name.values()) for one, by_name in support.items()}
    chosen = []
    for place, of_name in enumerate(senses):
        meanings = []
        for sense, above, share in zip(of_name, ups[place], likely[place], strict=True):
            context = sum(total[one] - support[one][place] for one in above) / max(1, len(names) - 1)
            visible = _VISIBLE * (sense.is_visible - sense.is_person)
            meanings.append(Meaning(sense, context, context + _FREQUENT * share + visible))
        chosen.append(sorted(meanings, key=lambda one: -one.score))
    return chosen


def _frequencies(senses: Sequence[Sense]) -> list[float]:
    """Share of each sense of a word, from tagged texts; where none was met there, from WordNet's order."""
    weights = [sense.count + 1 / (order + 1) for order, sense in enumerate(senses)]
    return [weight / sum(weights) for weight in weights]


class Linter:
    """One task in one teacher's space.

    Args:
        task: names and descriptions; a class with a description is taken to be clear.
        class_vectors_CD: unit vectors of the classes, as the run will use them.
        known: words that the teacher knows.
        encode: the teacher.
        nouns: WordNet.

    Attributes:
        task, vectors_CD, known, encode, nouns: the same.
        meanings: of each name, see ``choose_senses``.
    """

    def __init__(self, task: Task, class_vectors_CD: Tensor, known: Known, encode: Encode, nouns: Wordnet) -> None:
        self.task, self.vectors_CD, self.known, self.encode, self.nouns = (
            task,
            class_vectors_CD.float(),
            known,
            encode,
            nouns,
        )
        self.meanings = choose_senses(task.names, nouns)
        between_CC = self.vectors_CD @ self.vectors_CD.T
        self._numbers = [{each.sense.number for each in scored} for scored in self.meanings]
        self._share_CC: list[list[float]] = known.share(between_CC).tolist()
        clear = [bool(description) for description in task.descriptions]
        self._unclear = [place for place in range(len(task.names)) if not clear[place]]
        # Everything is asked at once: a text tower's cost is mostly in the number of calls.
        texts = {place: self._texts_about(place) for place in self._unclear}
        unique = list(dict.fromkeys(text for about in texts.values() for group in about for text in group))
        bare = [spoken(task.names[place]) for place in self._unclear]
        self._about: dict[int, list[float]] = {}
        self._near: dict[int, list[float]] = {}
        if not bare:
            return
        vectors_MD = encode([*bare, *unique])
        row = {text: len(bare) + number for number, text in enumerate(unique)}
        for number, place in enumerate(self._unclear):
            bare_D = vectors_MD[number]
            self._near[place] = known.share(known.vectors_WD @ bare_D).tolist()
            shares = known.share(vectors_MD @ bare_D)
            self._about[place] = [float(shares[[row[text] for text in group]].max()) for group in texts[place]]
        self._parts = {
            place: self._shares_of_parts(place, vectors_MD[number], encode)
            for number, place in enumerate(self._unclear)
            if len(_tokens(self.task.names[place])) > 1
        }

    def _texts_about(self, place: int) -> list[list[str]]:
        """For each sense of a name, what WordNet says of it without the name."""
        return [self._texts_of(each.sense, self.task.names[place]) for each in self.meanings[place]]

    def _texts_of(self, sense: Sense, name: str) -> list[str]:
        up = self.nouns.distances_up(sense.number).items()
        kinds = [
            self.nouns.word(number)
            for number, steps in up
            if steps == 1 or (1 < steps <= _KINDS_UP and self.nouns.depth(number) >= _DEPTH_OF_KIND)
        ]
        lemma = self.nouns.lemma(name) or name
        others = [word for word in self.nouns.words(sense.number) if lemma not in word and word not in lemma]
        # "The fur of a beaver" lies near a beaver whatever is meant.
        gloss = [] if re.search(rf"\b{re.escape(lemma)}", sense.gloss) else [sense.gloss]
        return [*gloss, *kinds, *others[:2]] or [sense.gloss]

    def _shares_of_parts(self, place: int, bare_D: Tensor, encode: Encode) -> dict[str, float]:
        """How near a name of several words lies to each of them."""
        parts = _tokens(self.task.names[place])
        shares = self.known.share(encode(parts) @ bare_D)
        return dict(zip(parts, shares.tolist(), strict=True))

    def findings(self) -> list[Finding]:
        """What is doubtful, warnings first, each in the order of the classes."""
        found = [*self.pairs(), *self.doubtful()]
        found += self.constraint(found)
        return sorted(found, key=lambda one: one.level != WARNING)

    def strangeness(self, place: int) -> float:
        """How much nearer a name lies to something else than to what it is; negative where it is not.

        Something else is another meaning of it, or a word of another kind. For a name that has a description, or that
        WordNet does not know, the middle of what is met.
        """
        if place not in self._about or not self.meanings[place]:
            return _STRANGENESS_UNKNOWN
        strangers = [share for share, _ in self._strangers(place, self.meanings[place][0].sense)]
        others = [share for share, _ in self._other_meanings(place)]
        return max([*strangers, *others], default=0.0) - self._about[place][0]

    def _other_meanings(self, place: int) -> list[tuple[float, Meaning]]:
        """Meanings that photos show as something else than the wanted one, with how near the bare name lies to each."""
        wanted, *others = self.meanings[place]
        near = self._about[place][1:]
        return [
            (share, each)
            for share, each in zip(near, others, strict=True)
            if each.sense.is_visible and self._differ(wanted.sense, each.sense)
        ]

    # --- two classes ---

    def pairs(self) -> list[Finding]:
        """Names of one thing, kinds of one another, and names that the teacher cannot tell apart."""
        names = self.task.names
        found = self._spelling()
        for first in range(len(names)):
            for second in range(first + 1, len(names)):
                one = self._pair(first, second)
                if one is not None:
                    found.append(one)
        return found

    def _pair(self, first: int, second: int) -> Finding | None:
        a, b = self.task.names[first], self.task.names[second]
        share = self._share_CC[first][second]
        if self._are_plurals(a, b):
            return Finding(
                WARNING,
                "plural",
                (a, b),
                f"'{a}' and '{b}' are one word.",
                f"Remove one of them, or say what differs: {a}: what it is.",
            )
        if self.meanings[first] and self.meanings[second]:
            sense, other = self.meanings[first][0].sense, self.meanings[second][0].sense
            shared = self._numbers[first] & self._numbers[second]
            either = {sense.number, other.number}
            if sense.number == other.number or (shared & either and share >= _SAME / 2):
                gloss = self.nouns.gloss(sense.number if sense.number in shared else other.number)
                return Finding(
                    WARNING,
                    "synonym",
                    (a, b),
                    f"'{a}' and '{b}' are two names of one thing ({gloss}).",
                    "Keep one of them.",
                )
            for (low, low_sense, place), (high, high_sense) in (
                ((a, sense, first), (b, other)),
                ((b, other, second), (a, sense)),
            ):
                if high_sense.number in self.nouns.distances_up(low_sense.number) and self._is_usual(place):
                    return Finding(
                        WARNING,
                        "hypernym",
                        (low, high),
                        f"'{low}' is a kind of '{high}', so that a photo of the one is a photo of both.",
                        f"Replace '{high}' by its other kinds, or name what is left of it: {high}: any but a "
                        f"{spoken(low)}.",
                    )
        if share >= _SAME:
            return Finding(
                WARNING,
                "similar",
                (a, b),
                f"the teacher can hardly tell '{a}' from '{b}': {share:.2f} of the way from unrelated to the same.",
                f"Describe what differs ({a}: ...), give example images of both, or make them one class.",
            )
        return None

    def _is_usual(self, place: int) -> bool:
        """Whether the chosen sense is one that people use: an old bus is a kind of car, too, and nobody means that."""
        wanted = self.meanings[place][0].sense
        usual = next((sense for sense in self.nouns.senses(self.task.names[place]) if sense.is_visible), wanted)
        return wanted.number == usual.number or wanted.count > 0

    def _are_plurals(self, a: str, b: str) -> bool:
        one, other = spoken(a).lower(), spoken(b).lower()
        if other in singulars(one):
            one, other = other, one
        # Glasses are no plural of glass: WordNet has both.
        return one in singulars(other) and self.nouns.lemma(other) != other

    def _spelling(self) -> list[Finding]:
        found = []
        for place, name in enumerate(self.task.names):
            word = spoken(name).lower()
            if self.meanings[place] or self.task.descriptions[place] or not word.isascii():
                continue
            likely = self.nouns.spelled_like(word)
            if likely is not None:
                found.append(
                    Finding(
                        WARNING,
                        "spelling",
                        (name,),
                        f"'{name}' is no word that WordNet knows; '{likely}' is.",
                        f"If that is meant, write: {likely}",
                    )
                )
        return found

    # --- one class ---

    def doubtful(self) -> list[Finding]:
        """Names with several meanings, and names that the teacher takes for something else."""
        found = []
        for place in self._unclear:
            one = self._unseen(place) or self._ambiguous(place) or self._unknown(place)
            if one is not None:
                found.append(one)
        return found

    def _unseen(self, place: int) -> Finding | None:
        """A name of nothing that can be photographed, such as freedom."""
        senses = [each.sense for each in self.meanings[place]]
        if not senses or not all(self._is_unseen(sense) for sense in senses):
            return None
        name = self.task.names[place]
        return Finding(
            NOTE,
            "unseen",
            (name,),
            f"'{name}' names nothing that a photo shows by itself ({senses[0].gloss}); what stands for it in images is "
            "the teacher's guess.",
            f"Name what is to be seen, such as a thing or a scene; {_EXAMPLES_ADVICE.format(folder=name)}.",
        )

    def _is_unseen(self, sense: Sense) -> bool:
        kinds = {self.nouns.word(number) for number in self.nouns.distances_up(sense.number)}
        return not sense.is_visible and bool(kinds & _UNSEEN) and not kinds & _COLOURS

    def _ambiguous(self, place: int) -> Finding | None:
        scored, near = self.meanings[place], self._about[place]
        if len(scored) < 2:
            return None
        wanted, others = scored[0].sense, self._other_meanings(place)
        if not others:
            return None
        nearest, meaning = max(others, key=lambda one: one[0])
        name, other = self.task.names[place], meaning.sense
        lines = f"{name}: {wanted.gloss} | {name}: {other.gloss}"
        decided = scored[0].context - meaning.context >= _DECIDED
        rare = wanted.count > 5 * (other.count + 1)
        if nearest - near[0] >= _LEANS and not (rare and decided):
            wants = "the other classes suggest the first" if decided else "the other classes do not say which"
            return Finding(
                WARNING,
                "ambiguous",
                (name,),
                f"'{name}' can be {self._kind_of(wanted)} or {self._kind_of(other)}; {wants}, and the teacher seems to "
                "take the bare name for the second.",
                f"Say which: {lines}",
            )
        if not decided and not rare:
            return Finding(
                NOTE,
                "ambiguous",
                (name,),
                f"'{name}' can be {self._kind_of(wanted)} or {self._kind_of(other)}; the teacher seems to take it for "
                "the first.",
                f"If that is wrong, say which: {lines}",
            )
        return None

    def _differ(self, one: Sense, other: Sense) -> bool:
        """Whether photos of the two show different things: the flesh of a fish is on photos of fish, too."""
        kinds = {self.nouns.kind(one.number), self.nouns.kind(other.number)}
        if len(kinds) == 2:
            return not self.nouns.is_food(one.number) and not self.nouns.is_food(other.number)
        up, other_up = self.nouns.distances_up(one.number), self.nouns.distances_up(other.number)
        return max(self.nouns.depth(number) for number in up.keys() & other_up.keys()) <= _DEPTH_OF_ARTEFACT

    def _kind_of(self, sense: Sense) -> str:
        """``a wading bird``."""
        word = self.nouns.kind_word(sense.number) or sense.gloss
        return f"{'an' if word[:1] in 'aeiou' else 'a'} {word}"

    def _unknown(self, place: int) -> Finding | None:
        name = self.task.names[place]
        if not self.meanings[place]:
            return self._unheard_of(place)
        wanted = self.meanings[place][0].sense
        own = self._about[place][0]
        strangest, word = max(((share, word) for share, word in self._strangers(place, wanted)), default=(0.0, ""))
        if strangest < _STRANGE_NEAR or strangest - own < _STRANGE:
            return None
        kind = self._kind_of(wanted)
        return Finding(
            WARNING,
            "unknown",
            (name,),
            f"the teacher hardly knows '{name}' ({kind}): its vector lies at {word} ({strangest:.2f}), farther from "
            f"what it is ({own:.2f}).",
            f"Describe it: {name}: {wanted.gloss}; {_EXAMPLES_ADVICE.format(folder=name)}.",
        )

    def _unheard_of(self, place: int) -> Finding | None:
        """A word that WordNet does not have, such as the name of a product."""
        name = self.task.names[place]
        parts = _tokens(name)
        if any(self.nouns.senses(part) for part in parts) or self.nouns.spelled_like(spoken(name).lower()):
            return None
        order = sorted(range(len(self.known.words)), key=lambda word: -self._near[place][word])
        nearest = ", ".join(self.known.words[word] for word in order[:3])
        return Finding(
            NOTE,
            "unknown",
            (name,),
            f"WordNet does not know '{name}'; the teacher puts it near {nearest}.",
            f"If it is none of that kind, describe it: {name}: what it is and looks like; "
            f"{_EXAMPLES_ADVICE.format(folder=name)}.",
        )

    def _strangers(self, place: int, wanted: Sense) -> Iterable[tuple[float, str]]:
        """Words that the name lies near and that are nothing of its kind, with how near."""
        up = self.nouns.distances_up(wanted.number)
        near = dict(zip(self.known.words, self._near[place], strict=True)) | self._parts.get(place, {})
        for word, share in near.items():
            if share >= _STRANGE_NEAR and not self._is_related(word, up):
                yield share, word

    def _is_related(self, word: str, up: dict[int, int]) -> bool:
        """Whether some meaning of the word is of the same kind, more narrowly than "artefact" or "living thing"."""
        senses = self.nouns.senses(word)
        if not senses:
            return True  # Nothing can be said of it.
        for sense in senses:
            common = self.nouns.distances_up(sense.number).keys() & up.keys()
            if common and max(self.nouns.depth(number) for number in common) >= _DEPTH_OF_KIND:
                return True
        return False

    # --- all classes ---

    def constraint(self, found: Sequence[Finding]) -> list[Finding]:
        """What all classes are a kind of, where some of them would profit from its being said."""
        doubtful = [name for one in found if one.kind in ("ambiguous", "unknown") for name in one.classes]
        kind = self.common_kind()
        if kind is None or not doubtful:
            return []
        template = json.dumps([f"{{class}}, a type of {kind}"])
        return [
            Finding(
                NOTE,
                "constraint",
                tuple(dict.fromkeys(doubtful)),
                f"all classes are a kind of {kind}; said with each of them, it leaves less to guess.",
                f"--set 'prompts.templates={template}' (a CLIP teacher: \"a photo of a {{class}}, a type of {kind}.\")",
            )
        ]

    def common_kind(self) -> str | None:
        """The narrowest plain word that all known classes are a kind of; None where there is none that says much."""
        senses = [scored[0].sense.number for scored in self.meanings if scored]
        counts: dict[int, int] = {}
        for number in senses:
            for above in self.nouns.distances_up(number):
                counts[above] = counts.get(above, 0) + 1
        # One sentence is said of all classes, so it must be true of each whose meaning is known.
        least = max(2, len(senses))
        if least < _COVERED * len(self.task.names):
            return None
        own = {spoken(name).lower() for name in self.task.names}
        kinds = [(self.nouns.depth(number), number) for number, count in counts.items() if count >= least]
        for _, number in sorted(kinds, reverse=True):
            word = self.nouns.word(number)
            if word in KINDS and word not in own:
                return word
        return None


def _tokens(name: str) -> list[str]:
    return re.findall(r"[a-z]{3,}", spoken(name).lower())
