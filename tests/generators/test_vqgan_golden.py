"""The VQGAN against numbers of taming-transformers and VQGAN-CLIP.

Both sides are float32 and differ in the order of their sums, which the last digits show.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import vqgan_fixtures as published
from clipstill.core.seeds import generator_for
from clipstill.generators.vqgan import Vqgan
from clipstill.generators.vqgan_checkpoint import build_model, select_tensors, shape_of
from golden import golden

STATE = published.random_state(published.decoder(published.TINY))
CODES = torch.randint(24, (2, 8, 8), generator=generator_for("golden codes"))
PLACES = [(0, 0), (5, 9), (15, 15)]


@pytest.fixture(scope="module")
def tiny() -> Vqgan:
    shape = shape_of(STATE, "tiny")
    return Vqgan.of_model(build_model(shape, select_tensors(STATE, shape, "tiny")))


@pytest.fixture
def beside(tiny: Vqgan) -> Tensor:
    """Latents that are no codes."""
    exact = tiny.embed(CODES)
    return exact + 0.8 * torch.randn(exact.shape, generator=generator_for("golden latents"))


def test_decoded_codes_are_the_image_of_taming_transformers(tiny: Vqgan) -> None:
    expected = golden("vqgan")["decode"]
    image = 2 * tiny.decode([tiny.embed(CODES)]) - 1
    assert image.abs().max() < 1  # the clamp plays no part here
    assert float(image.mean()) == pytest.approx(expected["mean"], abs=1e-6)
    assert float(image.std()) == pytest.approx(expected["std"], rel=1e-5)
    pixels = torch.stack([image[..., row, column] for row, column in PLACES], -1)
    torch.testing.assert_close(pixels, torch.tensor(expected["pixels"]), atol=2e-6, rtol=0)


def test_latents_are_rounded_to_the_codes_of_taming_transformers(tiny: Vqgan, beside: Tensor) -> None:
    expected = golden("vqgan")["quantise"]
    found = tiny.codes([beside])
    assert found[0].tolist() == expected["codes_of_first_image"]
    assert int((found != CODES).sum()) == expected["cells_that_moved"]


def test_image_gradient_and_projection_are_those_of_vqgan_clip(tiny: Vqgan, beside: Tensor) -> None:
    expected = golden("vqgan")
    latents = beside.clone().requires_grad_()
    image = tiny.decode([latents])
    (image * torch.randn(image.shape, generator=generator_for("golden gradients"))).sum().backward()
    assert latents.grad is not None
    assert float(image.detach().mean()) == pytest.approx(expected["synthesis"]["mean"], rel=1e-6)
    assert float(latents.grad.norm()) == pytest.approx(expected["synthesis"]["gradient_norm"], rel=1e-5)
    of_cell = expected["synthesis"]["gradient_of_one_cell"]
    assert latents.grad[1, :, 3, 4].tolist() == pytest.approx(of_cell, abs=1e-6)
    projected = beside.clone()
    tiny.project_([projected])
    assert int((projected != beside).sum()) == expected["projection"]["clipped"]
    assert float(projected.mean()) == pytest.approx(expected["projection"]["mean"], rel=1e-5)
    assert float(projected.std()) == pytest.approx(expected["projection"]["std"], rel=1e-5)
