"""What generators with one standard normal latent per image share."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class NormalLatents:
    """Box, prior and codes of a ``Generator`` whose likely latents are standard normal.

    Attributes:
        box: Standard deviations beyond which a latent is clipped.
    """

    box: float

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip to the box, in place."""
        with torch.no_grad():
            latents[0].clamp_(-self.box, self.box)

    def prior(self, latents: Sequence[Tensor]) -> Tensor:
        """Half the mean square of each latent: loss_N, the normal prior per dimension."""
        return 0.5 * latents[0].square().mean((1, 2, 3))

    def codes(self, latents: Sequence[Tensor]) -> None:
        """None: there is no codebook."""
