"""The own EfficientNet-Lite is timm's, bit for bit."""

from __future__ import annotations

import pytest
import timm
import torch

from clipstill.core.lite_network import LiteNetwork
from clipstill.core.packaged_weights import LITE, lite_state_dict
from clipstill.core.seeds import generator_for


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("size", list(LITE))
def test_answers_gradients_and_statistics_are_those_of_timm(size: str, training: bool) -> None:
    networks = timm.create_model(LITE[size].timm_name), LiteNetwork(size, classifier=True).to_empty(device="cpu")
    found = []
    for network in networks:
        network.load_state_dict(lite_state_dict(size))
        network.train(training)
        # Sides that the strided convolutions pad unevenly.
        x_N3HW = torch.rand(2, 3, 64, 97, generator=generator_for("test images")).requires_grad_()
        logits_NK = network(x_N3HW)
        gradients = torch.autograd.grad(logits_NK.square().sum(), [x_N3HW, *network.parameters()])
        found.append([logits_NK, *gradients, *network.state_dict().values()])
    assert list(networks[0].state_dict()) == list(networks[1].state_dict())
    assert all(torch.equal(theirs, ours) for theirs, ours in zip(*found, strict=True))
