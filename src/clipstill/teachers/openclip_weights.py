"""Loads tensors that were read safely into a model of open_clip, from the layouts in which CLIPs are published."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from open_clip.convert import convert_state_dict
from open_clip.model import convert_to_custom_text_state_dict, resize_pos_embed, resize_text_pos_embed
from torch import Tensor

from clipstill.core.errors import ConfigError

# OpenAI's own archives store these three beside the weights; no other trainer does.
OPENAI_MARKS = ("input_resolution", "context_length", "vocab_size")
# Buffers that some versions of the trainers stored, and that are made anew.
_MADE_ANEW = re.compile(r"(.*\.)?(attn_mask|position_ids)")
# TinyCLIP keeps each tower in a module of its own.
_TINYCLIP = re.compile(r"_(?:image_encoder|text_encoder|logit_scale)\.(?:module\.)?")
# Names of transformers' CLIPModel -> those of open_clip's CLIP.
_FROM_TRANSFORMERS = {
    r"(text|vision)_model\.encoder\.layers\.": r"\1.transformer.resblocks.",
    r"\.self_attn\.": ".attn.",
    r"\.layer_norm([12])\.": r".ln_\1.",
    r"\.mlp\.fc1\.": ".mlp.c_fc.",
    r"\.mlp\.fc2\.": ".mlp.c_proj.",
    r"text_model\.embeddings\.token_embedding\.": "token_embedding.",
    r"text_model\.embeddings\.position_embedding\.weight": "positional_embedding",
    r"text_model\.final_layer_norm\.": "ln_final.",
    r"vision_model\.embeddings\.class_embedding": "visual.class_embedding",
    r"vision_model\.embeddings\.patch_embedding\.": "visual.conv1.",
    r"vision_model\.embeddings\.position_embedding\.weight": "visual.positional_embedding",
    r"vision_model\.pre_layrnorm\.": "visual.ln_pre.",
    r"vision_model\.post_layernorm\.": "visual.ln_post.",
    r"visual_projection\.weight": "visual.proj",
    r"text_projection\.weight": "text_projection",
    r"^text\.": "",
    r"^vision\.": "visual.",
}
_ATTENTION = re.compile(r"(.*\.attn)\.q_proj\.(weight|bias)")


def load_weights(model: Any, state: Mapping[str, Tensor], architecture: str, path: Path) -> None:
    """Load tensors as open_clip's own loader would.

    Raises:
        ConfigError: They are of another architecture, or of a layout that is not known.
    """
    state = {_TINYCLIP.sub("", key, count=1): value for key, value in state.items() if key not in OPENAI_MARKS}
    if is_of_transformers(state):
        state = _from_transformers(state, architecture, path)
    try:
        state = convert_state_dict(model, state)
        if "positional_embedding" in state and not hasattr(model, "positional_embedding"):
            state = convert_to_custom_text_state_dict(state)
        wanted = model.state_dict()
        state = {key: value for key, value in state.items() if key in wanted or not _MADE_ANEW.fullmatch(key)}
        # Probabilities among given classes do not depend on the bias of SigLIP's loss.
        if "logit_bias" in wanted:
            state.setdefault("logit_bias", torch.zeros_like(wanted["logit_bias"]))
        else:
            state.pop("logit_bias", None)
        for scalar in ("logit_scale", "logit_bias"):
            if scalar in state:
                state[scalar] = state[scalar].reshape(wanted[scalar].shape)
        resize_pos_embed(state, model)
        resize_text_pos_embed(state, model)
        model.load_state_dict(state)
    except (RuntimeError, KeyError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"the weights in {path} are not of {architecture} ({reason}). Name the architecture "
            "that they were trained with; open_clip's names are in open_clip.list_models()."
        ) from None


def is_of_transformers(state: Mapping[str, Any]) -> bool:
    """Whether these are the weights of a model of the package transformers."""
    return any(key.startswith("text_model.") for key in state) and any(key.startswith("vision_model.") for key in state)


def _from_transformers(state: Mapping[str, Tensor], architecture: str, path: Path) -> dict[str, Tensor]:
    """Tensors of transformers' CLIPModel, in open_clip's layout.

    Raises:
        ConfigError: It is another model of transformers.
    """
    if "vision_model.pre_layrnorm.weight" not in state:
        raise ConfigError(
            f"{path} holds a model of transformers that is no CLIPModel (SigLIP, say), in its layout. Name the same "
            f"weights in open_clip's layout: openclip:{architecture}/TAG fetches them, openclip:hf-hub:ORG/NAME others."
        )
    renamed: dict[str, Tensor] = {}
    for name, value in state.items():
        key = name
        for pattern, replacement in _FROM_TRANSFORMERS.items():
            key = re.sub(pattern, replacement, key)
        # open_clip multiplies by its projections from the right.
        renamed[key] = value.T if name in ("visual_projection.weight", "text_projection.weight") else value
    found: dict[str, Tensor] = {}
    for key, value in renamed.items():
        query = _ATTENTION.fullmatch(key)
        if query is not None:
            parts = [renamed[f"{query[1]}.{part}_proj.{query[2]}"] for part in "qkv"]
            found[f"{query[1]}.in_proj_{query[2]}"] = torch.cat(parts)
        elif not re.search(r"\.attn\.[kv]_proj\.", key):
            found[key] = value
    return found
