"""Reads weights without running code that a file may hold.

Trainers store callbacks, settings and scores beside the weights. On request, such objects of a few known packages are
replaced by empty stand-ins, so that those packages are not needed; every other class name is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from clipstill.core.errors import ArtifactError, DataError
from clipstill.core.torchscript import is_torchscript, tensors_of, without_program

if TYPE_CHECKING:
    from torch import Tensor

# What Lightning writes beside the weights: objects of these packages, and the names that they refer to.
_TRAINER_PACKAGES = frozenset({"pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "numpy"})
_TRAINER_NAMES = frozenset(
    {
        "argparse.Namespace",
        "collections.defaultdict",
        "pathlib.PosixPath",
        "pathlib.WindowsPath",
        "typing.Any",
        *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "int", "list", "object", "str", "tuple")),
    }
)
_MAPPINGS = ("collections.defaultdict", "AttributeDict")


class _Skipped:
    """Replaces an object of a trainer and keeps nothing of it."""

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _SkippedMapping(_Skipped):
    """The same for subclasses of dict, since torch's reader fills plain dicts only."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def read_state(path: Path, *, skip_trainer: bool = False) -> dict[str, Tensor]:
    """The state dict of a checkpoint in safetensors, written by ``torch.save``, or of a TorchScript archive.

    Args:
        path: An existing file.
        skip_trainer: Skip objects that Lightning leaves beside the weights, instead of refusing the file.

    Returns:
        Name -> tensor on the CPU, in the file's order; the content of ``"state_dict"`` if there is such a key, without
        the prefix of data-parallel training. Old archives may hold a few plain values among the tensors.

    Raises:
        DataError: The file is damaged, a pickle that wants to run code, or has no state dict.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            raw: Any = load_file(path)
        else:
            source: Path | BinaryIO = path
            is_archive = is_torchscript(path)
            stand_ins = _stand_ins(path) if skip_trainer and not is_archive else []
            if is_archive:
                source, stand_ins = without_program(path)
            with torch.serialization.safe_globals(stand_ins):
                raw = torch.load(source, map_location="cpu", weights_only=True)
            raw = dict(tensors_of(raw)) if is_archive else raw
    except Exception as error:  # the readers raise many kinds
        raise DataError(
            f"{path} is not a plain file of tensors ({type(error).__name__}), and code in weight files is never run. "
            "Save the model's state dict as .safetensors and name that file."
        ) from None
    state = raw.get("state_dict", raw) if isinstance(raw, dict) else None
    if not isinstance(state, dict) or not state:
        raise DataError(f"{path} holds no state dict. Save the model's state dict as .safetensors and name that file.")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def read_own_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that clipstill wrote; ``remedy`` ends the error message.

    Raises:
        ArtifactError: The file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as stored:
            return {name: stored.get_tensor(name) for name in stored.keys()}, dict(stored.metadata() or {})  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read ({error}). {remedy}") from None


def _stand_ins(path: Path) -> list[Any]:
    """Pairs of a stand-in class and the name of the trainer's class that it replaces in the file."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # torch's format before 1.6, or no checkpoint, which the reader will refuse
        return []
    return [
        (_SkippedMapping if name.endswith(_MAPPINGS) else _Skipped, name)
        for name in names
        if name.partition(".")[0] in _TRAINER_PACKAGES or name in _TRAINER_NAMES
    ]
