"""The table of WordNet's nouns for the linter: senses of a word by frequency, what each is a kind of, a gloss.

It is made from Debian's ``wordnet-base``. Equal packages give equal bytes.
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from clipstill.core.errors import DataError
from clipstill.core.files import write_bytes, write_text
from clipstill.core.progress import say
from tools.weights.packages import PACKAGES, fetch, package_table
from tools.weights.words import imagenet_nouns, parse_synset, read_synsets

TABLE_FILE = "wordnet-nouns.json.gz"
LEDGER_FILE = "LICENCES-wordnet.md"
_PACKAGE = "wordnet-base"
# WordNet 3.0 offset of "physical entity".
_PHYSICAL = "00001930"
# In characters: a description should fit into a sentence.
_LONGEST_GLOSS = 100


def build_wordnet(out: Path, cache: Path) -> Path:
    """Get the package, write the table and its licence ledger into ``out``; returns the table's path.

    Raises:
        ResourceError: The package cannot be fetched.
        DataError: It is malformed.
    """
    root = fetch(_PACKAGE, cache) / "usr" / "share"
    data, index, counts = (
        (root / "wordnet" / name).read_text("utf-8").splitlines() for name in ("data.noun", "index.noun", "cntlist.rev")
    )
    classes = [noun.offset for noun in imagenet_nouns(cache)[1]]
    table = noun_table(data, index, counts, classes)
    target = out / TABLE_FILE
    text = json.dumps(table, ensure_ascii=False, separators=(",", ":"))
    # Without the time, so that equal tables give equal bytes.
    write_bytes(target, gzip.compress(text.encode(), compresslevel=9, mtime=0))
    write_text(out / LEDGER_FILE, _ledger((root / "doc" / _PACKAGE / "copyright").read_text("utf-8")))
    say(f"wordnet: {len(table['words'])} words, {len(table['glosses'])} senses, {target.stat().st_size / 1e6:.1f} MB")
    return target


def noun_table(
    data: Iterable[str], index: Iterable[str], counts: Iterable[str], classes: Iterable[str]
) -> dict[str, Any]:
    """The table as plain values, which ``clipstill.text.wordnet`` reads.

    Args:
        data: Lines of ``data.noun``.
        index: Lines of ``index.noun``.
        counts: Lines of ``cntlist.rev``: occurrences of each sense in tagged texts.
        classes: Offset of each ImageNet class.

    Returns:
        By sense: ``glosses``, ``names`` (row of its first word), ``kinds`` (number of the lexicographer file) and
        ``above`` (senses it is a kind of).
        ``words``: The senses of each word, the most frequent first; single persons and places only for a word that
        means nothing else. ``counts``: Occurrences of each sense of a word, for words that occurred.
        ``imagenet``: The sense of each ImageNet class.
    """
    met = {key: int(count) for key, _, count in (line.split() for line in counts if "%1:" in line)}
    number: dict[str, int] = {}
    glosses: list[str] = []
    kinds: list[int] = []
    above: list[tuple[str, ...]] = []
    single: list[bool] = []
    of_lemma: dict[tuple[str, str], int] = {}
    for line in data:
        synset = parse_synset(line)
        if synset is None:
            continue
        facts, _, gloss = line.partition(" | ")
        fields = facts.split()
        number[synset.offset] = len(glosses)
        glosses.append(_short(gloss))
        kinds.append(int(fields[1]))
        above.append(synset.hypernyms)
        single.append("@i" in fields)
        for i, lemma in enumerate(synset.lemmas):
            key = f"{lemma.replace(' ', '_')}%1:{fields[1]}:{int(fields[5 + 2 * i], 16):02d}::"
            of_lemma[lemma, synset.offset] = met.get(key, 0)
    first = {number[offset]: lemma for (lemma, offset) in reversed(of_lemma)}
    offsets_of = {
        lemma: [offset for offset in offsets if not single[number[offset]]] or offsets
        for lemma, offsets in _index_offsets(index)
    }
    words = {lemma: [number[offset] for offset in offsets] for lemma, offsets in offsets_of.items()}
    tagged = {lemma: [of_lemma.get((lemma, offset), 0) for offset in offsets] for lemma, offsets in offsets_of.items()}
    try:
        imagenet = [number[offset] for offset in classes]
    except KeyError as error:
        raise DataError(f"{error} is an ImageNet class and no noun of this WordNet. Get wordnet-base 3.0.") from None
    place = {word: row for row, word in enumerate(words)}
    return {
        "glosses": glosses,
        "names": [place[first[row]] for row in range(len(glosses))],
        "kinds": kinds,
        "above": [[number[offset] for offset in offsets] for offsets in above],
        "words": words,
        "counts": {lemma: found for lemma, found in tagged.items() if any(found)},
        "imagenet": imagenet,
    }


def physical_things(cache: Path) -> set[str]:
    """The nouns whose most frequent sense is a physical thing, in lower case with spaces."""
    folder = fetch(_PACKAGE, cache) / "usr" / "share" / "wordnet"
    synsets = read_synsets(folder / "data.noun")
    physical: dict[str, bool] = {_PHYSICAL: True}

    def is_physical(offset: str) -> bool:
        if offset not in physical:
            physical[offset] = any(is_physical(above) for above in synsets[offset].hypernyms)
        return physical[offset]

    index = (folder / "index.noun").read_text("utf-8").splitlines()
    return {lemma for lemma, offsets in _index_offsets(index) if is_physical(offsets[0])}


def _index_offsets(index: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    """Each word of the index with the offsets of its senses."""
    for line in index:
        if not line.startswith("  "):
            lemma, *rest = line.split()
            yield lemma.replace("_", " "), rest[-int(rest[1]) :]


def _short(gloss: str) -> str:
    """The gloss without remarks and examples; long ones are cut at a comma or a word."""
    text = re.sub(r"\([^)]*\)\s*", "", gloss.split('; "')[0]).split(";")[0]
    text = " ".join(text.split()).strip(" ,:")
    if len(text) <= _LONGEST_GLOSS:
        return text
    cut = text[: _LONGEST_GLOSS + 1]
    comma = cut.rfind(",")
    kept = cut[:comma] if comma > _LONGEST_GLOSS // 2 else cut[: cut.rfind(" ")]
    # Without trailing words such as "of the".
    return re.sub(r"(\s+(a|an|the|of|in|on|or|and|with|for|to|from|by|that|which|as|at|is|used|having))+$", "", kept)


def _ledger(copyright_text: str) -> str:
    """The package and its full licence, which must go with every copy."""
    _, _, rest = copyright_text.partition("License: WordNet3.0\n")
    licence = rest.partition("\n\n")[0]
    lines = ["" if line.strip() == "." else line.strip() for line in licence.splitlines()]
    return "\n".join(
        [
            "# What the table of nouns is made of",
            "",
            f"`{TABLE_FILE}` holds words, senses and shortened glosses of the nouns of WordNet 3.0,",
            "copyright 1996-2012 Cognitive Science Laboratory, Princeton University.",
            "",
            *package_table([PACKAGES[_PACKAGE]]),
            "",
            "Its licence:",
            "",
            *(f"> {line}".rstrip() for line in lines),
            "",
        ]
    )
