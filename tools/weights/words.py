"""Words of the embedded teachers: WordNet's nouns above the ImageNet classes, and vectors of texts.

Shapes: M texts, W nouns, K = 1000 ImageNet classes, E = 384 text dimensions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.errors import DataError
from clipstill.core.files import atomic_path, read_json, write_json
from clipstill.core.progress import say
from clipstill.teachers.minilm import DIM, MiniLM
from tools.weights.packages import fetch

# WordNet 3.0 offsets.
PERSON = "00007846"
CLOTHING = "03051540"


@dataclass(frozen=True)
class Synset:
    """One meaning in WordNet's noun file."""

    offset: str  # Its number, eight digits; ImageNet's ``n02084071`` is offset ``02084071``.
    lemmas: tuple[str, ...]  # Its words, in lower case with spaces for underscores.
    hypernyms: tuple[str, ...]  # Offsets of what it is a kind or an instance of.


@dataclass(frozen=True)
class Noun:
    """A synset at or above some ImageNet classes, which are its members in ascending order."""

    offset: str
    lemmas: tuple[str, ...]
    members: tuple[int, ...]


def parse_synset(line: str) -> Synset | None:
    """One line of ``data.noun``; None for the lines of its licence, which start with spaces.

    The fields are: offset, file number, type, number of words (hexadecimal), word and sense number of each, number of
    pointers, then symbol, offset, part of speech and source/target of each. Source: wndb(5WN).

    Raises:
        DataError: The line is malformed.
    """
    if line.startswith("  "):
        return None
    fields = line.split(" | ", 1)[0].split()
    try:
        words = int(fields[3], 16)
        lemmas = tuple(fields[4 + 2 * i].replace("_", " ").lower() for i in range(words))
        at = 4 + 2 * words
        pointers = [fields[at + 1 + 4 * i : at + 3 + 4 * i] for i in range(int(fields[at]))]
        # "@" is a kind of, "@i" an instance of.
        return Synset(fields[0], lemmas, tuple(offset for symbol, offset in pointers if symbol in ("@", "@i")))
    except (IndexError, ValueError):
        raise DataError(f"not a line of WordNet's noun file: '{line[:60].rstrip()}'. Get wordnet-base 3.0.") from None


def read_synsets(path: Path) -> dict[str, Synset]:
    """WordNet's ``data.noun``, by offset."""
    with path.open(encoding="utf-8") as lines:
        return {synset.offset: synset for line in lines if (synset := parse_synset(line)) is not None}


def nouns_above(synsets: dict[str, Synset], classes: Sequence[str]) -> list[Noun]:
    """Each synset at or above at least one of the classes, which are given by offset."""
    members: dict[str, list[int]] = {}
    for number, offset in enumerate(classes):
        waiting, seen = [offset], set()
        while waiting:
            current = waiting.pop()
            if current not in seen:
                seen.add(current)
                members.setdefault(current, []).append(number)
                waiting += synsets[current].hypernyms
    return [Noun(offset, synsets[offset].lemmas, tuple(below)) for offset, below in members.items()]


def with_dressed_people(nouns: list[Noun]) -> list[Noun]:
    """``person`` extended by the classes below ``clothing``, whose photos show people who wear it."""
    clothes = next(noun.members for noun in nouns if noun.offset == CLOTHING)
    return [
        replace(noun, members=tuple(sorted({*noun.members, *clothes}))) if noun.offset == PERSON else noun
        for noun in nouns
    ]


def imagenet_nouns(cache: Path) -> tuple[list[Noun], list[Noun]]:
    """The nouns above the ImageNet classes, and the noun of each class in the classes' order."""
    from timm.data.imagenet_info import ImageNetInfo

    info: Any = ImageNetInfo("imagenet-1k")
    offsets = [info.index_to_label_name(number).removeprefix("n") for number in range(info.num_classes())]
    synsets = read_synsets(fetch("wordnet-base", cache) / "usr" / "share" / "wordnet" / "data.noun")
    nouns = with_dressed_people(nouns_above(synsets, offsets))
    by_offset = {noun.offset: noun for noun in nouns}
    return nouns, [by_offset[offset] for offset in offsets]


class TextVectors:
    """MiniLM vectors of lower-case texts, each computed once.

    Args:
        texts: All texts that will be asked for.
        cache: Folder of ``texts.json`` and ``texts.safetensors``.
    """

    def __init__(self, texts: Iterable[str], cache: Path) -> None:
        names, vectors = cache / "texts.json", cache / "texts.safetensors"
        self.texts: list[str] = []
        self.vectors_ME = torch.empty(0, DIM)
        # The list is written after the vectors.
        if names.exists():
            self.texts = read_json(names)
            self.vectors_ME = load_file(vectors)["texts"][: len(self.texts)]
        missing = sorted({text.lower() for text in texts}.difference(self.texts))
        if missing:
            say(f"text vectors: {len(missing)} new, {len(self.texts)} in the cache")
            self.vectors_ME = torch.cat([self.vectors_ME, MiniLM(torch.device("cpu")).encode(missing)])
            self.texts += missing
            with atomic_path(vectors) as temporary:
                save_file({"texts": self.vectors_ME}, temporary)
            write_json(names, self.texts)
        self._number = {text: number for number, text in enumerate(self.texts)}

    def numbers(self, texts: Iterable[str]) -> list[int]:
        """Rows of ``vectors_ME``."""
        return [self._number[text.lower()] for text in texts]

    def of(self, texts: Iterable[str]) -> Tensor:
        """Unit vectors (M, E)."""
        return self.vectors_ME[self.numbers(texts)]


def words_tensors(nouns: Sequence[Noun], classes: Sequence[Noun], vectors: TextVectors) -> dict[str, Tensor]:
    """The content of ``assets/embedded-words.safetensors``, which ``clipstill.teachers.embedded.Words`` reads.

    Args:
        nouns: Each of their lemmas becomes one row.
        classes: The noun of each ImageNet class.
        vectors: Vectors of all lemmas.
    """
    names_KE = F.normalize(torch.stack([vectors.of(noun.lemmas).mean(0) for noun in classes]), dim=-1)
    mean_E = names_KE.mean(0)
    rows = [(lemma, noun.members) for noun in nouns for lemma in noun.lemmas]
    pairs = torch.tensor([(row, member) for row, (_, members) in enumerate(rows) for member in members])
    return {
        "text_mean_E": mean_E.half(),
        "class_names_KE": F.normalize(names_KE - mean_E, dim=-1).half(),
        "noun_vectors_WE": F.normalize(vectors.of(lemma for lemma, _ in rows) - mean_E, dim=-1).half(),
        "member_noun": pairs[:, 0].short(),
        "member_class": pairs[:, 1].short(),
    }
