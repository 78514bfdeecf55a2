"""The state of a training run in one file: tensors as safetensors, facts as JSON in its header.

The file is replaced in one rename, so a kill at any moment leaves a complete state.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from clipstill.core.checkpoints import read_own_tensors
from clipstill.core.tensors import write_tensors


@dataclass(frozen=True)
class Saved:
    """A state that was read."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def group(self, prefix: str) -> dict[str, Tensor]:
        """The tensors that ``with_prefix`` named."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def save_state(path: Path, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Write a state atomically. ``facts["key"]`` is the hash of everything that it depends on.

    Raises:
        ResourceError: The disk is full or not writable; the earlier state stays.
    """
    write_tensors(path, tensors, {"facts": json.dumps(dict(facts), sort_keys=True)})


def load_state(path: Path, key: str) -> Saved | None:
    """Read a state; None if there is none, or if it was written with another key.

    Raises:
        ArtifactError: The file is damaged.
    """
    if not path.exists():
        return None
    tensors, metadata = read_own_tensors(path, "Delete it and run the command again.")
    facts = json.loads(metadata["facts"])
    return Saved(tensors, facts) if facts.get("key") == key else None


def with_prefix(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``{"a": x}`` -> ``{"prefix.a": x}``."""
    return {f"{prefix}.{name}": tensor for name, tensor in tensors.items()}
