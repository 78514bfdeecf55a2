"""Takes the tensors out of a TorchScript archive, such as OpenAI's CLIP files, without loading its program.

The archive is a zip with pickled objects, whose tensors lie beside them, and with source code. The code is left out,
and ``checkpoints`` reads the objects by torch's reader for weights, which knows no class but tensors and plain
containers; classes of the archive become empty ones that hold attributes.
"""

from __future__ import annotations

import io
import pickletools
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

# Namespace of the classes that TorchScript generates.
_GENERATED = "__torch__"
_OBJECTS = "data.pkl"


class _Module:
    """Stands for a module of the archive."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is such an archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def without_program(path: Path) -> tuple[io.BytesIO, list[Any]]:
    """The archive's objects and tensors as a checkpoint; pairs of a stand-in class and the name that it replaces."""
    copied, pickled = io.BytesIO(), b""
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(copied, "w") as copy:
        for name in archive.namelist():
            inside = name.partition("/")[2]
            if inside in (_OBJECTS, "version", "byteorder") or inside.startswith("data/"):
                content = archive.read(name)
                copy.writestr(name, content)
                if inside == _OBJECTS:
                    pickled = content
    copied.seek(0)
    # The names are found without running the pickle. One class for each: torch's reader tells classes by their names.
    named = {str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL"}
    own = sorted(name.replace(" ", ".") for name in named if name.partition(".")[0] == _GENERATED)
    return copied, [(type("Module", (_Module,), {}), name) for name in own]


def tensors_of(module: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Parameters, buffers and other tensors of a module that stands for one of the archive, by their full names."""
    import torch

    for name, value in vars(module).items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from tensors_of(value, f"{prefix}{name}.")
