"""Further images of classes whose images look too much alike: the same class in styles that it has not been asked for.

Shapes: N prompts, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

from clipstill.core.seeds import seed_for
from clipstill.text.prompts import Prompt, PromptRequest, PromptSet, encode_texts
from clipstill.text.styles import FURTHER_STYLES
from clipstill.text.templates import STYLE_TEMPLATE, fill, put_tokens, sentence_template, styled_template


def further_prompts(
    request: PromptRequest, style_names: Sequence[str], class_ids: Sequence[int], count: int
) -> PromptSet:
    """Ask for further images of some classes, whatever strategy asked for the first ones.

    Words of style are all that is needed to leave the beaten path, so no token is drawn or learned. Style ids and
    indices go on after those of the strategy. As everywhere, an image's seed depends on the run's seed, the class name,
    the style's name and its index: which other classes get further images changes nothing.

    Args:
        request: that the strategy got.
        style_names: of the strategy, one a style id.
        class_ids: of the classes, each once.
        count: further images a class; beyond the number of further styles these take turns.

    Returns:
        Round-robin over the classes; ``style_names`` are those of the strategy and the further ones. Without prompts
        where the strategy has used all the words of ``FURTHER_STYLES``.
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
            prompts.append(Prompt(class_id, len(style_names) + place, index, seed, text))
    targets_ND = encode_texts(request.teacher, prompts) if prompts else request.class_vectors_CD[:0]
    return PromptSet(prompts, targets_ND, (*style_names, *styles))
