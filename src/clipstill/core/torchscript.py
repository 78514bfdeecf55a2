"""Reads the tensors of a TorchScript archive, such as OpenAI's CLIP files, without loading its program.

The archive is a zip with pickled objects, whose tensors lie beside them, and with source code. The code is left out,
and the objects are read by torch's reader for weights, which knows no class but tensors and plain containers; classes
of the archive become empty ones that hold attributes.
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

# Namespaces of classes that TorchScript generates.
_GENERATED = "__torch__"


class _Module:
    """Stands for a module of the archive."""


def is_torchscript(path: Path) -> bool:
    """Whether a file is such an archive."""
    if not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith("/constants.pkl") for name in archive.namelist())


def read_torchscript(path: Path) -> dict[str, Tensor]:
    """Parameters, buffers and other tensors of the archive's modules, by the names of a state dict, on the CPU.

    Raises:
        Exception: Any kind, where the archive is damaged or refers to other classes.
    """
    import torch

    without_code = io.BytesIO()
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(without_code, "w") as copy:
        for name in archive.namelist():
            inside = name.partition("/")[2]
            if inside == "data.pkl":
                pickled = archive.read(name)
            if inside in ("data.pkl", "version", "byteorder") or inside.startswith("data/"):
                copy.writestr(name, archive.read(name))
    without_code.seek(0)
    # One class for each name: torch's reader tells classes by their names.
    stand_ins: list[Any] = [(type("Module", (_Module,), {}), name) for name in _generated_classes(pickled)]
    with torch.serialization.safe_globals(stand_ins):
        module = torch.load(without_code, map_location="cpu", weights_only=True)
    return dict(_tensors(module, ""))


def _generated_classes(pickled: bytes) -> set[str]:
    """Names of the archive's own classes, found without running the pickle."""
    named = (str(argument) for code, argument, _ in pickletools.genops(pickled) if code.name == "GLOBAL")
    return {name.replace(" ", ".") for name in named if name.partition(".")[0] == _GENERATED}


def _tensors(module: object, prefix: str) -> Iterator[tuple[str, Tensor]]:
    import torch

    values: dict[str, Any] = vars(module)
    for name, value in values.items():
        if isinstance(value, torch.Tensor):
            yield f"{prefix}{name}", value
        elif isinstance(value, _Module):
            yield from _tensors(value, f"{prefix}{name}.")
