"""Features of the drawings in the frozen image towers, kept in the cache: the one long step of the recipe.

Shapes: N pictures, M shown images, F = 1280 features, K = 1000 ImageNet classes.
"""

from __future__ import annotations

import math
from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.files import atomic_path, read_json, sha256_json, write_json
from clipstill.core.packaged_weights import LITE_MEAN, LITE_STD, lite_backbone, lite_state_dict
from clipstill.core.progress import Progress
from tools.weights.drawings import Drawings, load_backgrounds
from tools.weights.pictures import Picture

# Below the towers' own size: twice as fast, and drawings have few small parts.
SIZE = 144
# Passes over the pictures: share of line drawings, and the sources that are shown. Drawn as lines, an emoji of many
# colours looks like a sketch.
_EMOJI = ("google", "twitter", "outlines", "fluent-flat", "emojione", "streamline-emojis")
PASSES: tuple[tuple[float, Container[str] | None], ...] = ((0.17, None), (0.5, _EMOJI))
FEATURES = 1280
# Beyond this many standard deviations the float32 normal density and distribution are 0 and 1 exactly.
_FAR = 40.0
# Part of the cache's key; raise it when the drawings are shown in another way.
_VERSION = 2


@dataclass(frozen=True)
class Classifier:
    """A tower's ImageNet classifier."""

    weight_KF: Tensor
    bias_K: Tensor

    def __call__(self, feat_NF: Tensor) -> Tensor:
        """ImageNet logits (N, K)."""
        return F.linear(feat_NF, self.weight_KF, self.bias_K)

    @classmethod
    def of(cls, size: str) -> Classifier:
        """The classifier of ``"lite0"`` or ``"lite2"``."""
        weights = lite_state_dict(size)
        return cls(weights["classifier.weight"].float(), weights["classifier.bias"].float())


class _Tower(nn.Module):
    """A packaged network up to its pooled features; normalises by itself."""

    def __init__(self, size: str) -> None:
        super().__init__()
        self.network = lite_backbone(size)
        self.eval().requires_grad_(False).to(memory_format=torch.channels_last)
        self._mean = torch.tensor(LITE_MEAN).view(1, 3, 1, 1)
        self._std = torch.tensor(LITE_STD).view(1, 3, 1, 1)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> feat_NF."""
        x_N3HW = ((x_N3HW - self._mean) / self._std).contiguous(memory_format=torch.channels_last)
        feat_NF: Tensor = self.network(x_N3HW)
        return feat_NF


def natural_mean(size: str) -> Tensor:
    """Mean features (F,) of a tower's training photos, as its last BatchNorm and ReLU6 predict them.

    BatchNorm turns each channel into mean ``beta`` and standard deviation ``|gamma|`` over the training photos. Near a
    normal distribution, the clipped activation behind it, and so the pooled feature, has a mean in closed form.
    """
    weights = lite_state_dict(size)
    return clipped_normal_mean(weights["bn2.bias"].float(), weights["bn2.weight"].float().abs(), 6.0)


def clipped_normal_mean(mean_F: Tensor, std_F: Tensor, high: float) -> Tensor:
    """Mean of ``clip(X, 0, high)`` for X normal.

    With ``a = (0 - mean) / std`` and ``b = (high - mean) / std``, phi and Phi the standard normal density and
    distribution: ``mean (Phi(b) - Phi(a)) + std (phi(a) - phi(b)) + high (1 - Phi(b))``.

    Args:
        mean_F: Mean of X.
        std_F: Standard deviation of X, not negative; 0 stands for a constant.
        high: Upper limit, above 0 and finite.
    """
    mean, std = mean_F.double(), std_F.double().clamp_min(1e-12)
    low_z = (-mean / std).clamp(-_FAR, _FAR)
    high_z = ((high - mean) / std).clamp(-_FAR, _FAR)
    low_share, high_share = (0.5 * (1 + torch.erf(z / math.sqrt(2))) for z in (low_z, high_z))
    low_density, high_density = (torch.exp(-0.5 * z**2) / math.sqrt(2 * math.pi) for z in (low_z, high_z))
    clipped = mean * (high_share - low_share) + std * (low_density - high_density) + high * (1 - high_share)
    return clipped.to(mean_F.dtype)


@torch.no_grad()
def drawing_features(
    pictures: Sequence[Picture], rgba: NDArray[np.uint8], sizes: Sequence[str], cache: Path
) -> tuple[list[Picture], dict[str, NDArray[np.float16]]]:
    """Features of all towers for the same shown images, kept for each pass over each source of pictures.

    Args:
        pictures: Content of ``rgba``, in its order.
        rgba: Pictures, uint8 (N, H, W, 4).
        sizes: Towers, such as ``("lite0", "lite2")``.
        cache: Folder of ``features-*.npy`` and their ``.json``.

    Returns:
        The picture of each row, and tower -> float16 (M, F).
    """
    towers = {size: _Tower(size) for size in sizes}
    shown: list[Picture] = []
    found: dict[str, list[NDArray[np.float16]]] = {size: [] for size in sizes}
    for number, (lines, chosen) in enumerate(PASSES):
        for source in dict.fromkeys(picture.source for picture in pictures):
            if chosen is not None and source not in chosen:
                continue
            rows = np.array([row for row, picture in enumerate(pictures) if picture.source == source])
            shown += [pictures[row] for row in rows]
            stamp = cache / f"features-{source}-{number}.json"
            paths = {size: cache / f"features-{source}-{number}-{size}.npy" for size in sizes}
            key = {"key": sha256_json([_VERSION, SIZE, lines, [pictures[row].name for row in rows]])}
            if not (stamp.exists() and read_json(stamp) == key and all(path.exists() for path in paths.values())):
                stamp.unlink(missing_ok=True)
                drawings = Drawings(rgba[rows], load_backgrounds(cache), SIZE, lines, seed=number)
                for size, feat_NF in _shown_features(drawings, towers, f"features of {source}").items():
                    with atomic_path(paths[size]) as temporary:
                        np.save(temporary, feat_NF)
                write_json(stamp, key)
            for size, path in paths.items():
                found[size].append(np.load(path))
    return shown, {size: np.concatenate(parts) for size, parts in found.items()}


def _shown_features(drawings: Drawings, towers: Mapping[str, Any], title: str) -> dict[str, NDArray[np.float16]]:
    """Features (N, F) of all towers for the pictures of one source."""
    found = {size: np.zeros((len(drawings.rgba), FEATURES), np.float16) for size in towers}
    with Progress(title, total=len(drawings.rgba), unit="img") as bar:
        for indices, x_N3HW in drawings.batches():
            for size, tower in towers.items():
                found[size][indices] = tower(x_N3HW).numpy()
            bar.advance(len(indices))
    return found
