"""A frozen network whose BatchNorm statistics describe natural images.

CLIP's image towers have no such statistics, or useless ones. A small ImageNet network can stand in for any teacher. If
the student starts from the same network, synthetic images also get the feature statistics that its weights expect.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.packaged_weights import LITE_MEAN, LITE_STD, lite_backbone, lite_provenance
from clipstill.core.protocols import Provenance

# Name in ``core.packaged_weights.LITE``.
NATURAL_NETWORK = "lite0"


class NaturalNetwork(nn.Module):
    """EfficientNet-Lite0 with the packaged ImageNet weights, without its classifier.

    Raises:
        ResourceError: The package of its weights is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.network = lite_backbone(NATURAL_NETWORK)
        self.register_buffer("mean", torch.tensor(LITE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(LITE_STD).view(1, 3, 1, 1))
        self.provenance: Provenance = lite_provenance(NATURAL_NETWORK)
        self.eval().requires_grad_(False).to(device)
        self.network.to(memory_format=torch.channels_last)

    def gap(self, x_N3HW: Tensor) -> Tensor:
        """Distance of images in [0, 1] from natural ones: the mean of the relative gaps over BatchNorm layers."""
        with statistics_gaps(self.network) as gaps:
            self.network.forward_features((x_N3HW - self.mean) / self.std)
        return torch.stack(gaps).mean()
