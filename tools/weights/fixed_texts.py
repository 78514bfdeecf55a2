"""Vectors of the texts that every task needs, in the text tower of the embedded teachers."""

from __future__ import annotations

from pathlib import Path

import torch

from clipstill.core.names import spoken
from clipstill.core.tensors import write_tensors
from clipstill.teachers.minilm import FIXED_FILE, MiniLM, key_of
from clipstill.text.near_misses import KINDS, WORDS
from clipstill.text.wordnet import wordnet


def fixed_texts() -> list[list[str]]:
    """Common words, their kinds, and the names of ImageNet's classes, as the embedded teachers read them."""
    return [[spoken(text).lower() for text in texts] for texts in (WORDS, KINDS, wordnet().imagenet_words())]


def build_fixed_texts(out: Path) -> None:
    """Write their vectors."""
    torch.set_num_threads(1)
    tower = MiniLM(torch.device("cpu"))
    write_tensors(out / FIXED_FILE, {key_of(texts): tower.computed(texts) for texts in fixed_texts()})
