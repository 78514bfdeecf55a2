"""Strategies with soft tokens: learned beside style words (``sdd``), or in their place (``random``, ``contrastive``).

All are reconstructions, since the papers give few formulas and values: ``sdd`` is the style dictionary diversification
of Wei et al., ICLR 2025; ``random`` and ``contrastive`` are of Xuan et al., "Distilling Vision-Language Foundation
Models: A Data-Free Approach via Prompt Diversification", ACM MM 2023, completed from PromptStyler (Cho et al., ICCV
2023).

Shapes: N prompts, n prompts per class, S sentences, L soft tokens, E token width, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from clipstill.text.contrastive import SoftPrompts, learn_tokens
from clipstill.text.prompts import Prompt, PromptRequest, PromptSet, round_robin, strategy_template
from clipstill.text.soft_tokens import Sentence, class_sentences, encode_sentences, random_tokens, token_sigma
from clipstill.text.templates import DICTIONARY_TEMPLATE, DICTIONARY_VIEWS, PSEUDO_TEMPLATE, PSEUDO_VIEWS, put_tokens


def sdd_prompts(request: PromptRequest) -> PromptSet:
    """Spread each class evenly over the styles, and give every image its own soft tokens before the class name.

    The random tokens learn to tell the images apart: each image's vector is pulled to an augmented view (another
    sentence, noise and dropout on the token embeddings) and pushed from the other images of its batch. The content loss
    keeps the class. Batches hold whole classes, whose images are the hardest to tell apart.

    Source: Wei et al., ICLR 2025. Known are the purpose, the sentence "[t] in the style of [d]", the random start, the
    text augmentation, and that it takes a minute. The loss is not known; a content loss is not mentioned, which would
    be ``content_weight=0``.
    """
    template, styles = strategy_template(request, DICTIONARY_TEMPLATE), request.settings.styles
    prompts = round_robin(request, put_tokens(template, ""), styles)
    start = _random_start(request, template, request.per_class, styles=styles, views=DICTIONARY_VIEWS)
    return PromptSet(prompts, _targets(request, prompts, start.sentences, learn_tokens(request, start)), styles)


def random_prompts(request: PromptRequest) -> PromptSet:
    """Give each image its own pseudo-words, drawn from N(0, sigma) and never learned.

    The draw depends on the run's seed, the class name and the image's index.
    """
    template = strategy_template(request, PSEUDO_TEMPLATE)
    names, prompts = _pseudo_styles(request, template)
    start = _random_start(request, template, request.per_class)
    return PromptSet(prompts, _targets(request, prompts, start.sentences, start.tokens_SLE), names)


def contrastive_prompts(request: PromptRequest) -> PromptSet:
    """Give each class n pseudo-words that learn to differ from each other and to keep the class.

    They start from the tokens of ``random_prompts``. Each prompt is pulled to its own augmented view (another sentence,
    noise and dropout on the tokens) and pushed from the views of the others of its class; the content loss is added.
    If there are more than n images, they take the prompts in turn.
    """
    template = strategy_template(request, PSEUDO_TEMPLATE)
    names, prompts = _pseudo_styles(request, template)
    start = _random_start(request, template, len(names), views=PSEUDO_VIEWS, by_class=True)
    return PromptSet(prompts, _targets(request, prompts, start.sentences, learn_tokens(request, start)), names)


def _pseudo_styles(request: PromptRequest, template: str) -> tuple[tuple[str, ...], list[Prompt]]:
    """Style ids of pseudo-words as names, at most one per image of a class, and prompts with these names."""
    count = min(request.settings.pseudo_styles, request.per_class)
    names = tuple(f"S{number}" for number in range(1, count + 1))
    return names, round_robin(request, put_tokens(template, "{style}"), names)


def _random_start(
    request: PromptRequest,
    template: str,
    count: int,
    *,
    styles: Sequence[str] = ("",),
    views: Sequence[str] = (),
    by_class: bool = False,
) -> SoftPrompts:
    """``count`` sentences per class with random tokens; the styles take turns."""
    task, settings = request.task, request.settings
    sigma, width = token_sigma(request.teacher, task, template, settings)
    shape = (settings.tokens, width)
    places = [(name, place) for name in task.names for place in range(count)]
    drawn = [random_tokens(request.seed, *place, shape=shape, sigma=sigma) for place in places]
    return SoftPrompts(
        sentences=class_sentences(task, template, count, styles),
        class_S=torch.arange(len(task.names)).repeat_interleave(count),
        tokens_SLE=torch.stack(drawn),
        sigma=sigma,
        views=views,
        by_class=by_class,
    )


def _targets(
    request: PromptRequest, prompts: Sequence[Prompt], sentences: Sequence[Sentence], tokens_SLE: Tensor
) -> Tensor:
    """Target vectors (N, D); the images of a class take its sentences in turn."""
    count = len(sentences) // len(request.task.names)
    rows = [one.class_id * count + one.index % count for one in prompts]
    return encode_sentences(request.teacher, [sentences[row] for row in rows], tokens_SLE[rows])
