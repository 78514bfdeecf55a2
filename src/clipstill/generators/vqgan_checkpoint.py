"""Published VQGAN checkpoints -> the weights store.

What a checkpoint says of itself is its tensors' shapes. It carries no licence: that is what the user says, or, where
the user says that the file is its publisher's, what the publisher's repository says.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clipstill.core.checkpoints import read_state
from clipstill.core.errors import DataError
from clipstill.core.files import sha256_file
from clipstill.core.weights_store import UNKNOWN, StoredWeights, WeightsFacts, store_weights
from clipstill.generators.vqgan_network import VqganShape, select_tensors, shape_of

KIND = "vqgan"
# Checkpoints of whole text-to-image systems keep their VQGAN under this name.
_FIRST_STAGE = "first_stage_model."


@dataclass(frozen=True)
class Published:
    """Where weights of one architecture are published.

    Attributes:
        repository: that publishes them.
        licence: of the repository; it states no other one for the weights.
        trained_on: as the repository says.
    """

    repository: str
    licence: str
    trained_on: str


_TAMING = Published("CompVis/taming-transformers", "MIT", "ImageNet")
_LATENT_DIFFUSION = Published("CompVis/latent-diffusion", "MIT", "OpenImages")
# By label of the architecture. Others of the same architecture exist: which one a file is, its user must say.
PUBLISHED = {
    "f16-1024": _TAMING,
    "f16-16384": _TAMING,
    "f8-16384-d4": _LATENT_DIFFUSION,
    "f16-16384-d8": _LATENT_DIFFUSION,
}


def possible_publisher(stored: StoredWeights) -> Published | None:
    """Who publishes weights of this architecture, where the user did not say whose these are; None otherwise."""
    return (
        PUBLISHED.get(VqganShape.from_json(stored.facts.architecture).label)
        if stored.facts.licence == UNKNOWN
        else None
    )


def import_vqgan(
    path: Path, name: str | None = None, licence: str | None = None, source: str | None = None
) -> StoredWeights:
    """Take the decoder and the codebook of a checkpoint into the weights store.

    Args:
        path: a Lightning checkpoint or safetensors, named as by taming-transformers.
        name: of the entry; ``vqgan-`` and the architecture, such as ``vqgan-f16-16384``, where None.
        licence: of the weights. Where None: the publisher's, if ``source`` names it, otherwise ``"unknown"``.
        source: where the file came from; the file's name where None.

    Raises:
        DataError: the file is missing, unreadable, damaged or no VQGAN.
        ConfigError: the name cannot be one, or is taken by other weights.
        ResourceError: the disk is full or not writable.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}. Check the path.")
    tensors = vqgan_tensors(path)
    shape = shape_of(tensors, path)
    published = PUBLISHED.get(shape.label)
    if published is not None and published.repository.lower() not in (source or "").lower():
        published = None
    facts = WeightsFacts(
        kind=KIND,
        architecture=shape.to_json(),
        licence=licence or (published.licence if published else UNKNOWN),
        source=source or f"{path.name}, as given by the user",
        trained_on=published.trained_on if published else UNKNOWN,
        foreign_sha256=sha256_file(path),
    )
    return store_weights(name or f"{KIND}-{shape.label}", select_tensors(tensors, shape, path), facts)


def vqgan_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint under the names of a VQGAN's own state dict.

    Raises:
        DataError: the file cannot be read as tensors alone.
    """
    state = {name: value for name, value in read_state(path, skip_trainer=True).items() if isinstance(value, Tensor)}
    if f"{_FIRST_STAGE}decoder.conv_in.weight" in state:
        state = {
            name.removeprefix(_FIRST_STAGE): value for name, value in state.items() if name.startswith(_FIRST_STAGE)
        }
    return state
