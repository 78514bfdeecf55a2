"""Learned tokens inside ordinary sentences, for any teacher whose text tower takes token embeddings.

The sentence is written with a placeholder word for each soft token, and the teacher cuts it into tokens as always: so
the end of the text and the mask are where they belong, whatever the tokenizer, and nothing has to be moved. The rows
that the placeholders' embeddings stand in are then replaced by the learned ones.

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
from clipstill.text.settings import PromptSettings
from clipstill.text.task import Task
from clipstill.text.templates import fill, put_tokens

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher

# Single letters are one token in the vocabulary of CLIP and in that of BERT. The first that does not occur in a
# sentence by itself is taken: "x" does in "x-ray".
PLACEHOLDERS = ("x", "q", "z", "j", "v", "k", "w", "y")
# How much vectors may move where padding is cut off: rounding, and no more.
_SAME = 1e-4


@dataclass(frozen=True)
class Sentence:
    """One sentence with soft tokens.

    Attributes:
        template: with ``{tokens}`` and ``{class}``, and ``{style}`` where there is one.
        name: of the class.
        description: of the class, or an empty string.
        style: or an empty string.
    """

    template: str
    name: str
    description: str = ""
    style: str = ""

    def text(self, tokens: str) -> str:
        """The sentence with these words in place of its soft tokens."""
        return fill(put_tokens(self.template, tokens), self.name, self.description, self.style)


class SoftSentences:
    """Sentences as token embeddings, with places for L soft tokens each.

    Args:
        teacher: whose text tower reads them.
        sentences: at least one; equal ones are cut into tokens once.
        tokens: L, at least 1.

    Attributes:
        embeddings_MTE: of the sentences, the placeholders' still in their places.
        place_ML: where the soft tokens belong.
        word_MT: which tokens are words of the sentence: no placeholder, no padding, no mark of its start or end.

    Raises:
        ConfigError: the teacher takes no soft tokens, or a sentence is longer than it reads.
    """

    def __init__(self, teacher: Teacher, sentences: Sequence[Sentence], tokens: int) -> None:
        self._teacher = teacher
        unique = list(dict.fromkeys(sentences))
        row = {sentence: number for number, sentence in enumerate(unique)}
        row_M = torch.tensor([row[sentence] for sentence in sentences])
        words = _placeholders(teacher, unique)
        texts = [sentence.text(" ".join([words[i]] * tokens)) for i, sentence in enumerate(unique)]
        marks_UE = torch.stack([_embedding(teacher, word) for word in words])
        # A further placeholder at the end is read only if all of the sentence is.
        longer_UTE, _ = teacher.embed_tokens([f"{text} {word}" for text, word in zip(texts, words, strict=True)])
        fits_U = (longer_UTE == marks_UE[:, None]).all(-1).sum(1) == tokens + 1
        if not bool(fits_U.all()):
            worst = unique[int(fits_U.int().argmin())]
            raise ConfigError(
                f"class '{worst.name}': its sentence with {tokens} soft tokens is longer than {teacher.name} reads. "
                "Shorten its description, or set prompts.tokens lower."
            )
        # Without words: what it holds are the tokens that every text has around it, and padding.
        embeddings_UTE, position = teacher.embed_tokens([*texts, ""])
        self._position = position[:-1][row_M.to(position.device)]
        frame_TE, embeddings_UTE = embeddings_UTE[-1], embeddings_UTE[:-1]
        is_place_UT = (embeddings_UTE == marks_UE[:, None]).all(-1)
        # The sort is stable: the places come first, in the order of the sentence.
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
        """Drop what follows the longest sentence, where the teacher's vectors are the same without it.

        A causal tower that reads its vector at the end of the text never looks there; CLIP pads to 77 tokens, most of
        which are never seen. Others do look, so it is tried out and not assumed.
        """
        if self._position.dim() != 1:
            return
        width = int(self._position.max()) + 1
        if width <= int(self.place_ML.max()) or width >= self.embeddings_MTE.shape[1]:
            return
        whole_1TE, position_1 = self.embeddings_MTE[:1], self._position[:1]
        before = self._teacher.encode_tokens(whole_1TE, position_1)
        after = self._teacher.encode_tokens(whole_1TE[:, :width], position_1)
        if torch.allclose(before, after, atol=_SAME):
            self.embeddings_MTE = self.embeddings_MTE[:, :width]
            self.word_MT = self.word_MT[:, :width]

    def encode(self, tokens_MLE: Tensor, augment: Callable[[Tensor], Tensor] | None = None) -> Tensor:
        """Soft tokens -> unit vectors (M, D) of the sentences that hold them, differentiable to the tokens.

        Args:
            tokens_MLE: one set a sentence.
            augment: changes the embeddings (M, T, E) of the whole sentences before they are read.
        """
        place_MLE = self.place_ML[..., None].expand(-1, -1, self.embeddings_MTE.shape[-1])
        filled_MTE = self.embeddings_MTE.to(tokens_MLE.dtype).scatter(1, place_MLE, tokens_MLE)
        return self._teacher.encode_tokens(filled_MTE if augment is None else augment(filled_MTE), self._position)


def _embedding(teacher: Teacher, word: str) -> Tensor:
    """The token embedding (E,) of a placeholder."""
    other = next(one for one in PLACEHOLDERS if one != word)
    pair_2TE, _ = teacher.embed_tokens([word, other])
    differs = (pair_2TE[0] != pair_2TE[1]).any(-1).nonzero()
    if len(differs) != 1:
        raise ConfigError(
            f"the tokenizer of {teacher.name} does not take '{word}' as one token, which soft tokens need as their "
            "placeholder. Choose another teacher, or the prompt strategy 'styles'."
        )
    return pair_2TE[0, int(differs[0, 0])]


def _placeholders(teacher: Teacher, sentences: Sequence[Sentence]) -> list[str]:
    """For each sentence the first placeholder that its own words do not contain as a token."""
    chosen: dict[int, str] = {}
    for word in PLACEHOLDERS:
        open_ = [i for i in range(len(sentences)) if i not in chosen]
        if not open_:
            break
        mark_E = _embedding(teacher, word)
        embeddings, _ = teacher.embed_tokens([sentences[i].text("") for i in open_])
        free = ~(embeddings == mark_E).all(-1).any(-1)
        chosen |= {i: word for i, is_free in zip(open_, free.tolist(), strict=True) if is_free}
    if len(chosen) < len(sentences):
        name = next(sentence.name for i, sentence in enumerate(sentences) if i not in chosen)
        raise ConfigError(
            f"class '{name}': its sentence holds each of the single letters {', '.join(PLACEHOLDERS)}, one of which "
            "must be free to stand for soft tokens. Reword its description."
        )
    return [chosen[i] for i in range(len(sentences))]


def class_sentences(task: Task, template: str, style: str = "") -> list[Sentence]:
    """The sentence of each class, in the order of the task."""
    return [
        Sentence(template, name, description, style)
        for name, description in zip(task.names, task.descriptions, strict=True)
    ]


@torch.no_grad()
def token_sigma(teacher: Teacher, task: Task, template: str, settings: PromptSettings) -> tuple[float, int]:
    """Standard deviation that soft tokens start with, and their width E.

    Where it is set to ``"auto"``, that of all numbers in the teacher's own embeddings of the words of these sentences:
    0.02, as others use for CLIP, would be next to nothing for a tower whose embeddings are larger.
    """
    sentences = class_sentences(task, template, style="")
    parts = []
    for at in range(0, len(sentences), 256):
        soft = SoftSentences(teacher, sentences[at : at + 256], settings.tokens)
        parts.append(soft.embeddings_MTE[soft.word_MT].double())
    words_WE = torch.cat(parts)
    sigma = float(words_WE.std()) if isinstance(settings.sigma, str) else float(settings.sigma)
    return sigma, words_WE.shape[-1]


def random_tokens(seed: int, name: str, row: int, shape: tuple[int, int], sigma: float) -> Tensor:
    """Soft tokens (L, E) from N(0, sigma), on the CPU: their own for each class and row, whatever else is drawn."""
    return sigma * torch.randn(shape, generator=generator_for(seed, name, "soft tokens", row))


def start_tokens(seed: int, names: Sequence[str], count: int, shape: tuple[int, int], sigma: float) -> Tensor:
    """``random_tokens`` of ``count`` rows of every class: (C, n, L, E)."""
    return torch.stack(
        [torch.stack([random_tokens(seed, name, row, shape, sigma) for row in range(count)]) for name in names]
    )


def learn(
    tokens: Tensor, losses: Callable[[Tensor], Tensor], settings: PromptSettings, bar: Progress
) -> tuple[Tensor, list[float]]:
    """Adam on soft tokens.

    Args:
        tokens: the start; any shape.
        losses: tokens -> one loss a prompt. Their sum is descended, so that the step does not depend on their number.
        settings: for ``steps`` and ``lr``.
        bar: advanced by one each step.

    Returns:
        The tokens, and the mean loss before each step.
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
def encode_bank(
    teacher: Teacher, sentences: Sequence[Sentence], tokens_MLE: Tensor, at_once: int, title: str
) -> Tensor:
    """targets_MD, float32 on the CPU, of one sentence and one set of soft tokens an image."""
    parts = []
    with Progress(title, total=len(sentences), unit="prompt") as bar:
        for at in range(0, len(sentences), at_once):
            chosen = sentences[at : at + at_once]
            soft = SoftSentences(teacher, chosen, tokens_MLE.shape[1])
            parts.append(soft.encode(tokens_MLE[at : at + at_once].to(soft.embeddings_MTE.device)).float().cpu())
            bar.advance(len(chosen))
    return torch.cat(parts)
