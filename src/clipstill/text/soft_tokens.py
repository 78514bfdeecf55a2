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

# Single letters are one token for CLIP and for BERT. Each sentence takes the first that is not among its own tokens, as
# "x" is in "x-ray".
_PLACEHOLDERS = ("x", "q", "z", "j", "v", "k", "w", "y")
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
        unique = list(dict.fromkeys(sentences))
        row = {sentence: number for number, sentence in enumerate(unique)}
        row_M = torch.tensor([row[sentence] for sentence in sentences])
        words = _placeholders(teacher, unique)
        texts = [sentence.text(" ".join([words[i]] * tokens)) for i, sentence in enumerate(unique)]
        marks_UE = torch.stack([_embedding(teacher, word) for word in words])
        # A sentence fits if the teacher still reads one more placeholder at its end.
        longer_UTE, _ = teacher.embed_tokens([f"{text} {word}" for text, word in zip(texts, words, strict=True)])
        fits_U = (longer_UTE == marks_UE[:, None]).all(-1).sum(1) == tokens + 1
        if not bool(fits_U.all()):
            worst = unique[int(fits_U.int().argmin())]
            raise ConfigError(
                f"class '{worst.name}': its sentence with {tokens} soft tokens is longer than {teacher.name} reads. "
                "Shorten its description, or set prompts.tokens lower."
            )
        # The empty text consists of the marks of start and end, and padding.
        embeddings_UTE, position = teacher.embed_tokens([*texts, ""])
        self._position = position[:-1][row_M.to(position.device)]
        frame_TE, embeddings_UTE = embeddings_UTE[-1], embeddings_UTE[:-1]
        is_place_UT = (embeddings_UTE == marks_UE[:, None]).all(-1)
        # The stable sort puts the places first, in the order of the sentence.
        place_UL = is_place_UT.int().argsort(dim=1, descending=True, stable=True)[:, :tokens]
        frames_FE = frame_TE.unique(dim=0)  # type: ignore[no-untyped-call]
        is_frame_UT = torch.stack([(embeddings_UTE == frame_E).all(-1) for frame_E in frames_FE]).any(0)
        rows = row_M.to(embeddings_UTE.device)
        self.embeddings_MTE = embeddings_UTE[rows]
        self.place_ML = place_UL[rows]
        self.word_MT = ~(is_place_UT | is_frame_UT)[rows]
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


def _embedding(teacher: Teacher, word: str) -> Tensor:
    """The token embedding (E,) of a placeholder."""
    other = next(one for one in _PLACEHOLDERS if one != word)
    pair_2TE, _ = teacher.embed_tokens([word, other])
    differs = (pair_2TE[0] != pair_2TE[1]).any(-1).nonzero()
    if len(differs) != 1:
        raise ConfigError(
            f"the tokenizer of {teacher.name} does not take '{word}' as one token, which soft tokens need as their "
            "placeholder. Choose another teacher, or the prompt strategy 'styles'."
        )
    return pair_2TE[0, int(differs[0, 0])]


def _placeholders(teacher: Teacher, sentences: Sequence[Sentence]) -> list[str]:
    """For each sentence, the first placeholder that is not one of its own tokens."""
    chosen: dict[int, str] = {}
    missing = list(range(len(sentences)))
    for word in _PLACEHOLDERS:
        embeddings, _ = teacher.embed_tokens([sentences[i].text("") for i in missing])
        is_free = ~(embeddings == _embedding(teacher, word)).all(-1).any(-1)
        chosen |= {i: word for i, free in zip(missing, is_free.tolist(), strict=True) if free}
        missing = [i for i in missing if i not in chosen]
        if not missing:
            return [chosen[i] for i in range(len(sentences))]
    raise ConfigError(
        f"class '{sentences[missing[0]].name}': its sentence holds each of the single letters "
        f"{', '.join(_PLACEHOLDERS)}, one of which must be free to stand for soft tokens. Reword its description."
    )


def class_sentences(task: Task, template: str) -> list[Sentence]:
    """The sentence of each class without a style, in the order of the task."""
    return [Sentence(template, *one) for one in zip(task.names, task.descriptions, strict=True)]


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


def start_tokens(seed: int, names: Sequence[str], count: int, *, shape: tuple[int, int], sigma: float) -> Tensor:
    """``random_tokens`` of ``count`` rows of every class: (C, n, L, E)."""
    rows = [[random_tokens(seed, name, row, shape=shape, sigma=sigma) for row in range(count)] for name in names]
    return torch.stack([torch.stack(of_class) for of_class in rows])


def learn(
    tokens: Tensor, losses: Callable[[Tensor], Tensor], settings: PromptSettings, bar: Progress
) -> tuple[Tensor, list[float]]:
    """Optimise soft tokens by Adam; returns them and the mean loss before each step.

    Args:
        tokens: Start of the tokens, of any shape.
        losses: Function from tokens to one loss per prompt. The sum is minimised, so that a step does not depend on
            the number of prompts.
        settings: ``steps`` and ``lr`` are read.
        bar: Advanced by one per step.
    """
    learned = tokens.detach().clone().requires_grad_()
    optimiser = torch.optim.Adam([learned], lr=settings.lr)
    history = []
    for _ in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        loss_M = losses(learned)
        loss_M.sum().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        history.append(float(loss_M.detach().mean()))
        bar.advance(1, loss=history[-1])
    return learned.detach(), history


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
