"""Losses for soft tokens, and learning by them.

Every loss is per prompt: nothing is averaged over the batch. All vectors are unit vectors.

Shapes: N prompts, K earlier prompts, C classes, n prompts per class, D teacher dimensions, T tokens of a sentence, L
soft tokens, E token width.
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


def instance_loss(feat_ND: Tensor, view_ND: Tensor, temperature: float, group_N: Tensor | None = None) -> Tensor:
    """Pull each prompt to its own augmented view and push it from the views of the others.

    ``-log exp(f_i.v_i / t) / sum_j exp(f_i.v_j / t)``, j over the batch, or over the prompts of the same group.

    Args:
        feat_ND: Vectors of the prompts.
        view_ND: Vectors of the same prompts' augmented views.
        temperature: The t of the formula, above 0.
        group_N: Integers; only prompts of the same group push each other.

    Returns:
        loss_N, at least 0; the logarithm of the group's size if all vectors are equal.

    Source: van den Oord et al., 2018 (InfoNCE). That the prompts of Wei et al., ICLR 2025, and of Xuan et al., ACM MM
    2023, are learned by it is a reconstruction: both name contrastive learning and give no formula.
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


def earlier_loss(feat_ND: Tensor, earlier_NKD: Tensor) -> Tensor:
    """Mean absolute cosine with the earlier prompts: loss_N in [0, 1]; zeros if there are none.

    Source: Cho et al., ICCV 2023 (PromptStyler), style diversity.
    """
    if earlier_NKD.shape[1] == 0:
        return feat_ND.sum(-1) * 0
    return torch.einsum("nd,nkd->nk", feat_ND, earlier_NKD).abs().mean(-1)


