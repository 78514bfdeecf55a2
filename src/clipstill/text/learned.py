"""Strategies with soft tokens: learned beside style words (``sdd``), or in their place (``random``, ``contrastive``).

All are reconstructions, since the papers give few formulas and values: ``sdd`` is the style dictionary diversification
of Wei et al., ICLR 2025; ``random`` and ``contrastive`` are of Xuan et al., "Distilling Vision-Language Foundation
Models: A Data-Free Approach via Prompt Diversification", ACM MM 2023, completed from PromptStyler (Cho et al., ICCV
2023).

Shapes: N prompts, C classes, n prompts per class, L soft tokens, E token width, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipstill.core.progress import say
from clipstill.text.bank import Bank
from clipstill.text.contrastive import StartTokens, learn_in_batches
from clipstill.text.prompts import Prompt, PromptRequest, PromptSet, refuse_bank, round_robin, strategy_template
from clipstill.text.soft_tokens import Sentence, encode_sentences, random_tokens, start_tokens, token_sigma
from clipstill.text.templates import PSEUDO_TEMPLATE, PSEUDO_VIEWS, STYLE_TEMPLATE, STYLE_VIEWS, put_tokens


def sdd_prompts(request: PromptRequest) -> PromptSet:
    """Spread each class evenly over the styles, and give every image its own soft tokens before the class name.

    The random tokens learn to tell the images apart: each image's vector is pulled to an augmented view (another
    sentence, noise and dropout on the token embeddings) and pushed from the other images of its batch. The content loss
    keeps the class. Batches hold whole classes, whose images are the hardest to tell apart. If a given bank has fewer
    rows than there are images, they take its rows in turn.

    Source: Wei et al., ICLR 2025. Known are the purpose, the sentence "[t] in the style of [d]", the random start, the
    text augmentation, and that it takes a minute. The loss is not known; a content loss is not mentioned, which would
    be ``content_weight=0``.
    """
    styles = tuple(request.styles)
    template = strategy_template(request, "sdd", STYLE_TEMPLATE, style=True, tokens=True)
    bank = _bank(request, "sdd", template, styles=styles, count=request.per_class, views=STYLE_VIEWS)
    tokens_CnLE = bank.rows(request.task.names)
    prompts = round_robin(request, put_tokens(template, ""), styles)
    rows = [one.index % tokens_CnLE.shape[1] for one in prompts]
    tokens_NLE = tokens_CnLE[[one.class_id for one in prompts], rows]
    return PromptSet(prompts, _targets(request, template, prompts, tokens_NLE, styles=styles), styles, bank)


def random_prompts(request: PromptRequest) -> PromptSet:
    """Give each image its own pseudo-words, drawn from N(0, sigma) and never learned.

    The draw depends on the run's seed, the class name and the image's index.
    """
    refuse_bank(request, "random")
    settings, classes = request.settings, request.task.names
    template = strategy_template(request, "random", PSEUDO_TEMPLATE, tokens=True)
    names, prompts = _pseudo_styles(request, template, settings.pseudo_styles)
    sigma, width = token_sigma(request.teacher, request.task, template, settings)
    shape = (settings.tokens, width)
    drawn = [random_tokens(request.seed, classes[one.class_id], one.index, shape=shape, sigma=sigma) for one in prompts]
    return PromptSet(prompts, _targets(request, template, prompts, torch.stack(drawn)), names)


def contrastive_prompts(request: PromptRequest) -> PromptSet:
    """Give each class n pseudo-words that learn to differ from each other and to keep the class.

    They start from the tokens of ``random_prompts``. Each prompt is pulled to its own augmented view (another sentence,
    noise and dropout on the tokens) and pushed from the views of the others of its class; the content loss is added.
    If there are more than n images, they take the prompts in turn.
    """
    template = strategy_template(request, "contrastive", PSEUDO_TEMPLATE, tokens=True)
    count = min(request.settings.pseudo_styles, request.per_class)
    bank = _bank(request, "contrastive", template, styles=("",), count=count, views=PSEUDO_VIEWS)
    tokens_CnLE = bank.rows(request.task.names)
    names, prompts = _pseudo_styles(request, template, tokens_CnLE.shape[1])
    tokens_NLE = tokens_CnLE[[one.class_id for one in prompts], [one.style_id for one in prompts]]
    return PromptSet(prompts, _targets(request, template, prompts, tokens_NLE), names, bank)


def _pseudo_styles(request: PromptRequest, template: str, count: int) -> tuple[tuple[str, ...], list[Prompt]]:
    """Style ids of pseudo-words as names, at most one per image of a class, and prompts with these names."""
    names = tuple(f"S{number}" for number in range(1, min(count, request.per_class) + 1))
    return names, round_robin(request, put_tokens(template, "{style}"), names)


def _targets(
    request: PromptRequest, template: str, prompts: Sequence[Prompt], tokens_NLE: Tensor, *, styles: Sequence[str] = ()
) -> Tensor:
    names, descriptions = request.task.names, request.task.descriptions
    sentences = [
        Sentence(template, names[one.class_id], descriptions[one.class_id], styles[one.style_id] if styles else "")
        for one in prompts
    ]
    return encode_sentences(request.teacher, sentences, tokens_NLE)


def _bank(
    request: PromptRequest, strategy: str, template: str, *, styles: tuple[str, ...], count: int, views: Sequence[str]
) -> Bank:
    """The given bank, or a new one with ``count`` rows per class, learned with the sentences of augmented views."""
    if request.bank is not None:
        request.bank.check(strategy, request.teacher, template, styles)
        return request.bank
    settings, names = request.settings, request.task.names
    sigma, width = token_sigma(request.teacher, request.task, template, settings)
    start_CnLE = start_tokens(request.seed, names, count, shape=(settings.tokens, width), sigma=sigma)
    say(
        f"prompts: learning {len(names)} x {count} sets of {settings.tokens} soft tokens, {settings.steps} steps, "
        f"sigma {sigma:.3g}"
    )
    within_class = strategy == "contrastive"
    start = StartTokens(start_CnLE, sigma, template, styles=styles, views=views, within_class=within_class)
    tokens_CnLE, losses = learn_in_batches(request, start)
    return Bank(
        tokens_CnLE=tokens_CnLE,
        strategy=strategy,
        teacher=request.teacher.name,
        weights_sha256=request.teacher.weights_sha256,
        template=template,
        classes=tuple(names),
        styles=styles,
        seed=request.seed,
        settings=settings.model_dump(mode="json"),
        losses=(losses[0], losses[-1]) if losses else None,
    )
