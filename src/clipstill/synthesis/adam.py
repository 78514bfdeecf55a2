"""Adam for images that started at different times.

Shapes: S slots.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class SlotAdam:
    """Adam over stacked latents whose every row (slot) has its own age and step size.

    Where all rows have one age it is ``torch.optim.Adam``. That one counts one age for a whole tensor, so that an image
    that enters a running batch would be corrected as if it had been there from the start.

    Args:
        latents: tensors whose first dimension is S; only their shapes are looked at.
        betas: decay of the first and second moment. The second is shorter than usual: a run has a hundred steps.
        eps: added to the root of the second moment.

    Source: Kingma and Ba, ICLR 2015.
    """

    def __init__(self, latents: Sequence[Tensor], betas: tuple[float, float] = (0.9, 0.99), eps: float = 1e-8) -> None:
        self._betas, self._eps = betas, eps
        self._first = [torch.zeros_like(latent) for latent in latents]
        self._second = [torch.zeros_like(latent) for latent in latents]
        self._age_S = torch.zeros(len(latents[0]), device=latents[0].device)

    @torch.no_grad()
    def step_(self, latents: Sequence[Tensor], gradients: Sequence[Tensor], lr_S: Tensor) -> None:
        """Move the latents in place, each row by its own step size."""
        beta1, beta2 = self._betas
        self._age_S += 1
        rate_S = lr_S / (1 - beta1**self._age_S)
        correction_S = (1 - beta2**self._age_S).sqrt()
        for latent, gradient, first, second in zip(latents, gradients, self._first, self._second, strict=True):
            first.lerp_(gradient, 1 - beta1)
            second.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            size = second.sqrt().div_(_rows(correction_S, latent)).add_(self._eps)
            latent.addcmul_(first / size, _rows(rate_S, latent), value=-1)

    @torch.no_grad()
    def reset_(self, rows: Sequence[int]) -> None:
        """Forget what was learned of some rows: another image is there now."""
        for moment in (*self._first, *self._second, self._age_S):
            moment[list(rows)] = 0

    def keep(self, rows: Tensor) -> None:
        """Go on with some of the rows only."""
        self._first = [moment[rows] for moment in self._first]
        self._second = [moment[rows] for moment in self._second]
        self._age_S = self._age_S[rows]


def _rows(value_S: Tensor, like: Tensor) -> Tensor:
    """One number a row, in a shape that multiplies the whole row."""
    return value_S.view(-1, *[1] * (like.ndim - 1)).to(like.dtype)
