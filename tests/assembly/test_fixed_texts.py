"""Vectors of fixed texts: encoded once, and stored for the embedded teachers."""

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

from clipstill.assembly import fixed_texts
from clipstill.assembly.class_vectors import other_words, task_of, text_vectors
from clipstill.assembly.fixed_texts import encode_once
from clipstill.assembly.foresight import common_words, imagenet_names
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.minilm import MiniLM
from clipstill.text.near_misses import WORDS
from clipstill.workflow.recipes import load_settings
from tools.weights.fixed_texts import fixed_texts as stored_lists

TEXTS = ("dog", "a big grey elephant", "lamp")
SETTINGS = load_settings(overrides=("device=cpu",))


class Counting(EmbeddedTeacher):
    """Counts the lists of texts that it encodes."""

    calls = 0

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls += 1
        return super().encode_text(texts)


@pytest.fixture
def teacher(monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setattr(fixed_texts, "_ENCODED", {})
    return Counting("embedded-s", ("lite0",), torch.device("cpu"))


def test_a_list_is_encoded_once(teacher: Counting) -> None:
    first = encode_once(teacher, TEXTS, SETTINGS)
    assert encode_once(teacher, TEXTS, SETTINGS) is first
    assert teacher.calls == 1
    assert torch.equal(first, teacher.encode_text(TEXTS))
    encode_once(teacher, TEXTS[1:], SETTINGS)
    assert teacher.calls == 3


@pytest.mark.parametrize("use", [common_words, imagenet_names])
def test_vectors_that_every_task_needs_are_stored(
    teacher: Counting, monkeypatch: pytest.MonkeyPatch, use: Callable[..., Any]
) -> None:
    def compute(self: MiniLM, texts: Sequence[str]) -> Tensor:
        raise AssertionError(f"{len(texts)} texts are computed")

    monkeypatch.setattr(MiniLM, "computed", compute)
    use(teacher, SETTINGS)


def test_stored_vectors_are_those_of_the_text_tower() -> None:
    tower = MiniLM(torch.device("cpu"))
    for texts in stored_lists():
        torch.testing.assert_close(tower.encode(texts), tower.computed(texts), atol=1e-5, rtol=0)


def test_common_words_are_encoded_once_for_all_uses(teacher: Counting) -> None:
    task = task_of(["dog", "cat"])
    text_CD = text_vectors(teacher, task, SETTINGS)
    known = common_words(teacher, SETTINGS)
    calls = teacher.calls
    others = other_words(teacher, task, SETTINGS, text_CD)
    assert teacher.calls == calls + 1  # The kinds of things, which only near misses need.
    assert torch.equal(others.vectors_WD, text_vectors(teacher, task_of(WORDS), SETTINGS))
    assert torch.allclose(known.vectors_WD, others.vectors_WD, atol=1e-6)
