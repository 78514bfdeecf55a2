"""Losses per prompt of soft tokens, and their optimisation. All vectors are unit vectors.

Shapes: N prompts, C classes, n prompts per class, D teacher dimensions, T tokens of a sentence, L soft tokens, E token
width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.text.prompts import TEXTS_AT_ONCE, PromptRequest
from clipstill.text.soft_tokens import SoftSentences, class_sentences, learn
from clipstill.text.templates import token_template

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


@dataclass(frozen=True)
class StartTokens:
    """Soft tokens before learning, and the sentences around them."""

    tokens_CnLE: Tensor  # Random tokens.
    sigma: float  # Standard deviation of the tokens.
    template: str  # Sentence with ``{tokens}``, and ``{style}`` if there are styles.
    styles: tuple[str, ...]  # Row k of a class has style k modulo the number of styles.
    views: Sequence[str]  # Sentences of the augmented views.
    within_class: bool  # Whether prompts are pushed only from those of the same class, not of the whole batch.


def learn_in_batches(request: PromptRequest, start: StartTokens) -> tuple[Tensor, list[float]]:
    """Learn soft tokens by the instance loss and the content loss, one batch after the other.

    Returns:
        tokens_CnLE on the CPU, and the mean loss over all prompts before each step.
    """
    classes, count = start.tokens_CnLE.shape[:2]
    # Half as many as usual, since each step encodes the prompts and their views.
    blocks = batches(classes, count, TEXTS_AT_ONCE // 2)
    learned_CnLE = start.tokens_CnLE.clone()
    sums = torch.zeros(request.settings.steps, dtype=torch.float64)
    with Progress("prompts", total=len(blocks) * request.settings.steps, unit="step") as bar:
        for number, block in enumerate(blocks):
            device, losses = _batch_losses(request, start, block, number)
            class_ids, rows = [class_id for class_id, _ in block], [row for _, row in block]
            tokens_NLE, history = learn(start.tokens_CnLE[class_ids, rows].to(device), losses, request.settings, bar)
            learned_CnLE[class_ids, rows] = tokens_NLE.to(learned_CnLE)
            sums += len(block) * torch.tensor(history, dtype=torch.float64)
    return learned_CnLE, (sums / (classes * count)).tolist()


def _batch_losses(
    request: PromptRequest, start: StartTokens, block: Sequence[tuple[int, int]], number: int
) -> tuple[torch.device, Callable[[Tensor], Tensor]]:
    """The teacher's device, and the function from the tokens of a batch to its losses."""
    settings, sentences = request.settings, class_sentences(request.task, start.template)
    own = [replace(sentences[class_id], style=start.styles[row % len(start.styles)]) for class_id, row in block]
    soft = SoftSentences(request.teacher, own, settings.tokens)
    device = soft.embeddings_MTE.device
    soft_views = [
        SoftSentences(request.teacher, [replace(one, template=view) for one in own], settings.tokens)
        for view in map(token_template, start.views)
        if view != start.template
    ]
    draw = generator_for(request.seed, "augmented views", number)
    augment = token_noise(_NOISE * start.sigma, _DROPOUT, draw)
    class_N = torch.tensor([class_id for class_id, _ in block], device=device)

    def losses(tokens_NLE: Tensor) -> Tensor:
        chosen = int(torch.randint(len(soft_views), (1,), generator=draw))
        feat_ND = soft.encode(tokens_NLE)
        view_ND = soft_views[chosen].encode(tokens_NLE, augment)
        apart_N = instance_loss(feat_ND, view_ND, _TEMPERATURE, class_N if start.within_class else None)
        if settings.content_weight == 0:
            return apart_N
        vectors_CD = request.class_vectors_CD.to(feat_ND)
        content_N = content_loss(feat_ND, vectors_CD, class_N, _CONTENT_TEMPERATURE)
        return apart_N + settings.content_weight * content_N

    return device, losses


def batches(classes: int, count: int, most: int) -> list[list[tuple[int, int]]]:
    """(class, row) of all rows in batches of at most ``most``; a class is split only if it has more rows."""
    rows = [(class_id, row) for class_id in range(classes) for row in range(count)]
    if count <= most:
        size = count * (most // count)
        return [rows[at : at + size] for at in range(0, len(rows), size)]
    parts = -(-count // most)
    cuts = [count * part // parts for part in range(parts + 1)]
    return [rows[at + cuts[part] : at + cuts[part + 1]] for at in range(0, len(rows), count) for part in range(parts)]
