"""Losses per prompt of soft tokens, and their optimisation. All vectors are unit vectors.

Shapes: S prompts, N prompts of a batch, C classes, n prompts per class, D teacher dimensions, T tokens of a sentence, L
soft tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.progress import Progress, say
from clipstill.core.seeds import generator_for
from clipstill.text.prompts import TEXTS_AT_ONCE, PromptRequest
from clipstill.text.soft_tokens import Sentence, SoftSentences, learn

_TEMPERATURE = 0.1  # Of the instance loss; a usual value.
_CONTENT_TEMPERATURE = 0.01  # The inverse of CLIP's logit scale: the content loss vanishes once the class is clear.
# Augmented views: noise as a share of sigma, and share of numbers set to zero. Both are small, so that the view keeps
# the meaning of its sentence.
_NOISE = 0.1
_DROPOUT = 0.1


def instance_loss(feat_ND: Tensor, view_ND: Tensor, temperature: float, group_N: Tensor | None = None) -> Tensor:
    """Pull each prompt to its own augmented view and push it from the views of the others.

    ``-log exp(f_i.v_i / t) / sum_j exp(f_i.v_j / t)``, j over the batch, or over the prompts of the same group.

    Args:
        feat_ND: Vectors of the prompts.
        view_ND: Vectors of the augmented views of the same prompts.
        temperature: The t of the formula, above 0.
        group_N: Group of each prompt; None for one group.

    Returns:
        loss_N, at least 0; the logarithm of the group's size if all vectors are equal.

    Source: van den Oord et al., 2018 (InfoNCE). Its use here is a reconstruction: Wei et al., ICLR 2025, and Xuan et
    al., ACM MM 2023, name contrastive learning and give no formula.
    """
    logits_NN = feat_ND @ view_ND.T / temperature
    if group_N is not None:
        logits_NN = logits_NN.masked_fill(group_N[:, None] != group_N[None, :], -torch.inf)
    return F.cross_entropy(logits_NN, torch.arange(len(feat_ND), device=feat_ND.device), reduction="none")


def content_loss(feat_ND: Tensor, class_vectors_CD: Tensor, class_N: Tensor, temperature: float) -> Tensor:
    """Cross-entropy of each prompt's class under its cosines with the class vectors: loss_N, at least 0.

    Source: Cho et al., ICCV 2023 (PromptStyler), content consistency; there without a temperature.
    """
    return F.cross_entropy(feat_ND @ class_vectors_CD.T / temperature, class_N, reduction="none")


def token_noise(sigma: float, dropout: float, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """An augmentation of embeddings by dropout and Gaussian noise, drawn on the CPU to be equal on all devices."""

    def augment(x_MTE: Tensor) -> Tensor:
        keep = (torch.rand(x_MTE.shape, generator=draw) >= dropout).to(x_MTE) / (1 - dropout)
        return x_MTE * keep + sigma * torch.randn(x_MTE.shape, generator=draw).to(x_MTE)

    return augment


@dataclass(frozen=True, kw_only=True)
class SoftPrompts:
    """Sentences with soft tokens, n per class, class by class."""

    sentences: Sequence[Sentence]  # S sentences with one template.
    class_S: Tensor  # Class of each.
    tokens_SLE: Tensor  # Their soft tokens, on the CPU.
    sigma: float  # Standard deviation of the tokens' random start.
    views: Sequence[str]  # Templates of the augmented views.
    by_class: bool  # Whether a prompt is pushed from those of its class alone, not from the whole batch.

    def part(self, rows: slice) -> SoftPrompts:
        """Some of the sentences."""
        tokens_SLE, class_S = self.tokens_SLE[rows], self.class_S[rows]
        return replace(self, sentences=self.sentences[rows], class_S=class_S, tokens_SLE=tokens_SLE)


def learn_tokens(request: PromptRequest, start: SoftPrompts) -> Tensor:
    """Learn soft tokens (S, L, E) by the instance loss and the content loss, one batch after the other."""
    settings, classes = request.settings, len(request.task.names)
    count = len(start.sentences) // classes
    say(
        f"prompts: learning {classes} x {count} sets of {settings.tokens} soft tokens, {settings.steps} steps, "
        f"sigma {start.sigma:.3g}"
    )
    # Half as many as usual, since each step encodes the prompts and their views.
    blocks = batches(classes, count, TEXTS_AT_ONCE // 2)
    learned_SLE = start.tokens_SLE.clone()
    with Progress("prompts", total=len(blocks) * settings.steps, unit="step") as bar:
        for number, rows in enumerate(blocks):
            batch = start.part(rows)
            device, losses = _losses(request, batch, generator_for(request.seed, "augmented views", number))
            learned_SLE[rows] = learn(batch.tokens_SLE.to(device), losses, settings, bar).to(learned_SLE)
    return learned_SLE


def _losses(
    request: PromptRequest, batch: SoftPrompts, draw: torch.Generator
) -> tuple[torch.device, Callable[[Tensor], Tensor]]:
    """The teacher's device, and the function from the tokens of a batch to its losses."""
    settings, template = request.settings, batch.sentences[0].template
    soft, *soft_views = (
        SoftSentences(request.teacher, [replace(one, template=each) for one in batch.sentences], settings.tokens)
        for each in (template, *(view for view in batch.views if view != template))
    )
    augment = token_noise(_NOISE * batch.sigma, _DROPOUT, draw)
    class_N = batch.class_S.to(soft.embeddings_MTE.device)

    def losses(tokens_NLE: Tensor) -> Tensor:
        chosen = int(torch.randint(len(soft_views), (1,), generator=draw))
        feat_ND = soft.encode(tokens_NLE)
        view_ND = soft_views[chosen].encode(tokens_NLE, augment)
        apart_N = instance_loss(feat_ND, view_ND, _TEMPERATURE, class_N if batch.by_class else None)
        if settings.content_weight == 0:
            return apart_N
        vectors_CD = request.class_vectors_CD.to(feat_ND)
        content_N = content_loss(feat_ND, vectors_CD, class_N, _CONTENT_TEMPERATURE)
        return apart_N + settings.content_weight * content_N

    return class_N.device, losses


def batches(classes: int, count: int, most: int) -> list[slice]:
    """All rows, class by class, in batches of at most ``most``; a class is split only if it has more rows."""
    if count <= most:
        size = count * (most // count)
        cuts = list(range(0, classes * count, size))
    else:
        parts = -(-count // most)
        cuts = [at + count * part // parts for at in range(0, classes * count, count) for part in range(parts)]
    return [slice(*pair) for pair in pairwise([*cuts, classes * count])]
