"""Names as the text tower reads them."""

from __future__ import annotations

import re

import pytest

from clipstill.core.names import spoken, told_apart, with_articles


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("GoldenRetriever", "Golden Retriever"),
        ("schoolBus", "school bus"),
        ("school.bus", "school bus"),
        ("01_school_bus", "school bus"),
        ("01_SchoolBus", "School Bus"),
        ("001.Black_footed_Albatross", "Black footed Albatross"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("n02085620 Chihuahua", "Chihuahua"),
        ("TVRemote", "TV Remote"),
        ("PolarBear", "Polar Bear"),
        ("fireTruck", "fire truck"),
        ("sea_horse", "sea horse"),
    ],
)
def test_an_identifier_is_read_as_words(name: str, words: str) -> None:
    assert spoken(name) == words


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a elephant in the style of a oil painting", "an elephant in the style of an oil painting"),
        ("A owl", "An owl"),
        ("any but a umbrella", "any but an umbrella"),
        ("a hourglass beside a house", "an hourglass beside a house"),
        *((text, text) for text in ("a unicorn", "a unit", "a European robin", "a USB stick", "a one-way sign")),
        *((text, text) for text in ("panda elephant", "plan a and b", "vitamin a in fruit", "a dog")),
    ],
)
def test_an_article_suits_the_sound_that_follows(text: str, told: str) -> None:
    assert with_articles(text) == told


@pytest.mark.parametrize(
    "name",
    [
        *("iPhone", "eBay", "McDonald", "MacBook", "DeLorean", "LaTeX", "macOS", "NASA", "TV", "USB-C", "DVDs", "mRNA"),
        *("YouTube", "PlayStation", "WhatsApp", "GitHub", "PayPal", "iPad", "PowerPoint", "FedEx"),
        *("U.S.A.", "J.Crew", "O'Brien", "7-Eleven", "737-800", "A300B4", "F-16A/B", "T-shirt", "3.5mm", "007", "0"),
        *("n02085620", "Söhne", "TrailBlazer SS 2009", "Mr. Bean", "No. 5", "1.FC Köln", "20 euro", "pH", "1."),
    ],
)
def test_brands_and_plain_names_stay_as_they_are(name: str) -> None:
    assert spoken(name) == name


def test_a_number_that_is_part_of_the_name_stays() -> None:
    assert [spoken(name) for name in ("18_wheeler", "20_euro", "3d_printer")] == ["18 wheeler", "20 euro", "3d printer"]


def test_published_names_of_classes_stay_as_they_are() -> None:
    names = pytest.importorskip("open_clip").IMAGENET_CLASSNAMES
    assert [name for name in names if spoken(name) != name] == []


def test_published_names_written_as_identifiers_are_split_but_for_words_that_people_join() -> None:
    names = [
        name
        for name in pytest.importorskip("open_clip").IMAGENET_CLASSNAMES
        if re.fullmatch("[a-z]{3,} [a-z]{3,}", name)
    ]
    joined = [name for name in names if spoken(name.title().replace(" ", "")).lower() != name]
    assert len(names) > 300
    assert set(joined) == {"tool kit", "sports car", "stone wall", "comic book", "ice cream", "hot dog"}


def test_classes_of_one_name_are_told_apart_by_a_number_that_is_not_read() -> None:
    names = ["missile", "sunglasses", "Missile", "missile (2)", "missile", "sunglasses"]
    apart = told_apart(names)
    assert apart == ["missile", "sunglasses", "Missile (3)", "missile (2)", "missile (4)", "sunglasses (2)"]
    assert [spoken(name).lower() for name in apart] == [spoken(name).lower() for name in names]
    assert told_apart(apart) == apart
    assert spoken("Audi S4 (2012)") == "Audi S4 (2012)"
