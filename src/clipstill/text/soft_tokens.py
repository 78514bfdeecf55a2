"""Soft tokens inside sentences, for any teacher whose text tower takes token embeddings.

The teacher tokenises the sentence with a placeholder word for each soft token, so that mask and end of text are right
for any tokenizer. The soft tokens then replace the embeddings of the placeholders.

Shapes: M sentences, T tokens of a sentence, L soft tokens, E token width, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.core.errors import ConfigError
from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.text.prompts import TEXTS_AT_ONCE
from clipstill.text.settings import PromptSettings
from clipstill.text.task import Task
from clipstill.text.templates import fill, put_tokens

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher

# Single letters are one token for CLIP and for BERT. Two texts that differ in this word alone show its places.
_PLACEHOLDERS = ("x", "q")
_ROUNDING = 1e-4  # Largest change of a vector that counts as rounding.


@dataclass(frozen=True)
class Sentence:
    """One sentence with soft tokens."""

    template: str  # Text with ``{tokens}`` and ``{class}``, and ``{style}`` if there is a style.
    name: str  # Name of the class.
    description: str = ""  # Description of the class, or an empty string.
    style: str = ""  # Style word, or an empty string.

    def text(self, tokens: str) -> str:
        """The sentence with these words in place of its soft tokens."""
        return fill(put_tokens(self.template, tokens), self.name, self.description, self.style)


class SoftSentences:
    """Sentences as token embeddings, with places for ``tokens`` soft tokens each (L, at least 1).

    Attributes:
        embeddings_MTE: Embeddings of the sentences with placeholders.
        place_ML: Positions of the soft tokens.
        word_MT: Whether a token is a word: not a placeholder, padding, or a mark of start or end.

    Raises:
        ConfigError: The teacher takes no soft tokens, or a sentence is longer than it reads.
    """

    def __init__(self, teacher: Teacher, sentences: Sequence[Sentence], tokens: int) -> None:
        self._teacher = teacher
        texts = [sentence.text(" ".join([word] * tokens)) for word in _PLACEHOLDERS for sentence in sentences]
        # A sentence fits if the teacher still reads one more placeholder at its end.
        ends = [word for word in _PLACEHOLDERS for _ in sentences]
        longer_XTE, _ = teacher.embed_tokens([f"{text} {word}" for text, word in zip(texts, ends, strict=True)])
        fits_M = _places(longer_XTE).sum(1) == tokens + 1
        if not bool(fits_M.all()):
            worst = sentences[int(fits_M.int().argmin())]
            raise ConfigError(
                f"class '{worst.name}': its sentence with {tokens} soft tokens is longer than {teacher.name} reads, or "
                "that teacher's tokenizer splits single letters. Shorten its description, or set prompts.tokens lower."
            )
        # The empty text consists of the marks of start and end, and padding.
        embeddings_XTE, position = teacher.embed_tokens([*texts, ""])
        is_place_MT, frame_TE = _places(embeddings_XTE[:-1]), embeddings_XTE[-1]
        self._position = position[: len(sentences)]
        self.embeddings_MTE = embeddings_XTE[: len(sentences)]
        # The stable sort puts the places first, in the order of the sentence.
        self.place_ML = is_place_MT.int().argsort(dim=1, descending=True, stable=True)[:, :tokens]
        frames_FE = frame_TE.unique(dim=0)  # type: ignore[no-untyped-call]
        is_frame_MT = torch.stack([(self.embeddings_MTE == frame_E).all(-1) for frame_E in frames_FE]).any(0)
        self.word_MT = ~(is_place_MT | is_frame_MT)
        self._cut_padding()

    @torch.no_grad()
    def _cut_padding(self) -> None:
        """Drop padding after the longest sentence if the teacher ignores it, as a causal tower such as CLIP does."""
        if self._position.dim() != 1:
            return
        width = int(self._position.max()) + 1
        if width <= int(self.place_ML.max()) or width >= self.embeddings_MTE.shape[1]:
            return
        whole_1TE, position_1 = self.embeddings_MTE[:1], self._position[:1]
        before = self._teacher.encode_tokens(whole_1TE, position_1)
        after = self._teacher.encode_tokens(whole_1TE[:, :width], position_1)
        if torch.allclose(before, after, atol=_ROUNDING):
            self.embeddings_MTE = self.embeddings_MTE[:, :width]
            self.word_MT = self.word_MT[:, :width]

    def encode(self, tokens_MLE: Tensor, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Unit vectors (M, D), differentiable to the tokens; ``augment`` changes the embeddings of whole sentences."""
        place_MLE = self.place_ML[..., None].expand(-1, -1, self.embeddings_MTE.shape[-1])
        filled_MTE = self.embeddings_MTE.to(tokens_MLE.dtype).scatter(1, place_MLE, tokens_MLE)
        return self._teacher.encode_tokens(filled_MTE if augment is None else augment(filled_MTE), self._position)


