"""EfficientNet-Lite, so that the default needs no timm, which takes seconds to import.

Names of its tensors and its answers are those of timm's ``tf_efficientnet_lite0`` and ``tf_efficientnet_lite2``, bit
for bit.

Shapes: N images, F = 1280 features, K = 1000 ImageNet classes, H x W pixels.

Source: Tan and Le, ICML 2019 (EfficientNet); the Lite networks have no squeeze-and-excitation, and ReLU6.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

FEATURES = 1280
IMAGENET_CLASSES = 1000
_STEM = 32
# Kernel, stride and expansion of each stage.
_STAGES = ((3, 1, 1), (3, 2, 6), (5, 2, 6), (3, 2, 6), (5, 1, 6), (5, 2, 6), (3, 1, 6))
# Channels and blocks of each stage.
_SIZES = {
    "lite0": ((16, 24, 40, 80, 112, 192, 320), (1, 2, 2, 3, 3, 4, 1)),
    "lite2": ((16, 24, 48, 88, 120, 208, 352), (1, 3, 3, 4, 4, 5, 1)),
}


class LiteNetwork(nn.Module):
    """Normalised images -> ImageNet logits (N, K), or features (N, F) without a classifier.

    It is on the meta device, without values and memory.

    Args:
        size: ``"lite0"`` or ``"lite2"``.
        classifier: Whether it has the one of ImageNet.
    """

    def __init__(self, size: str, *, classifier: bool) -> None:
        super().__init__()
        with torch.device("meta"):
            self._build(*_SIZES[size], classifier=classifier)

    def _build(self, channels: Sequence[int], depths: Sequence[int], classifier: bool) -> None:
        self.conv_stem = SameConvolution(3, _STEM, 3, stride=2)
        self.bn1 = _Norm(_STEM)
        stages, inputs = [], _STEM
        for (kernel, stride, expansion), outputs, blocks in zip(_STAGES, channels, depths, strict=True):
            parts = [_Block(inputs, outputs, kernel, stride=stride, expansion=expansion)]
            parts += [_Block(outputs, outputs, kernel, stride=1, expansion=expansion) for _ in range(blocks - 1)]
            stages.append(nn.Sequential(*parts))
            inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.conv_head = SameConvolution(inputs, FEATURES, 1)
        self.bn2 = _Norm(FEATURES)
        self.global_pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.classifier = nn.Linear(FEATURES, IMAGENET_CLASSES) if classifier else nn.Identity()

    def forward_features(self, x_N3HW: Tensor) -> Tensor:
        """Normalised images -> feature maps."""
        x = self.blocks(self.bn1(self.conv_stem(x_N3HW)))
        maps: Tensor = self.bn2(self.conv_head(x))
        return maps

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """See the class."""
        out: Tensor = self.classifier(self.global_pool(self.forward_features(x_N3HW)))
        return out


class SameConvolution(nn.Conv2d):
    """A convolution that gives one output for each ``stride`` pixels, as TensorFlow pads it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> None:
        padding = 0 if stride > 1 else kernel // 2
        super().__init__(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps -> feature maps."""
        (kernel, _), (stride, _) = self.kernel_size, self.stride
        if stride > 1:
            height, width = (max(0, (-(-side // stride) - 1) * stride + kernel - side) for side in x.shape[-2:])
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2), value=0)
        return super().forward(x)


class _Norm(nn.BatchNorm2d):
    """BatchNorm and, unless the block ends there, ReLU6."""

    def __init__(self, channels: int, active: bool = True) -> None:
        super().__init__(channels, eps=1e-3)
        self.act = nn.ReLU6(inplace=True) if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps -> feature maps."""
        out: Tensor = self.act(super().forward(x))
        return out


class _Block(nn.Sequential):
    """Expansion, depthwise convolution and projection; where nothing changes size, what came in is added."""

    def __init__(self, inputs: int, outputs: int, kernel: int, *, stride: int, expansion: int) -> None:
        inner, parts = inputs * expansion, OrderedDict[str, nn.Module]()
        if expansion > 1:
            parts |= {"conv_pw": SameConvolution(inputs, inner, 1), "bn1": _Norm(inner)}
        number = len(parts) // 2
        parts["conv_dw"] = SameConvolution(inner, inner, kernel, stride=stride, groups=inner)
        parts[f"bn{number + 1}"] = _Norm(inner)
        parts["conv_pwl" if number else "conv_pw"] = SameConvolution(inner, outputs, 1)
        parts[f"bn{number + 2}"] = _Norm(outputs, active=False)
        super().__init__(parts)
        self.adds = inputs == outputs and stride == 1 and expansion > 1

    def forward(self, x: Tensor) -> Tensor:
        """Feature maps -> feature maps."""
        out: Tensor = super().forward(x)  # type: ignore[no-untyped-call]
        return out + x if self.adds else out
