"""Frozen networks that remember natural images in their BatchNorm statistics.

CLIP's image towers carry no such statistics (or useless ones), and the teacher's own say nothing of the student. A
small ImageNet network beside the teacher knows what natural images look like whatever the teacher is; where the student
starts from the same network, the synthetic images also get the feature statistics that its pretrained weights expect.

Shapes: N images, H x W pixels.
"""

from __future__ import annotations

from typing import Any, cast

import timm
import torch
from torch import Tensor, nn

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.packaged_weights import LITE, LITE_MEAN, LITE_STD, lite_provenance, lite_state_dict
from clipstill.core.protocols import Provenance


class NaturalNetwork(nn.Module):
    """One packaged ImageNet network, without its classifier.

    Args:
        name: ``"lite0"`` or ``"lite2"``.
        device: Device of the network.

    Raises:
        UnknownNameError: Another name.
        ResourceError: The package of its weights is not installed.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, device: torch.device) -> None:
        super().__init__()
        weights = lite_state_dict(name)
        # Any: torch's modules make each attribute a tensor or a module.
        self.network = cast(Any, timm.create_model(LITE[name].timm_name, num_classes=0))
        self.network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("classifier.")})
        self.register_buffer("mean", torch.tensor(LITE_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(LITE_STD).view(1, 3, 1, 1))
        self.provenance: Provenance = lite_provenance(name)
        self.eval().requires_grad_(False).to(device)
        self.network.to(memory_format=torch.channels_last)

    def gap(self, x_N3HW: Tensor) -> Tensor:
        """Distance of a batch of images in [0, 1] from natural ones.

        A scalar: the mean over BatchNorm layers of the relative gaps of means and of standard deviations.
        """
        with statistics_gaps(self.network) as gaps:
            self.network.forward_features((x_N3HW - self.mean) / self.std)
        return torch.stack(gaps).mean()
