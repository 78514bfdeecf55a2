"""Checkpoints as the code of PromptSRC and PromptKD saves them, and what they answer by the equations of the papers.

The files hold real optimisers and schedulers of torch, and a scheduler of Dassl, which need not be installed.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from torch import Tensor
from torch.optim.lr_scheduler import CosineAnnealingLR, LRScheduler

from clipstill.core.seeds import generator_for
from openclip_fixtures import reference

ARCHITECTURE = "tiny-vit"


def dassl_scheduler(optimiser: Any) -> LRScheduler:
    """Dassl's constant warm-up with its successor; its class is importable only by the patch of ``dassl_file``."""
    warmup = type("ConstantWarmupScheduler", (LRScheduler,), {"__module__": "dassl.optim.lr_scheduler"})
    warmup.get_lr = lambda self: [1e-5 for _ in self.optimizer.param_groups]  # type: ignore[attr-defined]
    made: Any = warmup.__new__(warmup)
    made.successor = CosineAnnealingLR(optimiser, 20.0)
    LRScheduler.__init__(made, optimiser)
    return made


def dassl_file(path: Path, state: Mapping[str, Tensor], *, old_format: bool = False) -> Path:
    """What Dassl's ``save_model`` writes: the state dict, and the trainer's own objects beside it."""
    weight = torch.nn.Parameter(torch.ones(3))
    optimiser = torch.optim.SGD([weight], lr=0.005, momentum=0.9, weight_decay=5e-4)
    weight.sum().backward()
    optimiser.step()
    scheduler = dassl_scheduler(optimiser)
    module = types.ModuleType("dassl.optim.lr_scheduler")
    module.ConstantWarmupScheduler = type(scheduler)  # type: ignore[attr-defined]
    packages = {name: types.ModuleType(name) for name in ("dassl", "dassl.optim")} | {module.__name__: module}
    content = {
        "state_dict": dict(state),
        "epoch": 20,
        "optimizer": optimiser.state_dict(),
        "scheduler": scheduler.state_dict(),  # holds the successor, and that the optimiser
        "warmup": scheduler,
        "val_result": np.float64(98.7),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with patch.dict(sys.modules, packages):
        torch.save(content, path, _use_new_zipfile_serialization=not old_format)  # noqa: TID251
    return path


def prompted_state(
    visual_KPE: Sequence[Tensor] | Tensor, text_KPE: Sequence[Tensor] | Tensor, architecture: str = ARCHITECTURE
) -> dict[str, Tensor]:
    """State dict of the tiny CLIP with prompts in two layers, by the names of PromptSRC."""
    own = reference(architecture).state_dict()
    text = ("transformer.", "positional_embedding", "ln_final.", "text_projection")
    return {
        "prompt_learner.ctx": text_KPE[0],
        # Of its own classes; they may not matter.
        "prompt_learner.token_prefix": torch.zeros(51, 1, 16),
        "prompt_learner.token_suffix": torch.zeros(51, 11, 16),
        **{f"image_encoder.{name.removeprefix('visual.')}": own[name] for name in own if name.startswith("visual.")},
        "image_encoder.VPT": visual_KPE[0],
        "image_encoder.transformer.resblocks.1.VPT_shallow": visual_KPE[1],
        **{f"text_encoder.{name}": own[name] for name in own if name.startswith(text)},
        "text_encoder.transformer.resblocks.1.VPT_shallow": text_KPE[1],
        "logit_scale": own["logit_scale"],
    }


def teacher_state(architecture: str = ARCHITECTURE, dtype: torch.dtype = torch.half) -> dict[str, Tensor]:
    """State dict of a teacher, in the authors' half precision, with two visual tokens a layer and four of text."""
    draw = generator_for("authors")
    visual, text = (0.3 * torch.randn(2, *shape, generator=draw) for shape in ((2, 32), (4, 16)))
    return {name: value.to(dtype) for name, value in prompted_state(visual, text, architecture).items()}


def student_state(
    dims: int = 24, architecture: str = ARCHITECTURE, dtype: torch.dtype = torch.half
) -> dict[str, Tensor]:
    """State dict of PromptKD's student: a tiny CLIP's image tower, its prompts, and a projector with used BatchNorm."""
    draw = generator_for("authors' student")

    def random(*shape: int) -> Tensor:
        return 0.3 * torch.randn(*shape, generator=draw)

    whole = teacher_state(architecture, dtype)
    own = {name: value for name, value in whole.items() if name.startswith("image_encoder.")}
    projector = {
        "0.weight": random(dims, 24, 1, 1).to(dtype),
        "0.bias": random(dims).to(dtype),
        "1.weight": 1 + random(dims),
        "1.bias": random(dims),
        "1.running_mean": random(dims),
        "1.running_var": 1 + random(dims).abs(),
        "1.num_batches_tracked": torch.tensor(40),
        "3.weight": random(dims, dims, 1, 1).to(dtype),
        "3.bias": random(dims).to(dtype),
    }
    named = {f"VPT_image_trans.conv1.{name}": value for name, value in projector.items()}
    return {**own, **named, "logit_scale": reference(architecture).state_dict()["logit_scale"]}


def image_vectors(state: Mapping[str, Tensor], normalised_N3HW: Tensor, heads: int = 2) -> Tensor:
    """Vectors (N, D), not of unit length, of the tower with its prompts: all from a checkpoint alone, in float64.

    An oracle of its own: numbers of the file, matrix products, and the equations of the papers.
    """
    of = {name.removeprefix("image_encoder."): value.double() for name, value in state.items()}
    kernel = of["conv1.weight"]
    size = kernel.shape[-1]
    images = normalised_N3HW.double()
    patches = images.unfold(2, size, size).unfold(3, size, size).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)
    tokens = torch.cat([of["class_embedding"].expand(len(images), 1, -1), patches @ kernel.flatten(1).T], 1)
    tokens = tokens + of["positional_embedding"]
    tokens = torch.cat([tokens, of["VPT"].expand(len(images), -1, -1)], 1)
    tokens = _norm(tokens, of, "ln_pre")
    after = _transformer(tokens, of, [None, of["transformer.resblocks.1.VPT_shallow"]], heads=heads, at_end=True)
    return _norm(after[:, 0], of, "ln_post") @ of["proj"]


