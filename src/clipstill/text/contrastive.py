"""Losses that soft tokens learn by, and the learning of a bank in batches.

Every loss is per prompt: nothing is averaged over the batch. All vectors are unit vectors.

Shapes: N prompts, K earlier prompts, C classes, n prompts a class, D teacher dimensions, T tokens of a sentence, L soft
tokens, E token width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from clipstill.core.progress import Progress
from clipstill.core.seeds import generator_for
from clipstill.text.prompts import TEXTS_AT_ONCE, PromptRequest
from clipstill.text.soft_tokens import Sentence, SoftSentences, learn
from clipstill.text.templates import token_template

# Temperature of the contrastive loss; usual where instances are told apart.
_TEMPERATURE = 0.1
# The inverse of CLIP's own logit scale: the content term fades out once the class is clear.
CONTENT_TEMPERATURE = 0.01
# Augmented views: noise as a share of sigma, and the share of numbers set to zero.
# Little of both keeps a view the same sentence.
_NOISE = 0.1
_DROPOUT = 0.1


def instance_loss(feat_ND: Tensor, view_ND: Tensor, temperature: float, group_N: Tensor | None = None) -> Tensor:
    """Each prompt is to be nearer to its own augmented view than to the views of the others.

    ``-log exp(f_i.v_i / t) / sum_j exp(f_i.v_j / t)``, j over the batch, or over the prompts of the same group.

    Args:
        feat_ND: vectors of the prompts.
        view_ND: of the same prompts' augmented views.
        temperature: t, above 0.
        group_N: integers; only prompts of one group push each other away.

    Returns:
        loss_N, at least 0; the logarithm of the group's size where all are alike.

    Source: van den Oord et al., 2018 (InfoNCE). That prompts of Wei et al., ICLR 2025, and of Xuan et al., ACM MM 2023,
    are learned by it is a reconstruction: both name contrastive learning and no formula was recovered.
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
    """Mean absolute cosine with the earlier prompts: loss_N in [0, 1]; zeros where there is none.

    Source: Cho et al., ICCV 2023 (PromptStyler), style diversity.
    """
    if earlier_NKD.shape[1] == 0:
        return feat_ND.sum(-1) * 0
    return torch.einsum("nd,nkd->nk", feat_ND, earlier_NKD).abs().mean(-1)


def token_noise(sigma: float, dropout: float, draw: torch.Generator) -> Callable[[Tensor], Tensor]:
    """An augmentation of token embeddings: numbers dropped, the rest scaled up to the same mean, and noise added.

    Args:
        sigma: standard deviation of the noise.
        dropout: share of the numbers that become zero, in [0, 1).
        draw: on the CPU, so that the same numbers come on every device.
    """

    def augment(x_MTE: Tensor) -> Tensor:
        keep = (torch.rand(x_MTE.shape, generator=draw) >= dropout).to(x_MTE) / (1 - dropout)
        return x_MTE * keep + sigma * torch.randn(x_MTE.shape, generator=draw).to(x_MTE)

    return augment


class Views:
    """A batch of sentences with soft tokens, and other sentences of the same content.

    Args:
        request: for the teacher, the seed and the settings.
        sentences: one a prompt.
        templates: of the other sentences, with ``{class}``; the prompts' own is left out.
        sigma: standard deviation that the tokens start with; the noise is a share of it.
        number: of the batch; each batch draws its own noise.

    Attributes:
        device: where the vectors are made.
    """

    def __init__(
        self, request: PromptRequest, sentences: Sequence[Sentence], templates: Sequence[str], sigma: float, number: int
    ) -> None:
        settings, own = request.settings, sentences[0].template
        self._soft = SoftSentences(request.teacher, sentences, settings.tokens)
        self.device = self._soft.embeddings_MTE.device
        self._others = [
            SoftSentences(request.teacher, [replace(one, template=other) for one in sentences], settings.tokens)
            for other in map(token_template, templates)
            if other != own
        ]
        self._draw = generator_for(request.seed, "augmented views", number)
        self._augment = token_noise(_NOISE * sigma, _DROPOUT, self._draw)

    def pair(self, tokens_NLE: Tensor) -> tuple[Tensor, Tensor]:
        """(N, D) of the prompts, and (N, D) of their augmented views: another sentence at each call, with noise."""
        chosen = int(torch.randint(len(self._others), (1,), generator=self._draw))
        return self._soft.encode(tokens_NLE), self._others[chosen].encode(tokens_NLE, self._augment)


