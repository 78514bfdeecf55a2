"""Teachers that are small enough to learn prompts for: a bag of words in closed form, and a random CLIP."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any, cast

import open_clip
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.protocols import Preprocess, Provenance, Teacher
from clipstill.core.seeds import generator_for
from clipstill.teachers import class_vectors
from clipstill.teachers.openclip import OpenClipTeacher
from clipstill.text.prompts import PromptRequest
from clipstill.text.settings import PromptSettings
from clipstill.text.task import Task, parse_task
from clipstill.text.templates import class_texts

TASK = parse_task(["dog", "ice_cream", "crane: a bird"])
STYLES = ("sketch", "mosaic", "oil painting")


class WordTeacher:
    """The vector of a text is a linear map of the mean of its words' embeddings, normalised. Reads 24 tokens."""

    name = "words"
    templates = "plain"
    multilingual = False
    limit = 24

    def __init__(self, width: int = 12, dim: int = 16, sigma: float = 0.5, weights: str = "one") -> None:
        self.width, self.dim, self.sigma = width, dim, sigma
        self.weights_sha256 = weights * 16
        draw = generator_for("words", weights)
        self.map_ED = torch.randn(width, dim, generator=draw, dtype=torch.float64)

    def word(self, word: str) -> Tensor:
        return self.sigma * torch.randn(self.width, generator=generator_for(word), dtype=torch.float64)

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        tokens = [["<start>", *re.findall(r"\w+|[^\w\s]", text)] for text in texts]
        tokens = [[*words[: self.limit - 1], "<end>"] for words in tokens]
        longest = max(map(len, tokens))
        mask = torch.tensor([[i < len(words) for i in range(longest)] for words in tokens])
        padded = [words + ["<pad>"] * (longest - len(words)) for words in tokens]
        return torch.stack([torch.stack([self.word(word) for word in words]) for words in padded]), mask

    def encode_tokens(self, embeddings_MTE: Tensor, position: Tensor) -> Tensor:
        share = position / position.sum(1, keepdim=True)
        return normalize((embeddings_MTE * share[..., None].to(embeddings_MTE)).sum(1) @ self.map_ED.to(embeddings_MTE))

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return self.encode_tokens(*self.embed_tokens(texts)).float()


class WordsOnlyTeacher(WordTeacher):
    """Takes no soft tokens, and says so as every such teacher does."""

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        from clipstill.core.errors import ConfigError

        raise ConfigError(f"the text tower of {self.name} does not take soft tokens. Choose a plain CLIP model.")

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return WordTeacher().encode_text(texts)


def words(**arguments: Any) -> Teacher:
    return cast(Teacher, WordTeacher(**arguments))


@cache
def tiny_clip() -> OpenClipTeacher:
    """CLIP's architecture and tokenizer with 16 tokens and random weights."""
    text = open_clip.CLIPTextCfg(context_length=16, vocab_size=49408, width=16, heads=2, layers=2)
    vision = open_clip.CLIPVisionCfg(image_size=32, layers=1, width=32, head_width=16, patch_size=16)
    model = open_clip.CLIP(24, vision, text)
    draw = generator_for("tiny clip")
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=draw) / tensor.shape[-1] ** 0.5)
    return OpenClipTeacher(
        model,
        open_clip.SimpleTokenizer(context_length=16),
        name="openclip:tiny",
        dim=24,
        dtype=torch.float32,
        preprocess=Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
        provenance=Provenance("tiny", "none", "random", "f" * 64),
    )


def request(
    teacher: Teacher | None = None,
    *,
    task: Task = TASK,
    styles: Sequence[str] = STYLES,
    per_class: int = 4,
    seed: int = 0,
    **settings: Any,
) -> PromptRequest:
    """A request whose class vectors are those of the bare names."""
    teacher = teacher or words()
    vectors_CD = class_vectors(teacher, class_texts(task, ["a {class}"]))
    return PromptRequest(
        task,
        per_class,
        seed,
        teacher,
        vectors_CD,
        PromptSettings(**{"steps": 200, "lr": 0.01, "styles": styles, **settings}),
    )
