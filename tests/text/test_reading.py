"""Which names a text tower of English can read, and what it reads of a class."""

import pytest

from clipstill.text.reading import as_read, is_english, unread
from clipstill.text.task import parse_task


@pytest.mark.parametrize(
    "name",
    [
        *("dog", "ox", "T-shirt", "polar_bear", "crème brûlée", "éléphant", "Boeing 747", "smartphone", "Pikachu"),
        *("chequered", "gauzy", "misaligned", "zigzagged", "flawless", "coffeemaker", "clownfish", "type 2 screw"),
    ],
)
def test_english_words_and_what_is_made_of_them_are_read(name: str) -> None:
    assert is_english(name)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "собака",
            "σκύλος",
            "犬",
            "長頸鹿",
            "كلب",
            "🐶",
            "asdfgh",
            "qwerty",
            "Hund",
            "chien",
            "perro",
            "0",
            "12",
            "a",
        ),
        *("class_0", "label 3", "category B", "SKU-4711", "n02106662", "AB12"),
    ],
)
def test_other_languages_numbers_and_nonsense_are_not(name: str) -> None:
    assert not is_english(name)


def test_the_description_alone_is_read_where_the_name_cannot_be() -> None:
    task = parse_task(["собака: dog", "crane: a wading bird", "слон"])
    read = as_read(task, multilingual=False)
    assert read.names == ("dog", "crane", "слон")
    assert read.descriptions == ("", "a wading bird", "")
    assert as_read(task, multilingual=True) == task


def test_a_class_is_unread_if_neither_name_nor_description_is() -> None:
    task = parse_task(["собака: пёс", "слон: elephant", "dog"])
    assert unread(task, multilingual=False) == [0]
    assert unread(task, multilingual=True) == []
