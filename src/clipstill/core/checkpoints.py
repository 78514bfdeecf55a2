"""The one place where weights from elsewhere enter. Tensors are read; code in a file is never run.

Checkpoints of trainers hold more than tensors: callbacks, settings, scores. Where it is asked for, objects of a few
known packages are skipped: the file's name of a class is bound to a class of this module that keeps nothing, so that
neither those packages nor anything of theirs is needed or run. Every other name is refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.errors import ArtifactError, DataError

if TYPE_CHECKING:
    from torch import Tensor

# What Lightning writes beside the weights: its callbacks, and settings as OmegaConf or numpy objects.
_TRAINER_PACKAGES = frozenset({"pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "numpy"})
# Names that such objects refer to in their turn.
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
    """Stands for an object of a trainer: takes whatever the file says of it and keeps nothing."""

    def __new__(cls, *_: Any) -> Any:
        return super().__new__(cls)

    def __init__(self, *_: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        pass


class _SkippedMapping(_Skipped):
    """The same for subclasses of dict: torch's reader fills plain dicts only."""

    def __new__(cls, *_: Any) -> Any:
        return {}


def read_state(path: Path, *, skip_trainer: bool = False) -> dict[str, Tensor]:
    """The state dict of a checkpoint: safetensors, or what ``torch.save`` wrote.

    Args:
        path: an existing file.
        skip_trainer: pass over the objects that Lightning leaves beside the weights; otherwise they are refused.

    Returns:
        Name -> tensor on the CPU, in the file's order; what lies under ``"state_dict"`` where there is such a key, and
        without the prefix of data-parallel training. Old archives may hold a few plain values among the tensors.

    Raises:
        DataError: damaged, a TorchScript archive, a pickle that wants to run code, or no state dict.
    """
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix == ".safetensors":
            raw: Any = load_file(path)
        else:
            with torch.serialization.safe_globals(_stand_ins(path) if skip_trainer else []):
                raw = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the readers raise many kinds
        raise DataError(
            f"{path} is not a plain file of tensors ({type(error).__name__}), and code in weight files is never run. "
            "Save the model's state dict as .safetensors and name that file."
        ) from None
    state = raw.get("state_dict", raw) if isinstance(raw, dict) else None
    if not isinstance(state, dict) or not state:
        raise DataError(f"{path} holds no state dict. Save the model's state dict as .safetensors and name that file.")
    # Data-parallel training leaves a prefix.
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def read_own_tensors(path: Path, remedy: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of a safetensors file that clipstill wrote.

    Args:
        path: The file.
        remedy: Sentence that ends the error message and says what to do.

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
    """Harmless classes under the names of trainers' classes that the file refers to."""
    import torch

    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except ValueError:  # torch's format before 1.6, or no checkpoint at all: the reader will tell
        return []
    return [
        (_SkippedMapping if name.endswith(_MAPPINGS) else _Skipped, name)
        for name in names
        if name.partition(".")[0] in _TRAINER_PACKAGES or name in _TRAINER_NAMES
    ]
