"""Vectors of fixed texts: kept bit for bit, made again where the file is damaged, and made without a cache."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from clipstill.assembly import fixed_texts
from clipstill.assembly.class_vectors import other_words, task_of, text_vectors
from clipstill.assembly.fixed_texts import encode_once
from clipstill.assembly.foresight import common_words
from clipstill.teachers import load_teacher
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.text.near_misses import WORDS
from clipstill.workflow.recipes import load_settings

TEXTS = ("dog", "a big grey elephant", "lamp")
SETTINGS = load_settings(overrides=("device=cpu",))


class Counting(EmbeddedTeacher):
    """Counts the lists of texts that it encodes."""

    calls = 0

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        self.calls += 1
        return super().encode_text(texts)


@pytest.fixture
def teacher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Counting:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(fixed_texts, "_ENCODED", {})
    return Counting("embedded-s", ("lite0",), torch.device("cpu"))


def in_a_new_process(teacher: Counting, monkeypatch: pytest.MonkeyPatch, *, settings: Any = SETTINGS) -> Tensor:
    monkeypatch.setattr(fixed_texts, "_ENCODED", {})
    return encode_once(teacher, TEXTS, settings)


def test_vectors_are_kept_bit_for_bit(teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = encode_once(teacher, TEXTS, SETTINGS)
    assert encode_once(teacher, TEXTS, SETTINGS) is first
    assert torch.equal(in_a_new_process(teacher, monkeypatch), first)
    assert teacher.calls == 1
    assert torch.equal(first, teacher.encode_text(TEXTS))
    assert len(list((tmp_path / "clipstill" / "texts").iterdir())) == 1


def test_what_may_change_a_bit_makes_them_again(teacher: Counting, monkeypatch: pytest.MonkeyPatch) -> None:
    encode_once(teacher, TEXTS, SETTINGS)
    monkeypatch.setattr(torch, "__version__", "99")
    in_a_new_process(teacher, monkeypatch)
    assert teacher.calls == 2


@pytest.mark.parametrize("damage", ["cut", "bit", "empty"])
def test_a_damaged_file_is_made_again(
    teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str
) -> None:
    first = encode_once(teacher, TEXTS, SETTINGS)
    (path,) = (tmp_path / "clipstill" / "texts").iterdir()
    whole = path.read_bytes()
    path.write_bytes({"cut": whole[:-9], "bit": whole[:-1] + bytes([whole[-1] ^ 1]), "empty": b""}[damage])
    assert torch.equal(in_a_new_process(teacher, monkeypatch), first)
    assert teacher.calls == 2
    assert torch.equal(in_a_new_process(teacher, monkeypatch), first)
    assert teacher.calls == 2


def test_a_cache_that_cannot_be_written_stops_nothing(
    teacher: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "clipstill").write_text("a file in its place")
    assert torch.equal(encode_once(teacher, TEXTS, SETTINGS), teacher.encode_text(TEXTS))
    monkeypatch.setenv("XDG_CACHE_HOME", "http://not/a/path")
    in_a_new_process(teacher, monkeypatch)


def test_other_teachers_leave_no_file(teacher: Counting, tmp_path: Path) -> None:
    ensemble = load_teacher("embedded-s+embedded-s", torch.device("cpu"))
    encode_once(ensemble, TEXTS, SETTINGS)
    assert not (tmp_path / "clipstill").exists()


def test_common_words_are_encoded_once_for_all_uses(teacher: Counting) -> None:
    task = task_of(["dog", "cat"])
    text_CD = text_vectors(teacher, task, SETTINGS)
    known = common_words(teacher, SETTINGS)
    calls = teacher.calls
    others = other_words(teacher, task, SETTINGS, text_CD)
    assert teacher.calls == calls + 1  # The kinds of things, which only near misses need.
    assert torch.equal(others.vectors_WD, text_vectors(teacher, task_of(WORDS), SETTINGS))
    assert torch.allclose(known.vectors_WD, others.vectors_WD, atol=1e-6)
