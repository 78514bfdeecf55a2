"""Style dictionary diversification (SDD): styled sentences that soft tokens make different for every image.

Shapes: N images, C classes, n images a class, L soft tokens, E token width, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import replace

from torch import Tensor

from clipstill.core.progress import say
from clipstill.text.bank import Bank
from clipstill.text.contrastive import learn_in_batches
from clipstill.text.prompts import TEXTS_AT_ONCE, PromptRequest, PromptSet, round_robin, styles_of_request
from clipstill.text.soft_tokens import Sentence, class_sentences, encode_bank, start_tokens, token_sigma
from clipstill.text.templates import (
    STYLE_TEMPLATE,
    STYLE_VIEWS,
    put_tokens,
    sentence_template,
    styled_template,
    token_template,
)


def sdd_prompts(request: PromptRequest) -> PromptSet:
    """Spread each class evenly over the styles, and give every image soft tokens of its own before the class name.

    The tokens start at random and learn to tell the images apart: each image's vector is pulled to that of an augmented
    view (another sentence, noise and dropout on the token embeddings) and pushed away from those of the other images of
    its batch. The content term keeps the class where the class name, which is not learned, does not do so alone.
    Batches hold whole classes, whose images are the hardest to tell apart. Images beyond those of a given bank take its
    rows in turn.

    Raises:
        ConfigError: no style, fewer than one image a class, a bank that does not fit, a sentence that is longer than
            the teacher reads, or a teacher without soft tokens.

    Source: a reconstruction of Wei et al., ICLR 2025, style dictionary diversification. Recovered are its purpose, the
    sentence "[t] in the style of [d]", the random start, the text augmentation, and that it takes a minute; the loss
    and its values are not, and no content term is mentioned (``content_weight=0``).
    """
    styles = styles_of_request(request)
    template = token_template(
        styled_template(sentence_template(request.settings.template, STYLE_TEMPLATE, request.teacher.templates))
    )
    prompts = round_robin(request, put_tokens(template, ""), styles)
    bank = request.bank
    if bank is None:
        bank = _learn_bank(request, template, styles)
    else:
        bank.check("sdd", request.teacher, template, styles)
    tokens_CnLE = bank.rows(request.task.names)
    sentences = [class_sentences(request.task, template, style) for style in styles]
    mine = [sentences[one.style_id][one.class_id] for one in prompts]
    rows = [one.index % tokens_CnLE.shape[1] for one in prompts]
    tokens_NLE = tokens_CnLE[[one.class_id for one in prompts], rows]
    return PromptSet(
        prompts, encode_bank(request.teacher, mine, tokens_NLE, TEXTS_AT_ONCE, "prompts"), tuple(styles), bank
    )


def _learn_bank(request: PromptRequest, template: str, styles: tuple[str, ...]) -> Bank:
    settings, names = request.settings, request.task.names
    sigma, width = token_sigma(request.teacher, request.task, template, settings)
    start_CnLE = start_tokens(request.seed, names, request.per_class, (settings.tokens, width), sigma)
    say(
        f"prompts: learning {len(names)} x {request.per_class} sets of {settings.tokens} soft tokens, "
        f"{settings.steps} steps, sigma {sigma:.3g}"
    )
    tokens_CnLE, losses = learn_instances(request, template, styles, start_CnLE, sigma)
    return Bank.learned(request, "sdd", template, styles, tokens_CnLE, losses)


def learn_instances(
    request: PromptRequest, template: str, styles: tuple[str, ...], start_CnLE: Tensor, sigma: float
) -> tuple[Tensor, list[float]]:
    """Learn one set of tokens an image.

    Args:
        request: for the teacher, the task and the settings.
        template: with ``{tokens}`` and ``{style}``.
        styles: image k of a class has style k modulo their number.
        start_CnLE: where the tokens start.
        sigma: their standard deviation, which the views' noise is a share of.

    Returns:
        The tokens (C, n, L, E), and the mean loss before each step.
    """
    sentences = class_sentences(request.task, template)

    def sentence_of(class_id: int, row: int) -> Sentence:
        return replace(sentences[class_id], style=styles[row % len(styles)])

    return learn_in_batches(request, sentence_of, STYLE_VIEWS, start_CnLE, sigma, apart_from_own_class=False)
