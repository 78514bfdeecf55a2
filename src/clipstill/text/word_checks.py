"""Checks of class names that need no teacher: names in another language, names of what is missing, misspellings."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from clipstill.core.names import spoken
from clipstill.core.progress import listed
from clipstill.text.reading import as_read, is_negation, unread
from clipstill.text.senses import choose_senses
from clipstill.text.task import Task
from clipstill.text.wordnet import wordnet

WARNING, NOTE = "warning", "note"
EXAMPLES_ADVICE = "or give a few example images of just this class (--examples DIR/{folder})"


@dataclass(frozen=True)
class Finding:
    """One problem of class names."""

    level: str  # ``"warning"`` if the problem probably costs accuracy, ``"note"`` if it may.
    # ``unreadable``, ``negation``, ``spelling``, ``plural``, ``synonym``, ``hypernym``, ``similar``, ``ambiguous``,
    # ``unknown``, ``unseen`` or ``constraint``.
    kind: str
    classes: tuple[str, ...]  # Names of the classes.
    message: str  # The problem.
    advice: str  # What to do, with a line to paste if there is one.
    taken_for: str = ""  # The other thing that the teacher takes the one class for; empty where it is not known.

    def line(self) -> str:
        """Problem and advice in one line."""
        return f"{self.message} {self.advice}"


class WordChecks:
    """What the words of a task show by themselves.

    Args:
        multilingual: Whether the teacher reads other languages than English.
        with_examples: Names of the classes with example images.
    """

    def __init__(self, task: Task, *, multilingual: bool = False, with_examples: Collection[str] = ()) -> None:
        self.task, self.nouns, self.with_examples = task, wordnet(), frozenset(with_examples)
        self.read = as_read(task, multilingual)
        # Positions of the classes that the teacher knows nothing of.
        self.unread = {place for place in unread(task, multilingual) if task.names[place] not in self.with_examples}
        self.meanings = choose_senses(self.read.names, self.nouns)

    def findings(self) -> list[Finding]:
        """All findings, warnings first, each in the order of the classes."""
        return self._clear_of_examples(self._of_words())

    def _of_words(self) -> list[Finding]:
        return [*self._unreadable(), *self._negations(), *self._misspelled()]

    def _clear_of_examples(self, found: Sequence[Finding]) -> list[Finding]:
        """Without what is said of classes that examples show, or that a negation explains."""
        found = [each for each in found if not self.with_examples.issuperset(each.classes)]
        negated = {each.classes for each in found if each.kind == "negation"}
        return [each for each in found if each.kind == "negation" or each.classes not in negated]

    def _unreadable(self) -> Iterator[Finding]:
        """Names in another language or of no words at all, which the teacher takes for anything."""
        names = [self.task.names[place] for place in sorted(self.unread) if not self._likely(place)]
        if names:
            quoted = [f"'{name}'" for name in names]
            message = (
                f"the teacher reads English and knows no word of {listed(quoted, most=4)}, so that it would name them "
                "at random, and no accuracy can be foretold."
            )
            advice = (
                f"Say in English behind a colon what it is: {names[0]}: dog. The label stays; the teacher reads the "
                f"English alone; {EXAMPLES_ADVICE.format(folder=names[0])}."
            )
            yield Finding(WARNING, "unreadable", tuple(names), message=message, advice=advice)

    def _likely(self, place: int) -> str | None:
        """The word that a name is a typing mistake away from; None for a word, or without one."""
        word = spoken(self.read.names[place]).lower()
        if self.meanings[place] or self.read.descriptions[place] or not word.isascii():
            return None
        return self.nouns.spelled_like(word)

    def _negations(self) -> Iterator[Finding]:
        """Names that say what a photo does not show: no text tower has a vector for that."""
        words = [spoken(name).lower() for name in self.read.names]
        for name, word, description in zip(self.task.names, words, self.read.descriptions, strict=True):
            if description or not is_negation(word, words):
                continue
            message = f"'{name}' says what a photo does not show; the teacher looks for the words in it."
            advice = (
                'Leave the class out: a student answers "none of these" by itself where a photo resembles no class '
                "enough. Name what should be refused: --set 'refusal.near_misses=[wolf, cat, tree]'; or describe what "
                f"is to be seen ({name}: ...)."
            )
            yield Finding(WARNING, "negation", (name,), message=message, advice=advice)

    def _misspelled(self) -> Iterator[Finding]:
        for place, name in enumerate(self.task.names):
            likely = self._likely(place)
            if likely is not None:
                message = f"'{self.read.names[place]}' is no word that WordNet knows; '{likely}' is."
                advice = f"If that is meant, write: {likely}"
                yield Finding(WARNING, "spelling", (name,), message=message, advice=advice)
