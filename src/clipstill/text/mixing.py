"""Mix-Prompt: the target of each image is a mean of several styled texts of its class.

Shapes: N images, K mixed texts, D teacher dimensions.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for
from clipstill.text.prompts import (
    Prompt,
    PromptRequest,
    PromptSet,
    encode_texts,
    refuse_bank,
    round_robin,
    strategy_template,
)
from clipstill.text.templates import STYLE_TEMPLATE, fill

# Below this angle the sine is too small to divide by, and chord and arc are equal in float32.
_SMALLEST_ANGLE = 1e-4
_CONCENTRATION = 1.0  # Of the Dirichlet distribution: all weights are equally likely.


def mixed_prompts(request: PromptRequest) -> PromptSet:
    """Mix the vectors of K styled texts for each image, with weights from a Dirichlet distribution.

    Styles take turns as the main one, which gets the largest weight and gives the image its style id; the others are
    drawn from the image's own seed.

    Source: A reconstruction of Mix-Prompt of Xuan et al., ACM MM 2023, of which only the name and the role are certain.
    """
    refuse_bank(request, "mix")
    styles, count = tuple(request.styles), request.settings.mix_styles
    if len(styles) < count:
        raise ConfigError(
            f"prompts.mix_styles is {count}, and there are {len(styles)} styles to mix. Give more styles or mix fewer."
        )
    template = strategy_template(request, "mix", STYLE_TEMPLATE, style=True)
    prompts: list[Prompt] = []
    parts: list[Prompt] = []
    weights: list[Tensor] = []
    for prompt in round_robin(request, template, styles):
        draw = generator_for(prompt.seed, "mix")
        others = torch.randperm(len(styles), generator=draw).tolist()
        others.remove(prompt.style_id)
        mixed = [styles[style_id] for style_id in (prompt.style_id, *others[: count - 1])]
        weights.append(dirichlet(count, _CONCENTRATION, draw).sort(descending=True).values)
        name, description = request.task.names[prompt.class_id], request.task.descriptions[prompt.class_id]
        parts += [replace(prompt, text=fill(template, name, description, style)) for style in mixed]
        prompts.append(replace(prompt, text=fill(template, name, description, " and ".join(mixed))))
    part_NKD = encode_texts(request.teacher, parts).view(len(prompts), count, -1)
    return PromptSet(prompts, mix(part_NKD, torch.stack(weights)), styles)


def dirichlet(count: int, concentration: float, draw: torch.Generator) -> Tensor:
    """Weights (count,) above 0 that sum to 1, from a symmetric Dirichlet distribution."""
    import numpy as np

    # torch has no gamma distribution that takes a generator.
    seed = int(torch.randint(2**62, (1,), generator=draw))
    shares = np.random.Generator(np.random.PCG64(seed)).dirichlet([concentration] * count)
    return torch.from_numpy(shares).float()


def mix(part_NKD: Tensor, weight_NK: Tensor) -> Tensor:
    """Weighted means (N, D) of unit vectors: along the arc for two, the normalised sum for more; weights sum to 1."""
    if part_NKD.shape[1] == 2:
        return slerp(part_NKD[:, 0], part_NKD[:, 1], weight_NK[:, 1])
    return normalize((part_NKD * weight_NK[..., None]).sum(1), dim=-1)


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
