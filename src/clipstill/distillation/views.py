"""Random views of training pictures: what teacher and student both see.

Shapes: N images, H x W pixels, S x S pixels of a view. Everything stays in [0, 1]; models normalise by themselves.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from kornia import augmentation
from torch import Tensor
from torch.nn import functional

from clipstill.distillation.randomness import borrowed_generator
from clipstill.distillation.settings import DistilSettings

Kernel = Literal["bilinear", "bicubic"]


class Drawn(NamedTuple):
    """One view of each picture.

    Attributes:
        x_N3SS: in [0, 1], without gradient.
        mixed_N: which of them show a second picture too; they have no class but what the teacher says.
    """

    x_N3SS: Tensor
    mixed_N: Tensor


class Views:
    """Random colour change, crop with resize, and mirror image, drawn for each picture by itself; some are then mixed.

    Colours change before the crop: that is at the size of the synthetic pictures, which is the smaller one.

    Source: Mixing: Zhang et al., mixup, ICLR 2018; Yun et al., CutMix, ICCV 2019. Their labels are mixed as the images
    are; here the teacher looks at the mixed image (Beyer et al., Knowledge distillation: a good teacher is patient and
    consistent, CVPR 2022).

    Args:
        size: Side of a view in pixels, S.
        crop_min: Least share of the area that a crop keeps, in (0, 1].
        jitter: Strength for brightness, contrast and saturation; the hue gets a fifth of it.
        mix: Probability of being mixed with another image of the same call: blended, or with a part of it pasted in.
        kernel: Kernel of the resize; CLIP was trained with ``"bicubic"`` views.
    """

    def __init__(
        self, size: int, crop_min: float, jitter: float, *, mix: float = 0.0, kernel: Kernel = "bilinear"
    ) -> None:
        self.size, self.mix, self.kernel = size, mix, kernel
        self._colours: list[torch.nn.Module] = []
        if jitter > 0:
            self._colours.append(augmentation.ColorJitter(jitter, jitter, jitter, jitter / 5))
        self._crop = augmentation.RandomResizedCrop((size, size), scale=(crop_min, 1.0))
        self._flip = augmentation.RandomHorizontalFlip(p=0.5)
        self._blend = augmentation.RandomMixUpV2(p=1.0, data_keys=["input"])
        self._paste = augmentation.RandomCutMixV2(p=1.0, data_keys=["input"], use_correct_lambda=True)

    def __call__(self, x_N3HW: Tensor, *seed_parts: int | str) -> Drawn:
        """Draw one view of each picture.

        Args:
            x_N3HW: Images in [0, 1].
            seed_parts: Seed of the draw; equal parts give equal views, whatever was drawn before.
        """
        with torch.no_grad(), borrowed_generator("views", *seed_parts):
            for change in self._colours:
                x_N3HW = change(x_N3HW)
            corners_N42 = self._crop.forward_parameters(x_N3HW.shape)["src"].long()
            view_N3SS = crops(x_N3HW, corners_N42[:, 0], corners_N42[:, 2] + 1, self.size, kernel=self.kernel)
            return self._mixed(self._flip(view_N3SS).clamp(0.0, 1.0))

    def _mixed(self, x_N3SS: Tensor) -> Drawn:
        if self.mix == 0 or len(x_N3SS) < 2:
            return Drawn(x_N3SS, torch.zeros(len(x_N3SS), dtype=torch.bool, device=x_N3SS.device))
        draw_N = torch.rand(len(x_N3SS)).to(x_N3SS.device)
        blended, pasted = (draw_N < self.mix / 2)[:, None, None, None], (draw_N < self.mix)[:, None, None, None]
        mixed_N3SS = torch.where(blended, self._blend(x_N3SS), torch.where(pasted, self._paste(x_N3SS), x_N3SS))
        return Drawn(mixed_N3SS, draw_N < self.mix)


def views_of(settings: DistilSettings, size: int) -> Views:
    """The views that settings ask for, for a student that sees ``size`` pixels a side."""
    return Views(size, settings.crop_min, settings.jitter, mix=settings.mix, kernel=settings.kernel)


def plain_view(x_N3HW: Tensor, size: int) -> Tensor:
    """The whole picture at ``size`` x ``size``, bilinear with antialias."""
    if x_N3HW.shape[-2:] == (size, size):
        return x_N3HW
    return functional.interpolate(x_N3HW, (size, size), mode="bilinear", antialias=True, align_corners=False)


def crops(x_N3HW: Tensor, first_N2: Tensor, end_N2: Tensor, size: int, kernel: Kernel = "bilinear") -> Tensor:
    """Another part of each picture at ``size`` x ``size``, as torch's own resize with antialias makes of each.

    All in two products of matrices: a loop over pictures is what a GPU would wait for. Kornia's own resize has no
    antialias, which shifts features where a crop is larger than the view.

    Args:
        x_N3HW: Images.
        first_N2: Column and row of each part's first pixel.
        end_N2: Column and row after each part's last pixel.
        size: Side of a view in pixels, S.
        kernel: Kernel of the resize.
    """
    first_N2, end_N2 = first_N2.to(x_N3HW.device), end_N2.to(x_N3HW.device)
    across_NSW = _resampling(first_N2[:, 0], end_N2[:, 0], x_N3HW.shape[3], size, kernel=kernel)
    down_NSH = _resampling(first_N2[:, 1], end_N2[:, 1], x_N3HW.shape[2], size, kernel=kernel)
    return down_NSH[:, None] @ x_N3HW @ across_NSW[:, None].mT


def _resampling(first_N: Tensor, end_N: Tensor, pixels: int, size: int, kernel: Kernel) -> Tensor:
    """What each of P pixels gives to each of S, (N, S, P): a kernel as wide as a new pixel asks, or an old one."""
    first_N11, end_N11 = first_N[:, None, None].float(), end_N[:, None, None].float()
    scale_N11 = (end_N11 - first_N11) / size
    new_S1 = torch.arange(size, device=first_N.device)[:, None] + 0.5
    old_P = torch.arange(pixels, device=first_N.device) + 0.5
    distance_NSP = (old_P - (first_N11 + scale_N11 * new_S1)).abs() / scale_N11.clamp(min=1)
    weight_NSP = _cubic(distance_NSP) if kernel == "bicubic" else (1 - distance_NSP).clamp(min=0)
    weight_NSP = weight_NSP * ((old_P > first_N11) & (old_P < end_N11))
    return weight_NSP / weight_NSP.sum(2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5, as Pillow has it and torch where it is asked for antialias."""
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def to_unit(images_N3HW: Tensor, device: torch.device) -> Tensor:
    """uint8 pictures -> float32 in [0, 1] on the device."""
    return images_N3HW.to(device).float() / 255
