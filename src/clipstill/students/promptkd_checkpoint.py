"""Students as the code of PromptKD's authors saves them: visual prompts and projector beside an unchanged CLIP.

Source: Li et al., PromptKD, CVPR 2024.

Shapes: K layers, P prompt tokens, E token width, C classes, D teacher dimensions.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from clipstill.core.checkpoints import deep_prompts
from clipstill.core.errors import ConfigError

if TYPE_CHECKING:
    from clipstill.students.student import Student

# The authors train what has VPT in its name, the projector of 1 x 1 convolutions too.
_PROJECTOR = re.compile(r"VPT_image_trans\.\w+\.(\d+\.\w+)")
_PROMPTS = "prompts.tokens_KPE"


def is_of_promptkd(state: Mapping[str, Tensor]) -> bool:
    """Whether a state dict is that of a student of the authors' code."""
    return any(_PROJECTOR.fullmatch(name) for name in state)


def own_names(state: Mapping[str, Tensor], student: Student, path: Path) -> dict[str, Tensor]:
    """The state dict by our names, in float32; CLIP's weights are the student's own.

    The checkpoint has no class vectors: they are zero until ``use_class_vectors``.

    Raises:
        ConfigError: The student has other prompts than those of the checkpoint, which is at ``path``.
    """
    backbone = student.backbone.state_dict()
    found_KPE, own_KPE = deep_prompts(state, "image_encoder.VPT", "image_encoder"), backbone.get(_PROMPTS)
    depth, count = (0, 0) if found_KPE is None else found_KPE.shape[:2]
    if (depth, count) != ((0, 0) if own_KPE is None else own_KPE.shape[:2]):
        raise ConfigError(
            f"{path} holds prompts of {count} tokens in {depth} layers. Set student.prompts={count}"
            f"{f' and student.prompt_depth={depth}' if depth else ''}."
        )
    backbone |= {} if found_KPE is None else {_PROMPTS: found_KPE}
    projector = {match[1]: value for name, value in state.items() if (match := _PROJECTOR.fullmatch(name))}
    # On pooled features a convolution of 1 x 1 is a linear layer.
    linear = {name: value.flatten(1) if value.ndim == 4 else value for name, value in projector.items()}
    floats = {name: value.float() if value.is_floating_point() else value for name, value in linear.items()}
    dims = [value for name, value in floats.items() if value.ndim == 2][-1].shape[0]
    return {
        **{f"backbone.{name}": value for name, value in backbone.items()},
        **{f"head.projector.{name}": value for name, value in floats.items()},
        "head.class_vectors": torch.zeros(student.head.out_features, dims),
        "head.scale": state["logit_scale"].float().exp() if "logit_scale" in state else torch.tensor(100.0),
    }
