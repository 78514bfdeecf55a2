"""Weights that the user imported.

Each name has a folder below ``~/.cache/clipstill/weights`` or the folder in ``CLIPSTILL_WEIGHTS``, with
``model.safetensors`` and a ``config.json`` of facts about them, which is written last.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.core.files import atomic_path, sha256_file, sweep, write_json
from clipstill.core.names import plain
from clipstill.core.paths import cache_folder, user_path
from clipstill.core.records import read_record

if TYPE_CHECKING:
    from torch import Tensor

ENVIRONMENT = "CLIPSTILL_WEIGHTS"
WEIGHTS_FILE = "model.safetensors"
CONFIG_FILE = "config.json"
UNKNOWN = "unknown"
# No slash, since a name is a folder's; no plus, which joins the names of generators.
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True)
class WeightsFacts:
    """The content of ``config.json``."""

    kind: str  # Part that reads the weights, such as ``"vqgan"``.
    architecture: dict[str, Any] = field(hash=False)  # Sizes as JSON values, read by that part.
    licence: str = UNKNOWN  # SPDX identifier, a plain name, or ``"unknown"``.
    source: str = UNKNOWN  # Where the user got the file.
    trained_on: str = UNKNOWN  # Training images according to the publisher, or ``"unknown"``.
    foreign_sha256: str = ""  # Hash of the file that was imported.
    sha256: str = ""  # Hash of ``model.safetensors``.


@dataclass(frozen=True)
class StoredWeights:
    """Imported weights; the name is that of their folder."""

    name: str
    folder: Path
    facts: WeightsFacts

    def tensors(self) -> dict[str, Tensor]:
        """The weights on the CPU; a file that is missing or altered raises an ``ArtifactError``."""
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS_FILE
        if not path.is_file() or sha256_file(path) != self.facts.sha256:
            raise ArtifactError(
                f"{path} is missing or was altered (its sha256 differs from {CONFIG_FILE}). Delete {self.folder} and "
                f"import the weights again: clipstill weights import FILE --name {self.name}"
            )
        return load_file(path)

    def to_json(self) -> dict[str, Any]:
        """Name, folder and facts as plain values."""
        return {"name": self.name, "folder": plain(self.folder), **dataclasses.asdict(self.facts)}


def weights_folder() -> Path:
    """The folder of all imported weights: ``CLIPSTILL_WEIGHTS``, or one in the user's cache."""
    named = os.environ.get(ENVIRONMENT)
    return user_path(named) if named else cache_folder() / "weights"


def stored_weights(kind: str | None = None) -> list[StoredWeights]:
    """All imported weights, or those of one kind, sorted by name; ``ArtifactError`` if a ``config.json`` is damaged."""
    entries = [open_weights(each.parent) for each in sorted(weights_folder().glob(f"*/{CONFIG_FILE}"))]
    return [entry for entry in entries if kind is None or entry.facts.kind == kind]


def open_weights(folder: Path) -> StoredWeights:
    """Imported weights by their folder, inside the store or elsewhere.

    Raises:
        ArtifactError: ``config.json`` is missing, or does not describe weights.
    """
    facts = read_record(folder / CONFIG_FILE, WeightsFacts)
    return StoredWeights(folder.resolve().name, folder, facts)


def store_weights(name: str, tensors: Mapping[str, Tensor], facts: WeightsFacts) -> StoredWeights:
    """Store weights under a name; importing the same file again changes the facts only. Computes ``facts.sha256``.

    Raises:
        ConfigError: The name is malformed, or other weights have it.
        ArtifactError: The ``config.json`` of that name is damaged.
    """
    from safetensors.torch import save_file

    if not _NAME.fullmatch(name):
        raise ConfigError(
            f"weights cannot be named '{name}'. Use letters, digits, '.', '_' and '-', a letter or digit first."
        )
    folder = weights_folder() / name
    path = folder / WEIGHTS_FILE
    sweep(folder)
    old = open_weights(folder).facts if (folder / CONFIG_FILE).is_file() else None
    if old is not None and old.foreign_sha256 != facts.foreign_sha256:
        raise ConfigError(
            f"other weights are named '{name}' already (from {old.source}). Choose another name with --name, or delete "
            f"{folder}."
        )
    if old is None or not path.is_file() or sha256_file(path) != old.sha256:
        with atomic_path(path) as temporary:
            save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, temporary)
    facts = dataclasses.replace(facts, sha256=sha256_file(path))
    if facts != old:
        write_json(folder / CONFIG_FILE, dataclasses.asdict(facts))
    return StoredWeights(name, folder, facts)