def text_vectors(state: Mapping[str, Tensor], embedded_MLE: Tensor, position: Sequence[int]) -> Tensor:
    """Vectors (M, D), not of unit length, of texts whose tokens 1 to P the checkpoint's prompts replace."""
    of = {name.removeprefix("text_encoder."): value.double() for name, value in state.items()}
    first = of["prompt_learner.ctx"]
    rows = len(embedded_MLE)
    embedded = torch.cat(
        [embedded_MLE[:, :1].double(), first.expand(rows, -1, -1), embedded_MLE[:, 1 + len(first) :].double()], 1
    )
    embedded = embedded + of["positional_embedding"]
    deep = [None, of["transformer.resblocks.1.VPT_shallow"]]
    after = _norm(_transformer(embedded, of, deep, heads=2, at_end=False), of, "ln_final")
    return torch.stack([after[row, place] for row, place in enumerate(position)]) @ of["text_projection"]


def projected(state: Mapping[str, Tensor], vectors_NF: Tensor) -> Tensor:
    """The student's projector in evaluation: linear, BatchNorm by its stored statistics, ReLU, linear."""
    of = {name.removeprefix("VPT_image_trans.conv1."): value.double() for name, value in state.items()}
    hidden = vectors_NF @ of["0.weight"].flatten(1).T + of["0.bias"]
    hidden = (hidden - of["1.running_mean"]) / (of["1.running_var"] + 1e-5).sqrt() * of["1.weight"] + of["1.bias"]
    return hidden.clamp(min=0) @ of["3.weight"].flatten(1).T + of["3.bias"]


def _transformer(
    x: Tensor, of: Mapping[str, Tensor], deep: Sequence[Tensor | None], *, heads: int, at_end: bool
) -> Tensor:
    """Residual layers; those with prompts of their own put them in place of the earlier ones."""
    causal = None if at_end else torch.full((x.shape[1], x.shape[1]), -torch.inf, dtype=x.dtype).triu(1)
    for number, tokens in enumerate(deep):
        if tokens is not None:
            own = tokens.expand(len(x), -1, -1)
            count = len(tokens)
            x = torch.cat([x[:, :-count], own], 1) if at_end else torch.cat([x[:, :1], own, x[:, 1 + count :]], 1)
        prefix = f"transformer.resblocks.{number}."
        x = x + _attention(_norm(x, of, f"{prefix}ln_1"), of, f"{prefix}attn.", heads=heads, mask=causal)
        hidden = _linear(_norm(x, of, f"{prefix}ln_2"), of, f"{prefix}mlp.c_fc")
        hidden = 0.5 * hidden * (1 + torch.erf(hidden / 2**0.5))
        x = x + _linear(hidden, of, f"{prefix}mlp.c_proj")
    return x


def _attention(x: Tensor, of: Mapping[str, Tensor], prefix: str, *, heads: int, mask: Tensor | None) -> Tensor:
    joined = x @ of[f"{prefix}in_proj_weight"].T + of[f"{prefix}in_proj_bias"]
    query, key, value = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in joined.chunk(3, dim=-1))
    scores = query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5
    weights = torch.softmax(scores if mask is None else scores + mask, -1)
    return _linear((weights @ value).transpose(1, 2).flatten(2), of, f"{prefix}out_proj")


def _linear(x: Tensor, of: Mapping[str, Tensor], name: str) -> Tensor:
    return x @ of[f"{name}.weight"].T + of[f"{name}.bias"]


def _norm(x: Tensor, of: Mapping[str, Tensor], name: str) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * of[f"{name}.weight"] + of[f"{name}.bias"]