def _places(embeddings_XTE: Tensor) -> Tensor:
    """Where texts with the first placeholder, the first half, differ from the same texts with the second one."""
    first_MTE, second_MTE = embeddings_XTE.chunk(2)
    return (first_MTE != second_MTE).any(-1)


def class_sentences(task: Task, template: str, count: int = 1, styles: Sequence[str] = ("",)) -> list[Sentence]:
    """``count`` sentences of each class, class by class; the styles take turns."""
    classes = zip(task.names, task.descriptions, strict=True)
    return [Sentence(template, *one, styles[place % len(styles)]) for one in classes for place in range(count)]


@torch.no_grad()
def token_sigma(teacher: Teacher, task: Task, template: str, settings: PromptSettings) -> tuple[float, int]:
    """Standard deviation of the soft tokens' start, and their width E.

    ``"auto"`` is that of the teacher's embeddings of the words of these sentences: 0.02, as is usual for CLIP, would be
    too small for a tower with larger embeddings.
    """
    sentences = class_sentences(task, template)
    parts = []
    for at in range(0, len(sentences), TEXTS_AT_ONCE):
        soft = SoftSentences(teacher, sentences[at : at + TEXTS_AT_ONCE], settings.tokens)
        parts.append(soft.embeddings_MTE[soft.word_MT].double())
    words_WE = torch.cat(parts)
    sigma = float(words_WE.std()) if isinstance(settings.sigma, str) else float(settings.sigma)
    return sigma, words_WE.shape[-1]


def random_tokens(seed: int, name: str, row: int, *, shape: tuple[int, int], sigma: float) -> Tensor:
    """Soft tokens (L, E) from N(0, sigma) on the CPU; they depend only on seed, class name and row."""
    return sigma * torch.randn(shape, generator=generator_for(seed, name, "soft tokens", row))


def learn(tokens: Tensor, losses: Callable[[Tensor], Tensor], settings: PromptSettings, bar: Progress) -> Tensor:
    """Optimise soft tokens by Adam.

    Args:
        tokens: Start of the tokens, of any shape.
        losses: Function from tokens to one loss per prompt. The sum is minimised, so that a step does not depend on
            the number of prompts.
        settings: ``steps`` and ``lr`` are read.
        bar: Advanced by one per step.
    """
    learned = tokens.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([learned], lr=settings.lr)
    for _ in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        loss_M = losses(learned)
        loss_M.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        bar.advance(1, loss=float(loss_M.detach().mean()))
    return learned.detach()


@torch.no_grad()
def encode_sentences(teacher: Teacher, sentences: Sequence[Sentence], tokens_MLE: Tensor) -> Tensor:
    """Unit vectors (M, D), float32 on the CPU, of sentences with one set of soft tokens each."""
    parts = []
    with Progress("prompts", total=len(sentences), unit="prompt") as bar:
        for at in range(0, len(sentences), TEXTS_AT_ONCE):
            chosen = sentences[at : at + TEXTS_AT_ONCE]
            soft = SoftSentences(teacher, chosen, tokens_MLE.shape[1])
            tokens = tokens_MLE[at : at + TEXTS_AT_ONCE].to(soft.embeddings_MTE.device)
            parts.append(soft.encode(tokens).float().cpu())
            bar.advance(len(chosen))
    return torch.cat(parts)