def token_noise(sigma: float, dropout: float, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """An augmentation of token embeddings: dropout, then additive Gaussian noise.

    Args:
        sigma: Standard deviation of the noise.
        dropout: Share of the numbers that become zero, in [0, 1); the others are scaled up to keep the mean.
        draw: Generator on the CPU, so that all devices get the same numbers.
    """

    def augment(x_MTE: Tensor) -> Tensor:
        keep = (torch.rand(x_MTE.shape, generator=draw) >= dropout).to(x_MTE) / (1 - dropout)
        return x_MTE * keep + sigma * torch.randn(x_MTE.shape, generator=draw).to(x_MTE)

    return augment


@dataclass(frozen=True)
class StartTokens:
    """Soft tokens before learning.

    Attributes:
        template: Sentence with ``{tokens}``, and ``{style}`` if there are styles.
        styles: Row k of a class has style k modulo their number.
        tokens_CnLE: Random tokens.
        sigma: Standard deviation of the tokens.
    """

    template: str
    styles: tuple[str, ...]
    tokens_CnLE: Tensor
    sigma: float


def learn_in_batches(
    request: PromptRequest, start: StartTokens, views: Sequence[str], *, within_class: bool
) -> tuple[Tensor, list[float]]:
    """Learn soft tokens by the instance loss and the content loss; each batch makes all of its steps.

    Args:
        request: Teacher, class vectors, seed and settings are read.
        start: Start of the tokens.
        views: Templates of the augmented views' sentences.
        within_class: Push prompts from those of the same class only, not from the whole batch.

    Returns:
        tokens_CnLE on the CPU, and the mean loss over all prompts before each step.
    """
    classes, count = start.tokens_CnLE.shape[:2]
    # Half as many as usual, since each prompt is read twice per step.
    blocks = batches(classes, count, TEXTS_AT_ONCE // 2)
    learned_CnLE = start.tokens_CnLE.clone()
    histories: list[list[float]] = []
    with Progress("prompts", total=len(blocks) * request.settings.steps, unit="step") as bar:
        for number, block in enumerate(blocks):
            device, losses = _batch_losses(request, start, views, block=block, number=number, within_class=within_class)
            class_ids, rows = [class_id for class_id, _ in block], [row for _, row in block]
            tokens_NLE, history = learn(start.tokens_CnLE[class_ids, rows].to(device), losses, request.settings, bar)
            learned_CnLE[class_ids, rows] = tokens_NLE.to(learned_CnLE)
            histories.append([loss * len(block) for loss in history])
    return learned_CnLE, _mean_history(histories, classes * count)


def _batch_losses(
    request: PromptRequest,
    start: StartTokens,
    views: Sequence[str],
    *,
    block: list[tuple[int, int]],
    number: int,
    within_class: bool,
) -> tuple[torch.device, Callable[[Tensor], Tensor]]:
    """The device of one batch, and its function from tokens to losses."""
    settings, sentences = request.settings, class_sentences(request.task, start.template)
    own = [replace(sentences[class_id], style=start.styles[row % len(start.styles)]) for class_id, row in block]
    soft = SoftSentences(request.teacher, own, settings.tokens)
    device = soft.embeddings_MTE.device
    soft_views = [
        SoftSentences(request.teacher, [replace(one, template=view) for one in own], settings.tokens)
        for view in map(token_template, views)
        if view != start.template
    ]
    draw = generator_for(request.seed, "augmented views", number)
    augment = token_noise(settings.noise * start.sigma, settings.dropout, draw)
    class_N = torch.tensor([class_id for class_id, _ in block], device=device)

    def losses(tokens_NLE: Tensor) -> Tensor:
        chosen = int(torch.randint(len(soft_views), (1,), generator=draw))
        feat_ND = soft.encode(tokens_NLE)
        view_ND = soft_views[chosen].encode(tokens_NLE, augment)
        apart_N = instance_loss(feat_ND, view_ND, settings.temperature, class_N if within_class else None)
        if settings.content_weight == 0:
            return apart_N
        vectors_CD = request.class_vectors_CD.to(feat_ND)
        return apart_N + settings.content_weight * content_loss(
            feat_ND, vectors_CD, class_N, settings.content_temperature
        )

    return device, losses


def learn_sequential(request: PromptRequest, start: StartTokens) -> tuple[Tensor, list[float]]:
    """Learn the prompts of each class one after the other, each pushed away from the earlier ones.

    Arguments and result are as in ``learn_in_batches``; the losses are means over all prompts at the same step.
    """
    settings, count = request.settings, start.tokens_CnLE.shape[1]
    sentences = class_sentences(request.task, start.template)
    starts = range(0, len(sentences), TEXTS_AT_ONCE)
    learned_CnLE = start.tokens_CnLE.clone()
    histories: list[list[float]] = []
    with Progress("prompts", total=len(starts) * count * settings.steps, unit="step") as bar:
        for at in starts:
            class_ids = list(range(at, min(at + TEXTS_AT_ONCE, len(sentences))))
            soft = SoftSentences(request.teacher, [sentences[i] for i in class_ids], settings.tokens)
            device = soft.embeddings_MTE.device
            class_N = torch.tensor(class_ids, device=device)
            earlier: list[Tensor] = []
            for row in range(count):
                losses = _losses_after(request, soft, earlier, class_N)
                tokens_NLE = start.tokens_CnLE[class_ids, row].to(device)
                tokens_NLE, history = learn(tokens_NLE, losses, settings, bar)
                learned_CnLE[class_ids, row] = tokens_NLE.to(learned_CnLE)
                with torch.no_grad():
                    earlier.append(soft.encode(tokens_NLE))
                histories.append([loss * len(class_ids) for loss in history])
    return learned_CnLE, _mean_history(histories, len(sentences) * count)


def _losses_after(
    request: PromptRequest, soft: SoftSentences, earlier: Sequence[Tensor], class_N: Tensor
) -> Callable[[Tensor], Tensor]:
    """From the tokens of one prompt per class to losses, given the vectors of the earlier prompts."""
    settings = request.settings
    earlier_NKD = torch.stack(list(earlier), dim=1) if earlier else None

    def losses(tokens_NLE: Tensor) -> Tensor:
        feat_ND = soft.encode(tokens_NLE)
        vectors_CD = request.class_vectors_CD.to(feat_ND)
        content_N = content_loss(feat_ND, vectors_CD, class_N, settings.content_temperature)
        apart_N = 0.0 if earlier_NKD is None else earlier_loss(feat_ND, earlier_NKD)
        return apart_N + settings.content_weight * content_N

    return losses


def batches(classes: int, count: int, most: int) -> list[list[tuple[int, int]]]:
    """(class, row) of all rows, cut into batches so that a class stays whole where it can.

    Args:
        classes: Number of classes.
        count: Rows per class.
        most: Rows per batch, at least 1.
    """
    rows = [(class_id, row) for class_id in range(classes) for row in range(count)]
    if count <= most:
        size = count * (most // count)
        return [rows[at : at + size] for at in range(0, len(rows), size)]
    parts = -(-count // most)
    cuts = [count * part // parts for part in range(parts + 1)]
    return [rows[at + cuts[part] : at + cuts[part + 1]] for at in range(0, len(rows), count) for part in range(parts)]


def _mean_history(histories: Sequence[Sequence[float]], count: int) -> list[float]:
    """The mean over all prompts at each step, from the sums over parts of the prompts."""
    return [sum(at_step) / count for at_step in zip(*histories, strict=True)]
