"""Random-Prompt and Contrastive-Prompt: pseudo-words in the place of a style word.

Both are reconstructions of strategies of Xuan et al., "Distilling Vision-Language Foundation Models: A Data-Free
Approach via Prompt Diversification", ACM MM 2023: names and roles are certain, formulas and values are not known. Where
they are silent, the published sibling PromptStyler (Cho et al., ICCV 2023) is followed.

Shapes: N prompts, C classes, n prompts a class, L soft tokens, E token width, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from clipstill.core.progress import Progress, say
from clipstill.text.bank import Bank
from clipstill.text.contrastive import CONTENT_TEMPERATURE, content_loss, earlier_loss, learn_in_batches, mean_history
from clipstill.text.prompts import (
    TEXTS_AT_ONCE,
    Prompt,
    PromptRequest,
    PromptSet,
    check_count,
    refuse_bank,
    round_robin,
)
from clipstill.text.soft_tokens import (
    Sentence,
    SoftSentences,
    class_sentences,
    encode_bank,
    learn,
    random_tokens,
    start_tokens,
    token_sigma,
)
from clipstill.text.templates import (
    PSEUDO_TEMPLATE,
    PSEUDO_VIEWS,
    put_tokens,
    refuse_marks,
    sentence_template,
    token_template,
)


def random_prompts(request: PromptRequest) -> PromptSet:
    """Give each image pseudo-words of its own, drawn from N(0, sigma) and never learned.

    The draw comes from the run's seed, the class name and the image's index. Style ids number the draws in turn, since
    no two images share a pseudo-word.

    Raises:
        ConfigError: fewer than one image a class, a bank, a template with ``{style}``, a sentence that is longer than
            the teacher reads, or a teacher without soft tokens.

    Source: a reconstruction of Random-Prompt of Xuan et al., ACM MM 2023.
    """
    refuse_bank(request, "random")
    check_count(request)
    template, names = _template(request, "random"), _names(request, request.settings.pseudo_styles)
    prompts = _prompts(request, template, names)
    settings, classes = request.settings, request.task.names
    sigma, width = token_sigma(request.teacher, request.task, template, settings)
    shape = (settings.tokens, width)
    drawn = [random_tokens(request.seed, classes[one.class_id], one.index, shape, sigma) for one in prompts]
    return PromptSet(prompts, _encode(request, prompts, template, torch.stack(drawn)), names)


def contrastive_prompts(request: PromptRequest) -> PromptSet:
    """Give each class n pseudo-words that are learned to differ from each other and to keep the class.

    ``joint`` learns the n prompts of a class together: each is pulled to its own augmented view (another sentence,
    noise and dropout on the tokens) and pushed away from the views of the other n - 1. ``sequential`` learns one prompt
    after the other, each pushed away from the earlier ones. Both add the content term. They start from what
    ``random_prompts`` draws. Images beyond n take the prompts in turn.

    Raises:
        ConfigError: fewer than one image a class, a bank that does not fit, a template with ``{style}``, a sentence
            that is longer than the teacher reads, or a teacher without soft tokens.

    Source: a reconstruction of Contrastive-Prompt of Xuan et al., ACM MM 2023; ``sequential`` after Cho et al., ICCV
    2023.
    """
    check_count(request)
    template = _template(request, "contrastive")
    bank = request.bank
    if bank is None:
        bank = _learn_bank(request, template)
    else:
        bank.check("contrastive", request.teacher, template, ())
    tokens_CnLE = bank.rows(request.task.names)
    names = _names(request, tokens_CnLE.shape[1])
    prompts = _prompts(request, template, names)
    tokens_NLE = tokens_CnLE[[one.class_id for one in prompts], [one.style_id for one in prompts]]
    return PromptSet(prompts, _encode(request, prompts, template, tokens_NLE), names, bank)


def _template(request: PromptRequest, strategy: str) -> str:
    template = sentence_template(request.settings.template, PSEUDO_TEMPLATE, request.teacher.templates)
    refuse_marks(template, strategy, "{style}")
    return token_template(template)


def _names(request: PromptRequest, count: int) -> tuple[str, ...]:
    """Of the pseudo-styles, no more than there are images of a class."""
    return tuple(f"S{number}" for number in range(1, min(count, request.per_class) + 1))


def _prompts(request: PromptRequest, template: str, names: Sequence[str]) -> list[Prompt]:
    """Round-robin over the pseudo-styles, whose names stand for their tokens in the texts."""
    return round_robin(request, put_tokens(template, "{style}"), names)


def _encode(request: PromptRequest, prompts: Sequence[Prompt], template: str, tokens_NLE: Tensor) -> Tensor:
    sentences = class_sentences(request.task, template)
    mine = [sentences[one.class_id] for one in prompts]
    return encode_bank(request.teacher, mine, tokens_NLE, TEXTS_AT_ONCE, "prompts")


def _learn_bank(request: PromptRequest, template: str) -> Bank:
    settings, names = request.settings, request.task.names
    # As many as there are images to use them.
    count = min(settings.pseudo_styles, request.per_class)
    sigma, width = token_sigma(request.teacher, request.task, template, settings)
    start_CnLE = start_tokens(request.seed, names, count, (settings.tokens, width), sigma)
    say(
        f"prompts: learning {len(names)} x {count} pseudo-words of {settings.tokens} soft tokens, "
        f"{settings.steps} steps, {settings.order}, sigma {sigma:.3g}"
    )
    learn_all = learn_joint if settings.order == "joint" else learn_sequential
    tokens_CnLE, losses = learn_all(request, template, start_CnLE, sigma)
    return Bank.learned(request, "contrastive", template, (), tokens_CnLE, losses)


def learn_joint(request: PromptRequest, template: str, start_CnLE: Tensor, sigma: float) -> tuple[Tensor, list[float]]:
    """The prompts of each class together.

    Args:
        request: for the teacher, the class vectors and the settings.
        template: with ``{tokens}``.
        start_CnLE: where the tokens start.
        sigma: their standard deviation, which the views' noise is a share of.

    Returns:
        The tokens (C, n, L, E), and the mean loss before each step.
    """
    sentences = class_sentences(request.task, template)

    def sentence_of(class_id: int, row: int) -> Sentence:
        return sentences[class_id]

    return learn_in_batches(request, sentence_of, PSEUDO_VIEWS, start_CnLE, sigma, apart_from_own_class=True)


def learn_sequential(
    request: PromptRequest, template: str, start_CnLE: Tensor, sigma: float
) -> tuple[Tensor, list[float]]:
    """One prompt of each class after the other; arguments and result are those of ``learn_joint``.

    The mean losses are over all prompts too: at their first step, at their second, and so on.
    """
    del sigma  # Of the views' noise, and here are no views.
    settings, count = request.settings, start_CnLE.shape[1]
    sentences = class_sentences(request.task, template)
    starts = range(0, len(sentences), TEXTS_AT_ONCE)
    learned_CnLE = start_CnLE.clone()
    histories: list[list[float]] = []
    with Progress("prompts", total=len(starts) * count * settings.steps, unit="step") as bar:
        for at in starts:
            class_ids = list(range(at, min(at + TEXTS_AT_ONCE, len(sentences))))
            soft = SoftSentences(request.teacher, [sentences[i] for i in class_ids], settings.tokens)
            device = soft.embeddings_MTE.device
            class_N = torch.tensor(class_ids, device=device)
            earlier: list[Tensor] = []
            for row in range(count):
                losses = _apart_from(request, soft, earlier, class_N)
                tokens_NLE, history = learn(start_CnLE[class_ids, row].to(device), losses, settings, bar)
                learned_CnLE[class_ids, row] = tokens_NLE.to(learned_CnLE)
                with torch.no_grad():
                    earlier.append(soft.encode(tokens_NLE))
                histories.append([loss * len(class_ids) for loss in history])
    return learned_CnLE, mean_history(histories, len(sentences) * count)


def _apart_from(
    request: PromptRequest, soft: SoftSentences, earlier: Sequence[Tensor], class_N: Tensor
) -> Callable[[Tensor], Tensor]:
    """Tokens of one prompt of each class -> losses, given the vectors of the earlier ones."""
    settings = request.settings
    earlier_NKD = torch.stack(list(earlier), dim=1) if earlier else None

    def losses(tokens_NLE: Tensor) -> Tensor:
        feat_ND = soft.encode(tokens_NLE)
        vectors_CD = request.class_vectors_CD.to(feat_ND)
        content_N = content_loss(feat_ND, vectors_CD, class_N, CONTENT_TEMPERATURE)
        apart_N = 0.0 if earlier_NKD is None else earlier_loss(feat_ND, earlier_NKD)
        return apart_N + settings.content_weight * content_N

    return losses
