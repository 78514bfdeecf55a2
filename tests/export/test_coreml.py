"""Core ML programs on a machine without Core ML: what is written, computed with torch, and what is told of it."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch

from clipstill.core.seeds import generator_for
from clipstill.export.measure import FormatRequest, write_formats
from clipstill.export.onnx import export_onnx
from clipstill.export.parity import student_logits
from core_ml_program import logits_of_program

pytest.importorskip("coremltools")
SIZE = 64


def lite0() -> torch.nn.Module:
    generator = generator_for("lite0 of Core ML")
    network: torch.nn.Module = timm.create_model("tf_efficientnet_lite0", num_classes=5)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.running_mean.normal_(0, 0.1, generator=generator)
            layer.running_var.uniform_(0.5, 1.5, generator=generator)
        elif isinstance(layer, torch.nn.Conv2d | torch.nn.Linear):
            layer.weight.data.normal_(0, layer.weight[0].numel() ** -0.5, generator=generator)
    return network.eval()


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML itself runs here")
@pytest.mark.slow
def test_program_computes_what_the_student_does_and_is_told_unchecked(tmp_path: Path) -> None:
    network = lite0()
    export_onnx(network, tmp_path / "model.onnx", SIZE)
    found = write_formats(tmp_path, network, SIZE, FormatRequest(["coreml"]))[1]
    assert found.warning == "its answers were not compared with the student's: Core ML runs on macOS only"
    assert (found.top1_agreement, found.latency_ms, found.refused) == (None, None, None)
    shutil.unpack_archive(tmp_path / "model.mlpackage.zip", tmp_path)
    x_13HW = torch.rand(1, 3, SIZE, SIZE, generator=generator_for("picture"))
    expected_1C = student_logits(network, x_13HW.numpy())
    assert np.ptp(expected_1C) > 0.01
    with torch.inference_mode():
        computed_1C = logits_of_program(tmp_path / "model.mlpackage", x_13HW)
    np.testing.assert_allclose(computed_1C.numpy(), expected_1C, atol=1e-4 * np.abs(expected_1C).max())
