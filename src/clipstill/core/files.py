"""Writes files atomically: under a temporary name in the same folder, synced, and then renamed.

A folder is complete once it has a ``MANIFEST.json`` with the sha256 of each of its files.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path, PureWindowsPath
from typing import Any

from clipstill.core.errors import ArtifactError, DataError, ResourceError

MANIFEST = "MANIFEST.json"
_SHA256 = re.compile(r"[0-9a-f]{64}")


def user_path(path: str | PathLike[str]) -> Path:
    """A path that the user gave, with ``~`` and ``~NAME`` at its start as the home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise DataError(f"there is no home folder for {path}. Write the path out.") from None


@contextmanager
def atomic_path(target: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target``, with its suffix; on success it is synced and renamed to ``target``.

    Raises:
        ResourceError: The disk is full or not writable; ``target`` is unchanged.
    """
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".tmp-", suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            temporary.chmod(0o644)
            temporary.replace(target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise a ``ResourceError`` for the user where the block cannot write ``target``, a file or a folder."""
    if any(place.name == "~" and not place.exists() for place in (target, *target.parents)):
        raise ResourceError(f"{target} would be in a new folder named '~'. Write out the path of your home folder.")
    refuse_other_than_utf8(target)
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResourceError(
                f"the disk is full while writing {target}. Free some space and run the same command again: it "
                f"continues where it stopped."
            ) from error
        raise ResourceError(
            f"cannot write {target}: {error.strerror or error}. Check the path and its permissions."
        ) from error


def refuse_other_than_utf8(path: Path) -> None:
    """Raise a ``ResourceError`` for a place of tensors or models that their libraries could not open."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ResourceError(
            f"{path} has a name that is not UTF-8, which libraries of tensors and models cannot open. Rename it."
        ) from None


def make_folder(path: Path) -> None:
    """Make the folder of results before the work starts, so that a wrong path fails early as a ``ResourceError``."""
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Flush a file, or the list of names of a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_bytes(target: Path, data: bytes) -> None:
    """Write a file atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(data)


def write_text(target: Path, text: str) -> None:
    """Write a UTF-8 text file atomically; halves of surrogate pairs, from names that are not UTF-8, are escaped."""
    write_bytes(target, text.encode(errors="backslashreplace"))


def write_json(target: Path, value: Any) -> None:
    """Write JSON (sorted keys, two spaces) atomically."""
    write_text(target, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_text(path: Path) -> str:
    """Read a UTF-8 text file, without its byte order mark.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read, is a pipe or a device, or is not UTF-8; the text of the error says which.
    """
    check_regular(path)
    data = path.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OSError(f"line {line} is not UTF-8") from None


def check_regular(path: Path) -> None:
    """Raise an ``OSError`` for what is there and no file: reading a pipe or a device may never end."""
    if path.exists() and not path.is_file():
        raise OSError("it is a folder" if path.is_dir() else "it is a pipe or a device, not a file")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ArtifactError: Missing or malformed.
    """
    try:
        return json.loads(read_text(path))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} is missing. The folder is not complete; run the command that makes it again."
        ) from None
    # ValueError: not JSON, or a number that is too long. RecursionError: too deeply nested.
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read as JSON ({error}). Delete it and run the command again.") from None


def sha256_file(path: Path) -> str:
    """Hex sha256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_json(value: Any) -> str:
    """Hex sha256 of a JSON value in canonical form, used as the key of stages and caches."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()


@dataclass(frozen=True)
class Manifest:
    """The content of ``MANIFEST.json``."""

    key: str  # Hash of everything that the content depends on.
    files: dict[str, str]  # Relative path -> sha256.
    info: dict[str, Any] = field(default_factory=dict)  # Other facts, such as seconds and versions.


def commit_manifest(folder: Path, key: str, files: list[str], info: dict[str, Any] | None = None) -> Manifest:
    """Hash the named files and write the folder's manifest, which marks the folder as complete."""
    manifest = Manifest(key, {name: sha256_file(folder / name) for name in sorted(files)}, info or {})
    write_json(folder / MANIFEST, {"key": manifest.key, "files": manifest.files, "info": manifest.info})
    return manifest


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder; None if there is none.

    Raises:
        ArtifactError: The manifest is malformed, or names a file outside the folder.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    raw = read_json(path)
    try:
        files = {str(name): str(digest) for name, digest in raw["files"].items()}
        manifest = Manifest(str(raw["key"]), files, dict(raw.get("info", {})))
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ArtifactError(f"{path} is not a clipstill manifest. Choose another folder or delete this one.") from None
    for name, digest in manifest.files.items():
        if not _lies_below(name) or not _SHA256.fullmatch(digest):
            raise ArtifactError(
                f"{path} lists {name[:200]!r}, which is no file below its folder with a sha256. It is damaged or was "
                f"tampered with; get the folder again from its source."
            )
    return manifest


def _lies_below(name: str) -> bool:
    """Whether a name is a relative path below the folder on every operating system."""
    if not 0 < len(name) <= 1000 or not name.isprintable() or "\\" in name:
        return False
    return not (PureWindowsPath(name).drive or name.startswith("/")) and not {"", ".", ".."} & set(name.split("/"))


def verify_files(folder: Path, manifest: Manifest) -> None:
    """Raise an ``ArtifactError`` if a listed file is missing or was altered."""
    for name, digest in manifest.files.items():
        path = folder / name
        try:
            found = sha256_file(path) if path.is_file() else None
        except OSError as error:
            raise ArtifactError(f"{path} cannot be read ({error.strerror}). Check its permissions.") from None
        if found is None:
            raise ArtifactError(f"{path} is missing although {folder / MANIFEST} lists it. Make the folder again.")
        if found != digest:
            raise ArtifactError(
                f"{path} was altered (its sha256 differs from {folder / MANIFEST}). Make the folder again."
            )


def is_whole(folder: Path, key: str) -> bool:
    """Whether a folder is complete under this key; a file that is missing or altered raises an ``ArtifactError``."""
    manifest = read_manifest(folder)
    if manifest is None or manifest.key != key:
        return False
    verify_files(folder, manifest)
    return True
