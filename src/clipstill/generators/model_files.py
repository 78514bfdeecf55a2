"""Models of other publishers: the package that runs them, their files on a hub, and the licence that they state."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from clipstill.core.errors import DataError, ResourceError, reason_of
from clipstill.core.hub import fetch

CONFIG_FILE = "config.json"
DIFFUSERS_FILE = "diffusion_pytorch_model.safetensors"
_REPOSITORY = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")
UNKNOWN = "unknown"
# First words of licence texts, as their authors ask to reproduce them.
_LICENCE_TEXTS = {
    "MIT": "mit license",
    "Apache-2.0": "apache license version 2.0",
    "GPL-3.0-only": "gnu general public license version 3",
}


def import_diffusers(generator: str) -> Any:
    """The package diffusers, imported when a generator needs it."""
    try:
        import diffusers
    except ImportError:
        raise ResourceError(
            f"the generator {generator} needs diffusers. Install it: pip install 'clipstill[diffusers]'"
        ) from None
    return diffusers


def download(generator: str, repository: str, fetched: Callable[[], str | Path], local: str) -> Path:
    """Folder of a model of the hub in the hub's cache.

    Args:
        generator: Name of the generator.
        repository: What the user named, where there is no such local file or folder.
        fetched: Function that downloads the model and returns its folder.
        local: Example of a local path, for messages.

    Raises:
        DataError: The name is not that of a repository.
        ResourceError: The hub cannot be reached, or has no such model.
    """
    if not _REPOSITORY.fullmatch(repository) or repository.endswith(".safetensors"):
        raise DataError(
            f"there is no file or folder {repository} for the generator {generator}. Check the path, or name a "
            f"repository: {generator}:OWNER/REPO"
        )
    try:
        return Path(fetched())
    except Exception as error:  # The network, the hub's client and the disk raise many kinds.
        raise ResourceError(
            f"cannot get {generator} {repository} from the model hub ({reason_of(error)}). Check the name and the "
            f"connection, or name a local copy: {generator}:{local}"
        ) from None


def download_diffusers_model(generator: str, repository: str, local: str, subfolder: str = "") -> Path:
    """``download`` of the files of one model that diffusers saved; returns the repository's root folder."""
    prefix = f"{subfolder}/" if subfolder else ""
    patterns = [f"{prefix}{CONFIG_FILE}", f"{prefix}{DIFFUSERS_FILE}", "README.md", "LICENSE"]
    return download(generator, repository, lambda: fetch(repository, patterns), local)


def licence_of(folder: Path) -> str:
    """Licence of the model in a folder: what its model card says, such as ``"mit"``, or else by its ``LICENSE`` text.

    ``"unknown"`` where neither tells it.
    """
    from huggingface_hub import metadata_load

    try:
        card = metadata_load(folder / "README.md") or {}
    except (OSError, ValueError, yaml.YAMLError):
        card = {}
    # "other" says only that the name stands in another field.
    licence = card.get("license_name") if card.get("license") in (None, "other") else card["license"]
    if licence:
        return " AND ".join(map(str, licence)) if isinstance(licence, list) else str(licence)
    path = folder / "LICENSE"
    text = path.read_text(encoding="utf-8-sig", errors="replace") if path.is_file() else ""
    start = " ".join(text[:400].lower().replace(",", " ").split())
    return next((name for name, words in _LICENCE_TEXTS.items() if words in start), UNKNOWN)
