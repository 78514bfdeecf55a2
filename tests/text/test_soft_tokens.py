"""Soft tokens inside sentences: with the embeddings of real words they are those words."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from clipstill.core.errors import ConfigError
from clipstill.core.progress import Progress
from clipstill.core.protocols import Teacher
from clipstill.teachers import load_teacher
from clipstill.text import prompt_strategies
from clipstill.text.settings import PromptSettings
from clipstill.text.soft_tokens import Sentence, SoftSentences, learn, random_tokens, token_sigma
from clipstill.text.task import parse_task
from text_fixtures import STYLES, TASK, WordsOnlyTeacher, request, tiny_clip, words

STYLED = "a {tokens} {class} in the style of {style}"


@cache
def embedded() -> Teacher:
    return load_teacher("embedded-s", torch.device("cpu"))


def teacher_of(name: str) -> Any:
    return {"words": words, "tiny-clip": tiny_clip, "embedded-s": embedded}[name]()


def word_tokens(teacher: Teacher, text: str) -> torch.Tensor:
    """The embeddings of words that are one token each, found where a sentence of other words differs."""
    embeddings, _ = teacher.embed_tokens([text, " ".join(["of"] * len(text.split()))])
    rows = (embeddings[0] != embeddings[1]).any(-1).nonzero()[:, 0]
    assert len(rows) == len(text.split())
    return embeddings[0, rows]


@pytest.mark.parametrize("name", ["words", "tiny-clip", "embedded-s"])
def test_soft_tokens_equal_to_words_give_the_vectors_of_the_words(name: str) -> None:
    teacher = teacher_of(name)
    sentences = [
        Sentence(STYLED, "dog", style="sketch"),
        Sentence(STYLED, "ice_cream", style="oil painting"),
        Sentence("a {tokens} style of a {class}", "dog"),
    ]
    tokens = word_tokens(teacher, "very big old")
    soft = SoftSentences(teacher, sentences, 3)
    with torch.no_grad():
        made = soft.encode(tokens.expand(3, -1, -1)).float()
    texts = [
        "a very big old dog in the style of sketch",
        "a very big old ice cream in the style of oil painting",
        "a very big old style of a dog",
    ]
    assert torch.allclose(made, teacher.encode_text(texts), atol=1e-5)
    assert not torch.allclose(made[0], made[1], atol=1e-2)


@pytest.mark.parametrize("name", ["words", "tiny-clip", "embedded-s"])
def test_a_class_that_holds_the_placeholder_keeps_it(name: str) -> None:
    teacher = teacher_of(name)
    made = SoftSentences(teacher, [Sentence("an x photo of a {tokens} {class}", "q z")], 2)
    tokens = word_tokens(teacher, "very big")
    with torch.no_grad():
        vector = made.encode(tokens[None]).float()
    assert torch.allclose(vector, teacher.encode_text(["an x photo of a very big q z"]), atol=1e-5)


def test_padding_that_nothing_reads_is_cut_off() -> None:
    soft = SoftSentences(tiny_clip(), [Sentence("a {tokens} {class}", "dog")], 2)
    assert soft.embeddings_MTE.shape[1] == 6  # start, a, two soft tokens, dog, end


def test_padding_that_is_read_is_kept() -> None:
    class Averaging(type(tiny_clip())):  # type: ignore[misc]
        def encode_tokens(self, embeddings_MTE: Any, position: Any) -> Any:
            return torch.nn.functional.normalize(embeddings_MTE.mean(1), dim=-1)

    teacher = Averaging.__new__(Averaging)
    teacher.__dict__ = tiny_clip().__dict__
    assert SoftSentences(teacher, [Sentence("a {tokens} {class}", "dog")], 2).embeddings_MTE.shape[1] == 16


@pytest.mark.parametrize("name", ["words", "tiny-clip", "embedded-s"])
def test_a_sentence_longer_than_the_teacher_reads_is_refused_by_class(name: str) -> None:
    long = "crane", "a large wading bird " * 40
    with pytest.raises(ConfigError, match="class 'crane': its sentence with 3 soft tokens is longer") as caught:
        SoftSentences(teacher_of(name), [Sentence(STYLED, "dog"), Sentence(STYLED, *long)], 3)
    assert "\n" not in str(caught.value)


def test_the_longest_sentence_that_fits_is_read_to_its_end() -> None:
    """15 of 16 tokens: one is kept free, by which a sentence that was cut is told."""
    soft = SoftSentences(tiny_clip(), [Sentence("a {tokens} {class} in the style of sketch", "dog")], 6)
    with torch.no_grad():
        made = soft.encode(word_tokens(tiny_clip(), "very big old red wet fat")[None])
    text = "a very big old red wet fat dog in the style of sketch"
    assert torch.allclose(made, tiny_clip().encode_text([text]), atol=1e-5)
    with pytest.raises(ConfigError, match="is longer"):
        SoftSentences(tiny_clip(), [Sentence("a {tokens} {class} in the style of sketch", "dog")], 7)


@pytest.mark.parametrize("strategy", ["random", "contrastive", "sdd"])
def test_a_teacher_without_soft_tokens_says_so(strategy: str) -> None:
    with pytest.raises(ConfigError, match="does not take soft tokens"):
        prompt_strategies.resolve(strategy)[0](request(WordsOnlyTeacher()))  # type: ignore[arg-type]


def test_a_tokenizer_without_the_placeholder_is_refused() -> None:
    class Halves(type(words())):  # type: ignore[misc]
        def embed_tokens(self, texts: Any) -> Any:
            return super().embed_tokens([" ".join(f"{letter} {letter}{letter}" for letter in text) for text in texts])

    with pytest.raises(ConfigError, match="tokenizer splits single letters"):
        SoftSentences(Halves(), [Sentence("a {tokens} {class}", "dog")], 2)


def test_gradients_reach_the_tokens_of_their_own_sentence_only() -> None:
    soft = SoftSentences(tiny_clip(), [Sentence("a {tokens} {class}", name) for name in ("dog", "cat")], 2)
    tokens = torch.zeros(2, 2, 16, requires_grad=True)
    soft.encode(tokens)[0, 0].backward()
    assert tokens.grad is not None
    assert float(tokens.grad[0].abs().min()) > 0
    assert float(tokens.grad[1].abs().max()) == 0


def test_the_automatic_sigma_is_that_of_the_words_alone() -> None:
    teacher: Any = words(sigma=0.7)
    sigma, width = token_sigma(teacher, parse_task("dog,cat"), STYLED, PromptSettings())
    read = ["a", "dog", "in", "the", "style", "of", "a", "cat", "in", "the", "style", "of"]
    expected = torch.stack([teacher.word(word) for word in read])
    assert (sigma, width) == (pytest.approx(float(expected.std())), 12)
    assert token_sigma(teacher, TASK, STYLED, PromptSettings(sigma=0.02))[0] == 0.02


def test_the_automatic_sigma_of_the_towers_is_their_own_scale() -> None:
    assert token_sigma(embedded(), TASK, STYLED, PromptSettings())[0] == pytest.approx(0.057, abs=0.006)


def test_tokens_are_drawn_by_class_and_row() -> None:
    drawn = random_tokens(0, "dog", 3, shape=(4, 500), sigma=0.25)
    assert torch.equal(drawn, random_tokens(0, "dog", 3, shape=(4, 500), sigma=0.25))
    assert float(drawn.std()) == pytest.approx(0.25, rel=0.05)
    assert abs(float(drawn.mean())) < 0.02
    for other in (
        random_tokens(0, "dog", 4, shape=(4, 500), sigma=0.25),
        random_tokens(1, "dog", 3, shape=(4, 500), sigma=0.25),
    ):
        assert abs(float((drawn * other).mean())) < 0.02 * 0.25


def test_one_step_of_learning_is_one_step_of_adam_whatever_the_batch() -> None:
    settings = PromptSettings(steps=1, lr=0.01)

    def losses(x: torch.Tensor) -> torch.Tensor:
        return x.square().flatten(1).sum(1)

    start = torch.tensor([[[1.0, -2.0]]])
    with Progress("test") as bar:
        alone = learn(start, losses, settings, bar)
        many = learn(start.repeat(50, 1, 1), losses, settings, bar)
    assert torch.allclose(alone, start - 0.01 * start.sign(), atol=1e-6)
    assert torch.allclose(many[:1], alone, atol=1e-6)


def test_texts_of_soft_prompts_are_readable() -> None:
    made = {name: prompt_strategies.resolve(name)[0](request(steps=0)).prompts for name in ("sdd", "random")}
    assert made["sdd"][0].text == f"a dog in the style of {STYLES[0]}"
    assert made["random"][4].text == "a S2 style of a ice cream"
