"""Learned tokens in the first layers of CLIP's towers, while all of its own weights stay as they are.

The image tower gets them after its patches, the text tower after its start token. The first layer's go through it; each
further layer of the first ``depth`` finds fresh ones in their place, so what a layer made of its prompts is dropped.

Source: Li et al., PromptKD, CVPR 2024, section 3 (independent vision-language prompting); Jia et al., Visual Prompt
Tuning, ECCV 2022 (deep prompts).

Shapes: N images, M texts, L tokens, P prompt tokens, E token width, D dimensions, H x W pixels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clipstill.core.errors import ConfigError
from clipstill.core.seeds import generator_for

# Of the random ones, as published for both towers.
SIGMA = 0.02


class VisualPrompts(nn.Module):
    """Prompts of an image tower.

    Args:
        visual: open_clip's vision transformer; it is not part of this module.
        count: P.
        depth: layers that get prompts, counted from the first.
        seed: of their values, N(0, 0.02).

    Raises:
        ConfigError: a tower that is no vision transformer read at its class token, or has fewer layers.
    """

    def __init__(self, visual: Any, count: int, depth: int, seed: int) -> None:
        super().__init__()
        readable = isinstance(visual, VisionTransformer) and visual.attn_pool is None and visual.pool_type == "tok"
        if not readable:
            raise ConfigError(
                "visual prompts need an image tower that is a vision transformer read at its class token, as CLIP's "
                "ViT-B/16 is. Choose such a model, or train the projector alone."
            )
        blocks, width = _layers(visual.transformer), visual.class_embedding.shape[0]
        _check_depth(depth, len(blocks), "image")
        self.tokens_KPE = nn.Parameter(_random(seed, "visual prompts", depth, count, width))

    def forward(self, visual: Any, x_N3HW: Tensor) -> Tensor:
        """Normalised images -> the tower's vectors (N, D), not of unit length."""
        x_NLE = visual.conv1(x_N3HW).flatten(2).mT
        first_NE = visual.class_embedding.to(x_NLE.dtype).expand(len(x_NLE), 1, -1)
        x_NLE = torch.cat([first_NE, x_NLE], 1) + visual.positional_embedding.to(x_NLE.dtype)
        own = x_NLE.shape[1]
        tokens_KPE = self.tokens_KPE.to(x_NLE.dtype)

        def fresh(layer: int, x_NLE: Tensor) -> Tensor:
            if layer >= len(tokens_KPE):
                return x_NLE
            return torch.cat([x_NLE[:, :own], tokens_KPE[layer].expand(len(x_NLE), -1, -1)], 1)

        # The first layer's prompts are normalised with the patches; fresh(0) would put raw ones after that.
        x_NLE = visual.ln_pre(fresh(0, x_NLE))
        x_NLE = through(visual.transformer, x_NLE, None, lambda layer, x: fresh(layer, x) if layer else x)
        pooled_NE = visual.ln_post(x_NLE[:, 0])
        vectors_ND: Tensor = pooled_NE if visual.proj is None else pooled_NE @ visual.proj
        return vectors_ND


class TextPrompts(nn.Module):
    """Prompts of a text tower, the same for every class.

    Args:
        tower: open_clip's text tower, or the CLIP that holds it; it is not part of this module.
        first_PE: token embeddings that the first layer's start as, such as those of "a photo of a".
        depth: layers that get prompts, counted from the first.
        seed: of the further layers' values, N(0, 0.02).

    Raises:
        ConfigError: the tower has fewer layers.
    """

    def __init__(self, tower: Any, first_PE: Tensor, depth: int, seed: int) -> None:
        super().__init__()
        _check_depth(depth, len(_layers(tower.transformer)), "text")
        count, width = first_PE.shape
        further_KPE = _random(seed, "text prompts", depth - 1, count, width).to(first_PE.device)
        self.tokens_KPE = nn.Parameter(torch.cat([first_PE.detach().float()[None], further_KPE]))

    def forward(self, tower: Any, embeddings_MLE: Tensor, position_M: Tensor) -> Tensor:
        """Texts as token embeddings, in which places 1 to P are the prompts' -> vectors (M, D), not of unit length."""
        tokens_KPE = self.tokens_KPE.to(embeddings_MLE.dtype)
        count, length = tokens_KPE.shape[1], embeddings_MLE.shape[1]

        def fresh(layer: int, x_MLE: Tensor) -> Tensor:
            if layer >= len(tokens_KPE):
                return x_MLE
            return torch.cat([x_MLE[:, :1], tokens_KPE[layer].expand(len(x_MLE), -1, -1), x_MLE[:, 1 + count :]], 1)

        x_MLE = fresh(0, embeddings_MLE) + tower.positional_embedding[:length].to(embeddings_MLE.dtype)
        mask = None if tower.attn_mask is None else tower.attn_mask[:length, :length]
        # The first layer's prompts have their places' positions added by now; the further layers' stand as they are.
        x_MLE = through(tower.transformer, x_MLE, mask, lambda layer, x: fresh(layer, x) if layer else x)
        x_ME = tower.ln_final(x_MLE)[torch.arange(len(x_MLE), device=x_MLE.device), position_M]
        return projected(tower, x_ME)


def through(transformer: Any, x_NLE: Tensor, mask: Tensor | None, before: Callable[[int, Tensor], Tensor]) -> Tensor:
    """Tokens through a transformer's layers, changed before each; memory is spared where its checkpointing is on."""
    batch_first = bool(getattr(transformer, "batch_first", False))
    for layer, block in enumerate(_layers(transformer)):
        x_NLE = before(layer, x_NLE)
        x = x_NLE if batch_first else x_NLE.transpose(0, 1)
        if getattr(transformer, "grad_checkpointing", False) and torch.is_grad_enabled():
            x = checkpoint(block, x, None, None, mask, use_reentrant=False)
        else:
            x = block(x, attn_mask=mask)
        x_NLE = x if batch_first else x.transpose(0, 1)
    return x_NLE


def projected(tower: Any, x_ME: Tensor) -> Tensor:
    """What a text tower reads at the end of a text -> its vectors (M, D)."""
    vectors_MD: Tensor = x_ME
    if isinstance(tower.text_projection, nn.Linear):
        vectors_MD = tower.text_projection(x_ME)
    elif tower.text_projection is not None:
        vectors_MD = x_ME @ tower.text_projection
    return vectors_MD


def _layers(transformer: Any) -> Any:
    return transformer.resblocks


def _check_depth(depth: int, layers: int, tower: str) -> None:
    if not 1 <= depth <= layers:
        raise ConfigError(
            f"prompts of depth {depth} do not fit the {layers} layers of the {tower} tower. Set 1 to {layers}."
        )


def _random(seed: int, what: str, depth: int, count: int, width: int) -> Tensor:
    return SIGMA * torch.randn(depth, count, width, generator=generator_for(seed, what))
