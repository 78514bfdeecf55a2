"""Further images of classes whose images look too much alike: the same class in styles it did not have yet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from clipstill.text.prompts import PromptRequest, PromptSet, encode_texts, round_robin
from clipstill.text.styles import FURTHER_STYLES
from clipstill.text.templates import STYLE_TEMPLATE, put_tokens, sentence_template, styled_template


def further_prompts(
    request: PromptRequest, style_names: Sequence[str], class_ids: Sequence[int], count: int
) -> PromptSet:
    """Prompts for further images of some classes, after those of any strategy.

    They use style words only: no soft tokens are drawn or learned. Style ids and indices continue those of the
    strategy. Seeds are made as in ``round_robin``, so they do not depend on which other classes get further images.

    Args:
        request: The request that the strategy got.
        style_names: Style names of the strategy.
        class_ids: Classes that get further images, each once.
        count: Further images per class; beyond the number of further styles, styles take turns.

    Returns:
        Prompts in round-robin order over the classes; ``style_names`` has those of the strategy first. No prompts if
        the strategy has used all of ``FURTHER_STYLES``.
    """
    used = {name.casefold() for name in style_names}
    styles = [style for style in FURTHER_STYLES if style.casefold() not in used][:count]
    sentence = sentence_template(request.settings.template, STYLE_TEMPLATE, request.teacher.templates)
    template = styled_template(put_tokens(sentence, ""))
    first = request.per_class
    indices = range(first, first + count) if styles else range(0)
    prompts = [
        replace(prompt, style_id=len(style_names) + prompt.style_id)
        for prompt in round_robin(request, template, styles, class_ids=class_ids, indices=indices)
    ]
    targets_ND = encode_texts(request.teacher, prompts) if prompts else request.class_vectors_CD[:0]
    return PromptSet(prompts, targets_ND, (*style_names, *styles))
