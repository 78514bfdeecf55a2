"""Import of published VQGAN checkpoints into the weights store.

A checkpoint carries no licence. The user states it, or states that the file is its publisher's; then the licence of the
publisher's repository counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from clipstill.core.checkpoints import read_state
from clipstill.core.errors import DataError
from clipstill.core.files import sha256_file
from clipstill.core.weights_store import UNKNOWN, StoredWeights, WeightsFacts, store_weights
from clipstill.generators.vqgan_network import select_tensors, shape_of

KIND = "vqgan"
# Checkpoints of whole text-to-image systems keep their VQGAN under this name.
_FIRST_STAGE = "first_stage_model."


@dataclass(frozen=True)
class Published:
    """Where weights of one architecture are published.

    Attributes:
        repository: Repository that publishes the weights.
        licence: Licence of the repository, which states no other one for the weights.
        trained_on: Training pictures, as the repository says.
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
    """Publisher of weights of this architecture, where the user did not say whose these are."""
    return PUBLISHED.get(stored.facts.architecture["label"]) if stored.facts.licence == UNKNOWN else None


def import_vqgan(
    path: Path, name: str | None = None, licence: str | None = None, source: str | None = None
) -> StoredWeights:
    """Copy the decoder and the codebook of a checkpoint into the weights store.

    Args:
        path: Lightning checkpoint or safetensors file, with the names of taming-transformers.
        name: Name of the entry; by default ``vqgan-`` and the architecture, such as ``vqgan-f16-16384``.
        licence: Licence of the weights; by default the publisher's if ``source`` names it, otherwise ``"unknown"``.
        source: Where the file came from; by default the file's name.

    Raises:
        DataError: The file is missing, unreadable, damaged or no VQGAN.
        ConfigError: The name is not allowed, or other weights have it.
        ResourceError: The disk is full or not writable, or diffusers is not installed.
    """
    if not path.is_file():
        raise DataError(f"there is no file {path}. Check the path.")
    tensors = read_vqgan_tensors(path)
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


def read_vqgan_tensors(path: Path) -> dict[str, Tensor]:
    """Tensors of a checkpoint under the names of a VQGAN's own state dict.

    Raises:
        DataError: The file cannot be read as tensors alone.
    """
    state = {name: value for name, value in read_state(path, skip_trainer=True).items() if isinstance(value, Tensor)}
    if f"{_FIRST_STAGE}decoder.conv_in.weight" not in state:
        return state
    return {name.removeprefix(_FIRST_STAGE): value for name, value in state.items() if name.startswith(_FIRST_STAGE)}
