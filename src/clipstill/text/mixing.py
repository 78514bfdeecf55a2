"""Mix-Prompt: each image is asked for a blend of several styles of its class.

Shapes: N images, M texts, K mixed texts, D teacher dimensions.
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
    styles_of_request,
)
from clipstill.text.templates import STYLE_TEMPLATE, fill, refuse_marks, sentence_template, styled_template

# Below this angle the sine is too small to divide by, and chord and arc are the same to float32.
_SMALLEST_ANGLE = 1e-4
# Of the Dirichlet distribution of the weights: all weights are equally likely.
_CONCENTRATION = 1.0


def mixed_prompts(request: PromptRequest) -> PromptSet:
    """Give each image a random mix of the vectors of K styled texts, with weights from a Dirichlet distribution.

    Styles take turns as the main one, which gets the largest weight and lends the image its style id, so that a split
    by style stays even; the others are drawn. Each image's draw comes from its own seed.

    Raises:
        ConfigError: fewer styles than are mixed, fewer than one image a class, a bank, or a template with ``{tokens}``.

    Source: a reconstruction of Mix-Prompt of Xuan et al., ACM MM 2023, of which only the name and the role are certain.
    """
    refuse_bank(request, "mix")
    styles, count = styles_of_request(request), request.settings.mix_styles
    if len(styles) < count:
        raise ConfigError(
            f"prompts.mix_styles is {count}, and there are {len(styles)} styles to mix. Give more styles or mix fewer."
        )
    template = styled_template(sentence_template(request.settings.template, STYLE_TEMPLATE, request.teacher.templates))
    refuse_marks(template, "mix", "{tokens}")
    prompts: list[Prompt] = []
    parts: list[Prompt] = []
    weights: list[Tensor] = []
    for prompt in round_robin(request, template, styles):
        draw = generator_for(prompt.seed, "mix")
        mixed = _mixed_styles(prompt.style_id, len(styles), count, draw)
        weights.append(dirichlet(count, _CONCENTRATION, draw).sort(descending=True).values)
        name, description = request.task.names[prompt.class_id], request.task.descriptions[prompt.class_id]
        texts = [fill(template, name, description, styles[style_id]) for style_id in mixed]
        parts += [replace(prompt, text=text) for text in texts]
        together = " and ".join(styles[style_id] for style_id in mixed)
        prompts.append(replace(prompt, text=fill(template, name, description, together)))
    part_NKD = encode_texts(request.teacher, parts).view(len(prompts), count, -1)
    return PromptSet(prompts, mix(part_NKD, torch.stack(weights)), styles)


def _mixed_styles(main: int, styles: int, count: int, draw: torch.Generator) -> list[int]:
    """The main style and others, all different."""
    others = [style_id for style_id in torch.randperm(styles, generator=draw).tolist() if style_id != main]
    return [main, *others[: count - 1]]


def dirichlet(count: int, concentration: float, draw: torch.Generator) -> Tensor:
    """Weights (count,) above 0 that sum to 1, from a symmetric Dirichlet distribution.

    By gamma variates of numpy, since torch's take no generator.
    """
    import numpy as np

    seed = int(torch.randint(2**62, (1,), generator=draw))
    shares = np.random.Generator(np.random.PCG64(seed)).dirichlet([concentration] * count)
    return torch.from_numpy(shares).float()


def mix(part_NKD: Tensor, weight_NK: Tensor) -> Tensor:
    """Unit vectors (N, D) between unit vectors: along the arc for two, the normalised weighted sum for more.

    Args:
        part_NKD: unit vectors.
        weight_NK: at least 0, rows sum to 1.
    """
    if part_NKD.shape[1] == 2:
        return slerp(part_NKD[:, 0], part_NKD[:, 1], weight_NK[:, 1])
    return normalize((part_NKD * weight_NK[..., None]).sum(1), dim=-1)


def slerp(a_ND: Tensor, b_ND: Tensor, share_N: Tensor) -> Tensor:
    """The unit vectors that lie the given share of the way from ``a_ND`` to ``b_ND``, along the great circle.

    Opposite vectors have no one arc between them; there the result is normalised and finite, and no more.

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
