"""Learned tokens in the first layers of CLIP's towers, while all of its own weights stay as they are.

The image tower gets them after its patches, the text tower before a text's words; each further layer of the first
``depth`` replaces them by prompts of its own.

Source: Li et al., PromptKD, CVPR 2024, section 3 (independent vision-language prompting); Jia et al., Visual Prompt
Tuning, ECCV 2022 (deep prompts).

Shapes: N images, M texts, L tokens, P prompt tokens, K layers with prompts, E token width, D dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for

# Standard deviation of random prompts, as published for both towers.
SIGMA = 0.02


class VisualPrompts(nn.Module):
    """Prompts of an image tower, random at first: N(0, 0.02).

    Args:
        visual: Vision transformer of open_clip; it does not become a part of this module.
        count: Prompt tokens per layer.
        depth: Layers with prompts, counted from the first.

    Raises:
        ConfigError: The tower is no vision transformer that is read at its class token, or has fewer layers.
    """

    def __init__(self, visual: Any, count: int, depth: int, seed: int) -> None:
        super().__init__()
        readable = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"
        if not readable:
            raise ConfigError(
                "visual prompts need an image tower that is a vision transformer read at its class token, as CLIP's "
                "ViT-B/16 is. Choose such a model, or train the projector alone."
            )
        _check_depth(depth, visual.transformer, "image")
        draw = generator_for(seed, "visual prompts")
        self.tokens_KPE = nn.Parameter(SIGMA * torch.randn(depth, count, len(visual.class_embedding), generator=draw))

    def forward(self, visual: Any, x_N3HW: Tensor) -> Tensor:
        """Normalised images -> the tower's vectors (N, D), not of unit length."""
        x_NLE = visual.conv1(x_N3HW).flatten(2).mT
        class_NE = visual.class_embedding.to(x_NLE.dtype).expand(len(x_NLE), 1, -1)
        x_NLE = torch.cat([class_NE, x_NLE], 1) + visual.positional_embedding.to(x_NLE.dtype)
        place, tokens_KPE = x_NLE.shape[1], self.tokens_KPE.to(x_NLE.dtype)
        # The first layer's prompts are normalised with the patches, the further layers' are not.
        x_NLE = visual.ln_pre(_insert(tokens_KPE[0], x_NLE, place))
        x_NLE = _through_layers(visual.transformer, x_NLE, tokens_KPE, place=place)
        pooled_NE = visual.ln_post(x_NLE[:, 0])
        vectors_ND: Tensor = pooled_NE if visual.proj is None else pooled_NE @ visual.proj
        return vectors_ND


class TextPrompts(nn.Module):
    """Prompts of a text tower, the same for every class.

    Args:
        tower: Text tower of open_clip, or the CLIP that holds it; it does not become a part of this module.
        first_PE: Token embeddings that the first layer's prompts start as, such as those of "a photo of a".
        place: Place of a text's first prompt, after its start token if there is one.
        depth: Layers with prompts, counted from the first.
        seed: Seed of the further layers' random prompts, N(0, 0.02).
    """

    def __init__(self, tower: Any, first_PE: Tensor, place: int, *, depth: int, seed: int) -> None:
        super().__init__()
        _check_depth(depth, tower.transformer, "text")
        self._place = place
        draw = generator_for(seed, "text prompts")
        further_KPE = SIGMA * torch.randn(depth - 1, *first_PE.shape, generator=draw)
        self.tokens_KPE = nn.Parameter(torch.cat([first_PE.detach().float()[None], further_KPE.to(first_PE.device)]))

    def forward(self, tower: Any, embeddings_MLE: Tensor, position_M: Tensor) -> Tensor:
        """Texts as token embeddings with P placeholders for the prompts -> vectors (M, D), not of unit length.

        Each text's vector is read from its position in ``position_M``.
        """
        tokens_KPE = self.tokens_KPE.to(embeddings_MLE.dtype)
        # The first layer's prompts get positional embeddings, the further layers' do not.
        embeddings_MLE = _insert(tokens_KPE[0], embeddings_MLE, self._place)
        return text_vectors(tower, embeddings_MLE, position_M, tokens_KPE=tokens_KPE, place=self._place)


def text_vectors(
    tower: Any,
    embeddings_MLE: Tensor,
    position_M: Tensor,
    *,
    tokens_KPE: Sequence[Tensor] | Tensor = (),
    place: int = 0,
) -> Tensor:
    """Vectors (M, D), not of unit length, of token embeddings in a text tower, read from each text's position.

    The further layers of ``tokens_KPE`` replace the tokens from ``place`` on by their prompts.
    """
    dtype, length = embeddings_MLE.dtype, embeddings_MLE.shape[1]
    x_MLE = embeddings_MLE + tower.positional_embedding[:length].to(dtype)
    # The stored mask is for texts of the most tokens.
    mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
    x_MLE = tower.ln_final(_through_layers(tower.transformer, x_MLE, tokens_KPE, place=place, mask=mask))
    vectors_MD: Tensor = x_MLE[torch.arange(len(x_MLE), device=x_MLE.device), position_M]
    if isinstance(tower.text_projection, nn.Linear):
        vectors_MD = tower.text_projection(vectors_MD)
    elif tower.text_projection is not None:
        vectors_MD = vectors_MD @ tower.text_projection
    return vectors_MD


def _insert(tokens_PE: Tensor, x_NLE: Tensor, place: int) -> Tensor:
    """Replace the tokens from a place on by prompts; at the end, append them."""
    prompts_NPE = tokens_PE.expand(len(x_NLE), -1, -1)
    return torch.cat([x_NLE[:, :place], prompts_NPE, x_NLE[:, place + len(tokens_PE) :]], 1)


def _through_layers(
    transformer: Any, x_NLE: Tensor, tokens_KPE: Sequence[Tensor] | Tensor, *, place: int, mask: Tensor | None = None
) -> Tensor:
    """Tokens after a transformer whose second and further layers insert prompts; checkpoints where that is on."""
    for layer, block in enumerate(transformer.resblocks):
        if 0 < layer < len(tokens_KPE):
            x_NLE = _insert(tokens_KPE[layer], x_NLE, place)
        if transformer.grad_checkpointing and torch.is_grad_enabled():
            x_NLE = checkpoint(block, x_NLE, attn_mask=mask, use_reentrant=False)
        else:
            x_NLE = block(x_NLE, attn_mask=mask)
    return x_NLE


def _check_depth(depth: int, transformer: Any, tower: str) -> None:
    layers = len(transformer.resblocks)
    if not 1 <= depth <= layers:
        raise ConfigError(
            f"prompts of depth {depth} do not fit the {layers} layers of the {tower} tower. Set 1 to {layers}."
        )
