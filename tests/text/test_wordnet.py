"""The table of nouns: made from a few lines in WordNet's own form, and the stored one."""

import gzip
import json
from pathlib import Path

import pytest

from clipstill.core.errors import ArtifactError, DataError
from clipstill.text.wordnet import Sense, Wordnet, wordnet
from tools.weights.wordnet import noun_table

DATA = """\
  1 This software and database is being provided to you
00000001 03 n 01 entity 0 000 | that which is
00000002 05 n 01 bird 0 001 @ 00000001 n 0000 | warm-blooded egg layer (of many kinds); "a bird sang"
00000003 05 n 01 crane 0 001 @ 00000002 n 0000 | large long-necked wading bird; lives in marshes
00000004 06 n 02 crane 1 hoist 0 001 @ 00000001 n 0000 | lifts and moves heavy objects
00000005 18 n 01 Crane 0 001 @i 00000001 n 0000 | United States writer (1871-1900)
"""
INDEX = """\
bird n 1 1 @ 1 1 00000002
crane n 3 1 @ 3 0 00000005 00000004 00000003
entity n 1 0 1 1 00000001
hoist n 1 1 @ 1 0 00000004
"""
COUNTS = "crane%1:05:00:: 1 7\ncrane%2:29:00:: 1 2\n"


def table(classes: tuple[str, ...] = ("00000003",)) -> Wordnet:
    values = noun_table(DATA.splitlines(), INDEX.splitlines(), COUNTS.splitlines(), classes)
    return Wordnet(json.loads(json.dumps(values)))


@pytest.mark.parametrize(
    ("gloss", "definition"),
    [
        ("box with a lid", "box with a lid"),
        (
            "any of numerous small rodents typically resembling diminutive rats having pointed snouts and small",
            "any of numerous small rodents typically resembling diminutive rats having pointed snouts",
        ),
        (
            "the part of the human torso between the neck and the diaphragm or the corresponding part in other",
            "the part of the human torso between the neck and the diaphragm",
        ),
        (
            "use of the same consonant at the beginning of each stressed syllable in a line of verse",
            "use of the same consonant at the beginning of each stressed syllable in a line",
        ),
    ],
)
def test_a_definition_for_people_ends_with_a_whole_clause_or_phrase(gloss: str, definition: str) -> None:
    assert Sense(1, gloss, 0, 5).definition == definition


def test_senses_keep_wordnets_order_and_leave_single_persons_out() -> None:
    senses = table().senses("Crane")
    assert [sense.gloss for sense in senses] == ["lifts and moves heavy objects", "large long-necked wading bird"]
    assert [sense.count for sense in senses] == [0, 7]
    assert all(sense.is_visible for sense in senses)


def test_a_gloss_is_without_remarks_and_examples() -> None:
    assert table().senses("bird")[0].gloss == "warm-blooded egg layer"


def test_the_first_word_names_a_sense_and_its_kind() -> None:
    nouns = table()
    hoist = nouns.senses("hoist")[0].number
    assert nouns.words(hoist) == ["crane", "hoist"]
    assert nouns.kind_word(nouns.senses("crane")[1].number) == "bird"


def test_a_kind_covers_imagenet_where_a_class_lies_at_or_below_it() -> None:
    assert table(("00000003",)).covers_imagenet(table().senses("bird")[0].number)
    assert not table(("00000002",)).covers_imagenet(table().senses("crane")[1].number)
    assert not table(("00000002",)).covers_imagenet(table().senses("hoist")[0].number)


def test_a_class_that_is_no_noun_is_told() -> None:
    with pytest.raises(DataError, match="00000099"):
        table(("00000099",))


@pytest.mark.parametrize(
    ("written", "entry"),
    [
        ("Motorbikes", "motorbike"),
        ("sea_horse", "sea horse"),
        ("T-shirt", "t-shirt"),
        ("glasses", "glasses"),
        ("buses", "bus"),
        ("wolves", "wolf"),
        ("firemen", "fireman"),
        ("qwertz", None),
    ],
)
def test_names_are_found_as_people_write_them(written: str, entry: str | None) -> None:
    assert wordnet().lemma(written) == entry


def test_a_typing_mistake_leads_to_the_word() -> None:
    assert wordnet().spelled_like("water lilly") == "water lily"
    assert wordnet().spelled_like("zzzzzz") is None


@pytest.mark.parametrize(
    ("written", "word"), [("elefant", "elephant"), ("kamera", "camera"), ("krokodile", "crocodile"), ("asdfgh", None)]
)
def test_a_word_as_it_sounds_leads_to_the_word(written: str, word: str | None) -> None:
    assert wordnet().spelled_like(written) == word


def test_the_stored_table_knows_that_a_sofa_is_a_couch_and_a_dog_an_animal() -> None:
    nouns = wordnet()
    assert {sense.number for sense in nouns.senses("sofa")} & {sense.number for sense in nouns.senses("couch")}
    assert nouns.senses("animal")[0].number in nouns.distances_up(nouns.senses("dog")[0].number)
    assert nouns.imagenet_kinship(nouns.senses("goldfish")[0].number) == 1
    assert len(nouns.imagenet_words()) == 1000


def test_a_damaged_table_is_told(tmp_path: Path) -> None:
    path = tmp_path / "cut.json.gz"
    path.write_bytes(gzip.compress(b'{"glosses": []}')[:-9])
    with pytest.raises(ArtifactError, match="cut.json.gz"):
        wordnet(path)
