"""Functions of tensors do what they say."""

import torch

from clipstill.core.tensors import one_sided_clamp


def test_clamp_stops_only_gradients_that_push_further_out() -> None:
    x = torch.tensor([-0.5, -0.5, 0.5, 0.5, 1.5, 1.5], requires_grad=True)
    clamped = one_sided_clamp(x)
    assert clamped.tolist() == [0, 0, 0.5, 0.5, 1, 1]
    clamped.backward(torch.tensor([1.0, -1.0, 1.0, -1.0, 1.0, -1.0]))
    assert x.grad is not None
    # A step goes against the gradient: at -0.5 only a negative one leads back, at 1.5 only a positive one.
    assert x.grad.tolist() == [0, -1, 1, -1, 1, 0]