def learn_in_batches(
    request: PromptRequest,
    sentence_of: Callable[[int, int], Sentence],
    views: Sequence[str],
    start_CnLE: Tensor,
    sigma: float,
    apart_from_own_class: bool,
) -> tuple[Tensor, list[float]]:
    """Learn a bank by the instance loss and the content term.

    So many prompts are learned at once as ``TEXTS_AT_ONCE`` allows; each batch makes all of its steps.

    Args:
        request: for the teacher, the class vectors, the seed and the settings.
        sentence_of: class and row -> the sentence with its place for soft tokens.
        views: templates of the augmented views' sentences.
        start_CnLE: where the tokens start.
        sigma: their standard deviation, which the views' noise is a share of.
        apart_from_own_class: push prompts away from those of the same class only, and not from the whole batch.

    Returns:
        The tokens (C, n, L, E), on the CPU, and the mean loss over all prompts before each step.
    """
    classes, count = start_CnLE.shape[:2]
    # Each prompt is read twice a step, so half as many fit at once.
    blocks = batches(classes, count, TEXTS_AT_ONCE // 2)
    learned_CnLE = start_CnLE.clone()
    histories: list[list[float]] = []
    with Progress("prompts", total=len(blocks) * request.settings.steps, unit="step") as bar:
        for number, block in enumerate(blocks):
            pairs = Views(request, [sentence_of(class_id, row) for class_id, row in block], views, sigma, number)
            class_ids, rows = [class_id for class_id, _ in block], [row for _, row in block]
            losses = _losses(request, pairs, torch.tensor(class_ids, device=pairs.device), apart_from_own_class)
            tokens_NLE, history = learn(start_CnLE[class_ids, rows].to(pairs.device), losses, request.settings, bar)
            learned_CnLE[class_ids, rows] = tokens_NLE.to(learned_CnLE)
            histories.append([loss * len(block) for loss in history])
    return learned_CnLE, mean_history(histories, classes * count)


def _losses(
    request: PromptRequest, pairs: Views, class_N: Tensor, apart_from_own_class: bool
) -> Callable[[Tensor], Tensor]:
    """Tokens of one batch -> its losses."""
    settings = request.settings
    vectors_CD = request.class_vectors_CD.to(pairs.device)

    def losses(tokens_NLE: Tensor) -> Tensor:
        feat_ND, view_ND = pairs.pair(tokens_NLE)
        apart_N = instance_loss(feat_ND, view_ND, _TEMPERATURE, class_N if apart_from_own_class else None)
        if settings.content_weight == 0:
            return apart_N
        kept_N = content_loss(feat_ND, vectors_CD.to(feat_ND), class_N, CONTENT_TEMPERATURE)
        return apart_N + settings.content_weight * kept_N

    return losses


def batches(classes: int, count: int, most: int) -> list[list[tuple[int, int]]]:
    """(class, row) of all rows, cut into batches so that a class stays whole where it can.

    Args:
        classes: how many.
        count: rows a class.
        most: rows a batch, at least 1.
    """
    rows = [(class_id, row) for class_id in range(classes) for row in range(count)]
    if count <= most:
        size = count * (most // count)
        return [rows[at : at + size] for at in range(0, len(rows), size)]
    parts = -(-count // most)
    cuts = [count * part // parts for part in range(parts + 1)]
    return [rows[at + cuts[part] : at + cuts[part + 1]] for at in range(0, len(rows), count) for part in range(parts)]


def mean_history(histories: Sequence[Sequence[float]], count: int) -> list[float]:
    """Sums over the prompts of each part -> the mean over all prompts, step by step."""
    return [sum(at_step) / count for at_step in zip(*histories, strict=True)]
