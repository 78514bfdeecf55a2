"""Words that are taken for a class, and are not."""

from __future__ import annotations

import torch
from torch.nn.functional import normalize

from clipstill.core.seeds import generator_for
from clipstill.text.near_misses import KINDS, NEAREST, WORDS, choose_near_misses, word_shares

D = 64


def unit(n: int, name: str) -> torch.Tensor:
    return normalize(torch.randn(n, D, generator=generator_for("near misses", name)), dim=1)


WORD_VECTORS, KIND_VECTORS = unit(len(WORDS), "words"), unit(len(KINDS), "kinds")


def near(word: str, share: float) -> torch.Tensor:
    """A unit vector whose cosine with the word's is ``share``."""
    base = WORD_VECTORS[WORDS.index(word)]
    other = unit(1, f"beside {word}")[0]
    other = normalize(other - (other @ base) * base, dim=0)
    return share * base + (1 - share**2) ** 0.5 * other


def chosen(names: list[str], vectors: list[torch.Tensor], count: int) -> list[str]:
    return choose_near_misses(*word_shares(names, torch.stack(vectors), WORD_VECTORS, KIND_VECTORS), count)


def test_every_word_is_there_once() -> None:
    assert len(set(WORDS)) == len(WORDS) > 200
    assert all(word == word.strip() and word for word in WORDS)


def test_a_word_that_is_near_comes_first_and_one_that_may_be_the_class_does_not() -> None:
    # Unrelated words have a cosine of about 0 here, so shares are cosines.
    assert "wolf" not in chosen(["dog"], [near("wolf", NEAREST + 0.1)], 20)
    # 0.33 is beyond what a random vector of 64 numbers reaches but for few.
    assert "wolf" in chosen(["dog"], [near("wolf", NEAREST - 0.02)], 3)


def test_words_of_a_class_name_are_left_out_in_any_number() -> None:
    vectors = [near("wolf", 0.3)]
    assert "wolf" in chosen(["dog"], vectors, len(WORDS))
    assert "wolf" not in chosen(["Wolf dogs"], vectors, len(WORDS))
    assert "wolf" not in chosen(["wolfs"], vectors, len(WORDS))


def test_what_a_class_is_a_kind_name_of_is_left_out_whole() -> None:
    animal = KIND_VECTORS[KINDS.index("animal")]
    found = chosen(["fauna"], [animal], len(WORDS))
    assert not {"wolf", "owl", "snake", "bee", "shark"} & set(found)
    assert {"car", "apple", "chair"} & set(found)


def test_classes_take_turns_and_no_word_comes_twice() -> None:
    found = chosen(["a", "b", "c"], [near("wolf", 0.34), near("car", 0.34), near("cup", 0.34)], 12)
    assert set(found[:3]) == {"wolf", "car", "cup"}
    assert len(set(found)) == len(found) == 12


def test_more_than_there_are_gives_all_that_are_far_enough() -> None:
    assert len(chosen(["a"], [near("wolf", 0.9)], 10_000)) < len(WORDS)
