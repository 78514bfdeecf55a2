"""Reads weights without running code that a file may hold.

Trainers store callbacks, optimisers, settings and scores beside the weights. Such objects of a few known packages are
replaced by empty stand-ins, so that those packages are not needed; every other class name is refused.
"""

from __future__ import annotations

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.archives import opened_zip
from clipstill.core.errors import ArtifactError, DataError, reason_of
from clipstill.core.files import check_regular, sha256_file
from clipstill.core.names import plain
from clipstill.core.progress import listed
from clipstill.core.protocols import Provenance
from clipstill.core.torchscript import is_torchscript, tensors_of, without_program

if TYPE_CHECKING:
    from torch import Tensor

# What Lightning and Dassl write beside the weights: objects of these packages, and the names that they refer to.
_TRAINER_PACKAGES = tuple(
    f"{name}."
    for name in ("pytorch_lightning", "lightning", "lightning_fabric", "omegaconf", "numpy", "dassl", "torch.optim")
)
_TRAINER_NAMES = frozenset(
    {
        "argparse.Namespace",
        "collections.defaultdict",
        *(f"{module}.{kind}Path" for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
        "typing.Any",
        *(f"builtins.{kind}" for kind in ("bool", "dict", "float", "int", "list", "object", "str", "tuple")),
    }
)
_MAPPINGS = ("collections.defaultdict", "AttributeDict")
# How files of torch's format before 1.6 begin.
_OLD_START = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
# Names that Dassl gives to the checkpoint that was best in validation, and to one of an epoch.
_BEST, _OF_EPOCH = "model-best.pth.tar", re.compile(r"model\.pth\.tar-(\d+)")


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


def read_state(path: Path) -> dict[str, Tensor]:
    """The state dict of a checkpoint in safetensors, written by ``torch.save``, or of a TorchScript archive.

    Args:
        path: An existing file.

    Returns:
        Name -> tensor on the CPU, in the file's order; the content of ``"state_dict"`` if there is such a key, without
        the prefix of data-parallel training. Old archives may hold a few plain values among the tensors.

    Raises:
        DataError: The file is damaged, a pickle that wants to run code, has no state dict, or unpacks to more than it
            is.
    """
    import torch
    from safetensors.torch import load_file

    try:
        check_regular(path)
        if path.suffix == ".safetensors":
            raw: Any = load_file(path)
        else:
            _refuse_compressed(path)
            is_archive = is_torchscript(path)
            source, stand_ins = without_program(path) if is_archive else (path, _stand_ins(path))
            with torch.serialization.safe_globals(stand_ins):
                raw = torch.load(source, map_location="cpu", weights_only=True)
            raw = dict(tensors_of(raw)) if is_archive else raw
    except Exception as error:  # the readers raise many kinds
        if type(error) is not OSError and _is_cut_off(path, error):
            raise DataError(f"{path} is not complete: it ends too early. Get the file again.") from None
        reason = reason_of(error) if type(error) in (OSError, DataError) else type(error).__name__
        raise _no_tensors(path, reason) from None
    state = raw.get("state_dict", raw) if isinstance(raw, dict) else None
    if not isinstance(state, dict) or not state:
        raise DataError(f"{path} holds no state dict. Save the model's state dict as .safetensors and name that file.")
    size = path.stat().st_size
    if any(isinstance(value, torch.Tensor) and value.numel() * value.element_size() > size for value in state.values()):
        raise _no_tensors(path, "a tensor is larger than the file")
    return {str(key).removeprefix("module."): value for key, value in state.items()}


def _no_tensors(path: Path, reason: str) -> DataError:
    return DataError(
        f"{path} is not a plain file of tensors ({reason.rstrip('.')}), and code in weight files is never run. Save "
        f"the model's state dict as .safetensors and name that file."
    )


def _refuse_compressed(path: Path) -> None:
    """Refuse an archive that unpacks to more than it is; ``torch.save`` never compresses, and a bomb would fill RAM."""
    with path.open("rb") as stream:
        if stream.read(4) != b"PK\x03\x04":
            return
    with opened_zip(path) as archive:
        # The program of a TorchScript archive is compressed, and not read.
        unpacked = sum(member.file_size for member in archive.infolist() if "/code/" not in member.filename)
    size = path.stat().st_size
    if unpacked > size:
        raise DataError(f"it is {size:,} bytes and unpacks to {unpacked:,}")


def checkpoint_in(path: Path) -> Path:
    """A file as it is; of a folder the checkpoint that Dassl, with which PromptKD's authors train, left in it.

    That is the one that was best in validation, or else the last epoch's, in the folder or one below it.

    Raises:
        DataError: There is no such file or folder, or not exactly one folder with checkpoints in it.
    """
    if path.is_file():
        return path
    files = [file for file in path.rglob("model*.pth.tar*") if file.name == _BEST or _OF_EPOCH.fullmatch(file.name)]
    folders = sorted({str(file.parent.relative_to(path)) for file in files})
    if not path.is_dir() or not files:
        what = "no checkpoint (model-best.pth.tar or model.pth.tar-EPOCH) in" if path.is_dir() else "no file or folder"
        raise DataError(f"there is {what} {path}. Check the path.")
    if len(folders) > 1:
        raise DataError(f"{path} has checkpoints in several folders: {listed(folders)}. Name one of them.")

    def rank(file: Path) -> int:
        epoch = _OF_EPOCH.fullmatch(file.name)
        return -1 if epoch is None else int(epoch[1])

    best = [file for file in files if file.name == _BEST]
    return best[0] if best else max(files, key=rank)


def deep_prompts(state: Mapping[str, Tensor], first: str, tower: str) -> Tensor | None:
    """Learned tokens (K layers, P prompt tokens, E token width) of a tower in a checkpoint of PromptSRC or PromptKD.

    Args:
        state: The checkpoint's state dict.
        first: Name of the first layer's tokens; without them the tower has none.
        tower: Prefix of the tower, whose further layers have tokens of their own, without a gap.
    """
    layers = [state[first]] if first in state else []
    while layers and (name := f"{tower}.transformer.resblocks.{len(layers)}.VPT_shallow") in state:
        layers.append(state[name])
    if any(layer.ndim != 2 or layer.shape != layers[0].shape for layer in layers):
        raise DataError(
            f"the prompts '{first}' and those of further layers are not of one shape, tokens by width: they are not of "
            "PromptSRC or PromptKD. Give a checkpoint of theirs."
        )
    import torch

    return torch.stack(layers).float() if layers else None


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


def own_provenance(name: str, path: Path, metadata: Mapping[str, str]) -> Provenance:
    """Origin of weights that clipstill wrote: their licence, and whom it asks to name, as recorded in the file."""
    source = f"clipstill assets/{path.name}" if path.parent.name == "assets" else plain(path)
    if authors := metadata.get("authors"):
        source += f", learned from works of: {authors}"
    return Provenance(name, metadata.get("licence", "unknown"), source, sha256_file(path))


def _stand_ins(path: Path) -> list[Any]:
    """Pairs of a stand-in class and the name of the trainer's class that it replaces in the file."""
    return [
        (_SkippedMapping if name.endswith(_MAPPINGS) else _Skipped, name)
        for name in _class_names(path)
        if name.startswith(_TRAINER_PACKAGES) or name in _TRAINER_NAMES
    ]


def _class_names(path: Path) -> set[str]:
    """Names in a checkpoint that torch does not know."""
    import torch
    from torch._weights_only_unpickler import get_globals_in_pkl

    if zipfile.is_zipfile(path):
        return set(torch.serialization.get_unsafe_globals_in_checkpoint(path))
    # In torch's format before 1.6 pickles of a magic number, a version and the machine come before the content.
    with path.open("rb") as file:
        return set().union(*(get_globals_in_pkl(file) for _ in range(4)))


def _is_cut_off(path: Path, error: Exception) -> bool:
    """Whether a file that cannot be read has lost its end."""
    with path.open("rb") as file:
        start = file.read(len(_OLD_START))
    if path.suffix == ".safetensors":
        return any(words in str(error) for words in ("incomplete", "invalid header length", "header too small"))
    if start == _OLD_START:
        return type(error).__name__ != "UnpicklingError"
    # The table of contents of an archive is at its end.
    return not start or (start[:2] == b"PK" and not zipfile.is_zipfile(path))
