"""Functions of tensors do what they say."""

import pytest
import torch

from clipstill.core.tensors import one_sided_clamp
from golden import golden


def test_clamp_stops_only_gradients_that_push_further_out() -> None:
    x = torch.tensor([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5], requires_grad=True)
    clamped = one_sided_clamp(x)
    assert clamped.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    clamped.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert x.grad is not None
    # A step goes against the gradient: at -0.5 only a negative one leads back, at 1.5 only a positive one.
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]


def test_clamp_and_its_gradient_are_those_of_vqgan_clip() -> None:
    expected = golden("vqgan_clip")["clamp"]
    x = torch.tensor(expected["inputs"], requires_grad=True)
    clamped = one_sided_clamp(x)
    assert clamped.tolist() == pytest.approx(expected["outputs"])
    clamped.backward(torch.tensor(expected["incoming"]))
    assert x.grad is not None
    assert x.grad.tolist() == expected["gradient"]
