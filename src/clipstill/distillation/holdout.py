"""Which pictures are kept from training to choose the best checkpoint, without any label of a real image."""

from __future__ import annotations

import torch
from torch import Tensor

from clipstill.core.seeds import generator_for

# Where the pictures do not have enough styles: one in this many of each class.
_EVERY = 10


def held_out_mask(class_id_N: Tensor, style_id_N: Tensor, styles: int, seed: int) -> Tensor:
    """Choose the pictures to hold out.

    Whole styles are held out, so that agreement on them tells of unseen looks. Pictures without a class are held out
    only where no picture has one, every tenth. Styles are not held out if none would be left; then every tenth picture
    of a class is.

    Args:
        class_id_N: class of each picture, -1 where it has none.
        style_id_N: style of each picture.
        styles: number of styles to hold out; 0 holds out nothing.
        seed: of the choice of styles.

    Returns:
        bool mask (N,), True for pictures that are held out.
    """
    mask_N = torch.zeros(len(class_id_N), dtype=torch.bool)
    if styles == 0:
        return mask_N
    has_class_N = class_id_N >= 0
    if not bool(has_class_N.any()):
        mask_N[_EVERY - 1 :: _EVERY] = True
        return mask_N
    present = torch.unique(style_id_N[has_class_N])
    if len(present) > styles:
        order = torch.randperm(len(present), generator=generator_for(seed, "held-out styles"))
        return has_class_N & torch.isin(style_id_N, present[order[:styles]])
    for label in torch.unique(class_id_N[has_class_N]):
        members = (class_id_N == label).nonzero().flatten()
        mask_N[members[_EVERY - 1 :: _EVERY]] = True
    return mask_N
