"""Statistics of a pretrained backbone's features on natural images, from its BatchNorm weights, without images.

A BatchNorm layer turns each channel into mean ``beta`` and standard deviation ``|gamma|`` over the positions of the
images it was trained on. Near a normal distribution, the clipped activation behind it has a mean and a variance in
closed form, and the mean is also the mean of the pooled feature.

The prediction is for all images of the pretraining. A task of a few classes has a mean of its own: on everyday photos,
the channel means of Lite0 hardly correlate with the prediction, since beta and gamma differ little among channels.

Shapes: F features.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from clipstill.core.errors import ConfigError

# Beyond this many standard deviations the float32 normal density and distribution are 0 and 1 exactly.
_FAR = 40.0
_UPPER_LIMITS: dict[type, float] = {nn.ReLU6: 6.0, nn.ReLU: math.inf}


def natural_feature_statistics(backbone: nn.Module) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of the last feature map's channels on the images of the pretraining.

    Args:
        backbone: A timm network whose feature map ends with BatchNorm and ReLU or ReLU6 (the EfficientNet-Lite family).

    Returns:
        mean_F, also the expected mean of the pooled features; and std_F over single positions, which is larger than the
        spread of pooled features. For the Lite networks, mean_F is E[clip(N(beta, gamma ** 2), 0, 6)].

    Raises:
        ConfigError: The network ends otherwise (a residual sum, a swish, a layer after pooling).
    """
    norm = getattr(backbone, "bn2", None)
    high = _UPPER_LIMITS.get(type(getattr(norm, "act", None)))
    if not isinstance(norm, nn.modules.batchnorm._BatchNorm) or not hasattr(backbone, "conv_head") or high is None:
        raise ConfigError(
            f"the features of {type(backbone).__name__} do not end with BatchNorm and ReLU, so their mean on natural "
            f"images is not known. Set distillation.feature_recentre to 'off', or use the student lite0 or lite2."
        )
    return clipped_normal_moments(norm.bias.detach(), norm.weight.detach().abs(), high)


def clipped_normal_moments(mean_F: Tensor, std_F: Tensor, high: float) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of ``clip(X, 0, high)`` for X normal.

    With ``a = (0 - mean) / std`` and ``b = (high - mean) / std``, phi and Phi the standard normal density and
    distribution: ``E = mean (Phi(b) - Phi(a)) + std (phi(a) - phi(b)) + high (1 - Phi(b))``, and the second moment
    likewise.

    Args:
        mean_F: Mean of X.
        std_F: Standard deviation of X, not negative; 0 stands for a constant.
        high: Upper limit, above 0; may be infinite.

    Returns:
        Mean and standard deviation after clipping.
    """
    mean, std = mean_F.double(), std_F.double().clamp_min(1e-12)
    low_z = (-mean / std).clamp(-_FAR, _FAR)
    high_z = ((high - mean) / std).clamp(-_FAR, _FAR)
    inside = _distribution(high_z) - _distribution(low_z)
    low_density, high_density = _density(low_z), _density(high_z)
    above = 1 - _distribution(high_z) if math.isfinite(high) else torch.zeros_like(mean)
    ceiling = high if math.isfinite(high) else 0.0
    first = mean * inside + std * (low_density - high_density) + ceiling * above
    # x^2 over the unclipped part integrates to (mean^2 + std^2) inside + std (mean phi(a) - (mean + high) phi(b)).
    second = (
        (mean**2 + std**2) * inside + std * (mean * low_density - (mean + ceiling) * high_density) + ceiling**2 * above
    )
    variance = (second - first**2).clamp_min(0)
    return first.to(mean_F.dtype), variance.sqrt().to(mean_F.dtype)


def _density(z: Tensor) -> Tensor:
    return torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)


def _distribution(z: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(z / math.sqrt(2)))
