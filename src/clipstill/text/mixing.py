"""Mix-Prompt: the target of each image lies between two styled texts of its class.

Shapes: N images, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for
from clipstill.text.prompts import Prompt, PromptRequest, PromptSet, encode_texts, round_robin, strategy_template
from clipstill.text.templates import STYLE_TEMPLATE, fill

# Below this angle the sine is too small to divide by, and chord and arc are equal in float32.
_SMALLEST_ANGLE = 1e-4


def mixed_prompts(request: PromptRequest) -> PromptSet:
    """Mix the vectors of two styled texts for each image along the arc between them; all weights are equally likely.

    Styles take turns as the main one, which gets the larger weight and gives the image its style id; the other is drawn
    from the image's own seed.

    Source: A reconstruction of Mix-Prompt of Xuan et al., ACM MM 2023, of which only the name and the role are certain.
    """
    styles = request.settings.styles
    if len(styles) < 2:
        raise ConfigError("prompts.styles has one style, and the strategy 'mix' mixes two. Give more styles.")
    template = strategy_template(request, STYLE_TEMPLATE)
    prompts: list[Prompt] = []
    parts: list[Prompt] = []
    shares: list[Tensor] = []
    for prompt in round_robin(request, template, styles):
        draw = generator_for(prompt.seed, "mix")
        other = next(
            number for number in torch.randperm(len(styles), generator=draw).tolist() if number != prompt.style_id
        )
        mixed = [styles[prompt.style_id], styles[other]]
        # torch has no distribution of weights that takes a generator.
        seed = int(torch.randint(2**62, (1,), generator=draw))
        shares.append(torch.from_numpy(np.random.Generator(np.random.PCG64(seed)).dirichlet([1.0, 1.0])).float().min())
        name, description = request.task.names[prompt.class_id], request.task.descriptions[prompt.class_id]
        parts += [replace(prompt, text=fill(template, name, description, style)) for style in mixed]
        prompts.append(replace(prompt, text=fill(template, name, description, " and ".join(mixed))))
    part_ND = encode_texts(request.teacher, parts)
    return PromptSet(prompts, slerp(part_ND[0::2], part_ND[1::2], torch.stack(shares)), styles)


def slerp(a_ND: Tensor, b_ND: Tensor, share_N: Tensor) -> Tensor:
    """Unit vectors at the given share of the way from ``a_ND`` to ``b_ND`` along the great circle.

    The result for opposite vectors, which have no unique arc, is arbitrary but finite and normalised.

    Source: Shoemake, SIGGRAPH 1985.
    """
    chord_N, sum_N = (a_ND - b_ND).norm(dim=-1), (a_ND + b_ND).norm(dim=-1)
    angle_N = 2 * torch.atan2(chord_N, sum_N)
    sine_N = angle_N.sin()
    near_N = (angle_N < _SMALLEST_ANGLE) | (sine_N < _SMALLEST_ANGLE)
    safe_N = torch.where(near_N, torch.ones_like(sine_N), sine_N)
    first_N = torch.where(near_N, 1 - share_N, ((1 - share_N) * angle_N).sin() / safe_N)
    second_N = torch.where(near_N, share_N, (share_N * angle_N).sin() / safe_N)
    return normalize(first_N[:, None] * a_ND + second_N[:, None] * b_ND, dim=-1)
