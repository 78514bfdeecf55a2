"""Tiny random CLIPs of open_clip's own architectures, for the tests of whatever stands on them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from open_clip import factory
from safetensors.torch import save_file
from torch import Tensor, nn

from clipstill.core.seeds import generator_for
from clipstill.teachers import load_teacher

CPU = torch.device("cpu")
TEXT = {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
VIT = {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8}
RESNET = {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "patch_size": None}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny-vit": {"embed_dim": 24, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-vit-quickgelu": {"embed_dim": 24, "quick_gelu": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-custom": {"embed_dim": 24, "custom_text": True, "vision_cfg": VIT, "text_cfg": TEXT},
    "tiny-rn": {"embed_dim": 24, "vision_cfg": RESNET, "text_cfg": TEXT},
}


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The tiny architectures under names of their own in open_clip's table, for the time of this file."""
    folder = tmp_path_factory.mktemp("configs")
    for name, config in CONFIGS.items():
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    yield
    factory._MODEL_CONFIG_PATHS.remove(folder)
    for name in CONFIGS:
        del factory._MODEL_CONFIGS[name]


@cache
def reference(architecture: str) -> Any:
    """The same random model on every call, its activations far enough from zero to tell GELU from QuickGELU."""
    model = open_clip.create_model(architecture)
    draw = generator_for("tiny", architecture)
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.dim() > 1:
                tensor.copy_(torch.randn(tensor.shape, generator=draw) / tensor.shape[-1] ** 0.5)
            elif not name.endswith("weight"):  # biases and class tokens; the scales of the norms stay one
                tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.1)
        model.logit_scale.copy_(torch.tensor(4.0))
        for layer in model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                assert layer.running_mean is not None
                assert layer.running_var is not None
                layer.running_mean.copy_(torch.randn(layer.num_features, generator=draw) * 0.2)
                layer.running_var.copy_(torch.rand(layer.num_features, generator=draw) + 0.5)
    return model.eval()


def saved(model: Any, path: Path) -> Path:
    if path.suffix == ".safetensors":
        save_file({key: tensor.clone() for key, tensor in model.state_dict().items()}, path)
    else:
        torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, path)  # noqa: TID251
    return path


def loaded(tmp_path: Path, architecture: str = "tiny-vit", precision: str = "fp32") -> tuple[Any, Any]:
    model = reference(architecture)
    path = saved(model, tmp_path / "weights.safetensors")
    return model, load_teacher(f"openclip:{architecture}/{path}", CPU, precision)


def pictures(count: int = 4, height: int = 32, width: int = 32) -> Tensor:
    return torch.rand(count, 3, height, width, generator=generator_for("pictures", count, height, width))
