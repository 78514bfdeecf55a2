"""Further images of classes whose images look too much alike: the same class in styles it did not have yet."""

from __future__ import annotations

from collections.abc import Sequence

from clipstill.core.seeds import seed_for
from clipstill.text.prompts import Prompt, PromptRequest, PromptSet, encode_texts
from clipstill.text.styles import FURTHER_STYLES
from clipstill.text.templates import STYLE_TEMPLATE, fill, put_tokens, sentence_template, styled_template


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
    names, descriptions = request.task.names, request.task.descriptions
    prompts = []
    for number in range(count if styles else 0):
        place = number % len(styles)
        index = request.per_class + number
        for class_id in class_ids:
            text = fill(template, names[class_id], descriptions[class_id], styles[place])
            seed = seed_for(request.seed, names[class_id], styles[place], index)
            prompts.append(Prompt(class_id, len(style_names) + place, index, seed, text=text))
    targets_ND = encode_texts(request.teacher, prompts) if prompts else request.class_vectors_CD[:0]
    return PromptSet(prompts, targets_ND, (*style_names, *styles))
