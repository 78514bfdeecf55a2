"""Random views of training images: what teacher and student both see.

Shapes: N images, H x W pixels, S x S pixels of a view. Everything stays in [0, 1]; models normalise by themselves.
"""

from __future__ import annotations

import torch
from kornia import augmentation
from torch import Tensor
from torch.nn import functional

from clipstill.distillation.randomness import borrowed_generator
from clipstill.distillation.settings import DistilSettings, Kernel


class Views:
    """Random colour change, crop with resize, and mirror image, drawn for each image by itself.

    Colours change before the crop: at the size of the synthetic images, which is the smaller one.

    Args:
        size: Side of a view in pixels, S.
        crop_min: Least share of the area that a crop keeps, in (0, 1].
        jitter: Strength of the changes of brightness, contrast and saturation; the hue gets a fifth of it.
        kernel: Kernel of the resize; CLIP was trained with ``"bicubic"`` views.
    """

    def __init__(self, size: int, crop_min: float, jitter: float, kernel: Kernel = "bilinear") -> None:
        self.size, self.crop_min, self.kernel = size, crop_min, kernel
        self._colour = augmentation.ColorJitter(jitter, jitter, jitter, jitter / 5) if jitter > 0 else None
        self._crop = augmentation.RandomResizedCrop((size, size), scale=(crop_min, 1.0))
        self._flip = augmentation.RandomHorizontalFlip(p=0.5)

    def __call__(self, x_N3HW: Tensor, *seed_parts: int | str) -> Tensor:
        """Draw one view (3, S, S) of each image, without gradient.

        Args:
            x_N3HW: Images in [0, 1].
            seed_parts: Seed of the draw; equal parts give equal views, whatever was drawn before.
        """
        with torch.no_grad(), borrowed_generator("views", *seed_parts):
            if self._colour is not None:
                x_N3HW = self._colour(x_N3HW)
            corners_N42 = self._crop.forward_parameters(x_N3HW.shape)["src"].long()
            view_N3SS = crops(x_N3HW, corners_N42[:, 0], corners_N42[:, 2] + 1, self.size, kernel=self.kernel)
            flipped_N3SS: Tensor = self._flip(view_N3SS)
            return flipped_N3SS.clamp(0.0, 1.0)

    def recoloured(self, crop_N3SS: Tensor, *seed_parts: int | str) -> Tensor:
        """Change the colours of crops that were cut, resized and mirrored before."""
        if self._colour is None:
            return crop_N3SS
        with torch.no_grad(), borrowed_generator("views of crops", *seed_parts):
            changed_N3SS: Tensor = self._colour(crop_N3SS)
            return changed_N3SS.clamp(0.0, 1.0)


def views_of(settings: DistilSettings, size: int) -> Views:
    """The views that settings ask for, for a student that sees ``size`` pixels a side."""
    return Views(size, settings.crop_min, settings.jitter, settings.kernel)


def plain_view(x_N3HW: Tensor, size: int) -> Tensor:
    """The whole image at ``size`` x ``size``, bilinear with antialias."""
    if x_N3HW.shape[-2:] == (size, size):
        return x_N3HW
    return functional.interpolate(x_N3HW, (size, size), mode="bilinear", antialias=True, align_corners=False)


def crops(x_N3HW: Tensor, first_N2: Tensor, end_N2: Tensor, size: int, kernel: Kernel = "bilinear") -> Tensor:
    """Crop a different part of each image and resize it to ``size`` x ``size`` with antialias, as torch does.

    Two products of matrices do it for all images: a loop over images would keep a GPU waiting. Kornia's resize has no
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
    """Weight (N, S, P) of each old pixel P in each new pixel S; the kernel is as wide as the larger of the two."""
    first_N11, end_N11 = first_N[:, None, None].float(), end_N[:, None, None].float()
    scale_N11 = (end_N11 - first_N11) / size
    new_S1 = torch.arange(size, device=first_N.device)[:, None] + 0.5
    old_P = torch.arange(pixels, device=first_N.device) + 0.5
    distance_NSP = (old_P - (first_N11 + scale_N11 * new_S1)).abs() / scale_N11.clamp(min=1)
    weight_NSP = _cubic(distance_NSP) if kernel == "bicubic" else (1 - distance_NSP).clamp(min=0)
    weight_NSP = weight_NSP * ((old_P > first_N11) & (old_P < end_N11))
    return weight_NSP / weight_NSP.sum(2, keepdim=True)


def _cubic(x: Tensor) -> Tensor:
    """Keys' cubic convolution with a = -0.5, which Pillow uses, and torch with antialias."""
    near = 1.5 * x**3 - 2.5 * x**2 + 1
    far = -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return torch.where(x < 1, near, torch.where(x < 2, far, torch.zeros_like(x)))


def to_unit(pixels_N3HW: Tensor, device: torch.device) -> Tensor:
    """uint8 pixels -> float32 in [0, 1] on the device."""
    return pixels_N3HW.to(device).float() / 255
