"""Writes files atomically: under a temporary name in the same folder, synced, and then renamed.

A folder is complete once it has a ``MANIFEST.json`` with the sha256 of each of its files. Replacing a whole folder
takes two renames; whoever reads its manifest after a kill between them puts the old folder back.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.paths import refuse_other_than_utf8, refuse_unmeant

MANIFEST = "MANIFEST.json"
TEMPORARY = ".tmp-"  # How names begin that a killed process leaves behind.
_PARTIAL, _PREVIOUS = ".clipstill-partial", ".clipstill-previous"
_MOST_BYTES = 64 << 20
_MOST_LEVELS = 64
_SHA256 = re.compile(r"[0-9a-f]{64}")
# Start of a file that stands in place of the one that was meant -> what it is.
STAND_INS = {
    b"version https://git-lfs.github.com/spec/": "a pointer of Git LFS",
    b"/annex/objects/": "a pointer of git-annex",
    b"../.git/annex/objects/": "a pointer of git-annex",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
}
# Folders that this process works in -> device and inode of each.
_held: dict[Path, tuple[int, int]] = {}


@contextmanager
def atomic_path(target: Path, mode: int = 0o644) -> Iterator[Path]:
    """Yield a temporary path beside ``target``, with its suffix; on success it is synced and renamed to ``target``.

    Until then nobody else may read it; ``mode`` are the permissions of the target.

    Raises:
        ResourceError: The disk is full or not writable; ``target`` is unchanged.
    """
    with writing(target):
        make_folder(target.parent)
        handle, name = tempfile.mkstemp(prefix=TEMPORARY, suffix=target.suffix, dir=target.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            yield temporary
            sync(temporary)
            temporary.chmod(mode)
            temporary.replace(target)
            sync(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def writing(target: Path) -> Iterator[None]:
    """Raise a ``ResourceError`` for the user where the block cannot write ``target``, a file or a folder."""
    refuse_unmeant(target)
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


def make_folder(path: Path) -> None:
    """Make a folder and those around it, but none that ``holding`` holds.

    Raises:
        ResourceError: It cannot be written, or a folder around it was moved or deleted since ``holding`` began.
    """
    for folder, identity in list(_held.items()):
        if path.is_relative_to(folder) and _identity(folder) != identity:
            raise ResourceError(
                f"{folder} was moved or deleted while clipstill was working in it. Put it back, or run the same "
                f"command again to start anew."
            )
    with writing(path):
        path.mkdir(parents=True, exist_ok=True)


@contextmanager
def holding(folder: Path) -> Iterator[None]:
    """Write into this folder only as long as it stays where it is: a stray part of it would look like another's."""
    _held[folder] = _identity(folder)
    try:
        yield
    finally:
        del _held[folder]


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = folder.stat()
    except OSError:
        return (0, 0)
    return status.st_dev, status.st_ino


def sweep(folder: Path, seconds: float = 0.0) -> None:
    """Delete what killed processes left right inside a folder, if it is older than this.

    That are temporary files and folders, and folders that were replaced and not yet deleted.
    """
    for path in [*folder.glob(f"{TEMPORARY}*"), *_replaced(folder)]:
        with suppress(OSError):
            if path.lstat().st_mtime <= time.time() - seconds:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def _replaced(parent: Path) -> Iterator[Path]:
    """Old folders whose place a new one has taken for good."""
    for previous in parent.glob(f".*{_PREVIOUS}"):
        folder = parent / previous.name[1:].removesuffix(_PREVIOUS)
        if folder.exists() and not _beside(folder)[0].exists():
            yield previous


def sweep_below(folder: Path) -> None:
    """Sweep a folder and all folders in it, which no other process may be working in."""
    for each in [folder, *folder.rglob("*/")]:
        sweep(each)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that replaces ``folder`` at the end; until then, and after an error, the old one stays.

    Raises:
        ResourceError: The disk is full or not writable.
    """
    folder = Path(os.path.realpath(folder))  # A link keeps pointing to it, and ``.`` gets a name.
    partial, previous = _beside(folder)
    with writing(folder):
        put_back(folder)
        # What a killed call left.
        for rest in (previous, partial):
            if rest.exists():
                shutil.rmtree(rest)
        make_folder(folder.parent)
        partial.mkdir()
        try:
            yield partial
            _exchange(folder, partial, previous)
            sync(folder.parent)
            shutil.rmtree(previous, ignore_errors=True)
        finally:
            put_back(folder)
            shutil.rmtree(partial, ignore_errors=True)


def _beside(folder: Path) -> tuple[Path, Path]:
    """Where the new content of a folder grows, and where the old one waits while the new one takes its name."""
    return folder.parent / f".{folder.name}{_PARTIAL}", folder.parent / f".{folder.name}{_PREVIOUS}"


def _exchange(folder: Path, partial: Path, previous: Path) -> None:
    for _ in range(10):
        if folder.exists():
            folder.rename(previous)
        try:
            partial.rename(folder)
            return
        except OSError as error:
            # A reader found no folder just now, and put the old one back.
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
    raise ResourceError(f"cannot write {folder}: other programs keep reading it. Try again.")


def put_back(folder: Path) -> None:
    """Give the old folder its name back if a kill ended its replacement between the two renames."""
    if folder.exists():
        return
    folder = Path(os.path.realpath(folder))
    partial, previous = _beside(folder)
    # After both renames there is no partial folder, and the previous one may be deleted in part.
    if previous.exists() and partial.exists() and not folder.exists():
        with suppress(OSError):
            previous.rename(folder)


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


def read_text(path: Path, most_bytes: int | None = None) -> str:
    """Read a UTF-8 text file, without its byte order mark; one of more than ``most_bytes`` is not read.

    Raises:
        FileNotFoundError: There is none.
        OSError: It cannot be read, is a pipe or a device, is too large, or is not UTF-8; its text says which.
    """
    check_regular(path)
    if most_bytes is not None and path.stat().st_size > most_bytes:
        raise OSError(f"it is larger than {most_bytes >> 20} MB")
    data = path.read_bytes()
    if instead := stand_in(data):
        raise OSError(f"it is {instead} in place of the file")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise OSError(f"line {line} is not UTF-8") from None


def stand_in(data: bytes) -> str | None:
    """What a file is that stands in place of another, by its first bytes; None for other files."""
    start = data[:64].lower()
    return next((what for mark, what in STAND_INS.items() if start.startswith(mark)), None)


def check_regular(path: Path) -> None:
    """Raise an ``OSError`` for what is there and no file: reading a pipe or a device may never end."""
    if path.exists() and not path.is_file():
        raise OSError("it is a folder" if path.is_dir() else "it is a pipe or a device, not a file")


def read_json(path: Path) -> Any:
    """Read JSON of at most 64 MB and 64 levels, so that no file takes all memory or breaks what walks through it.

    Raises:
        ArtifactError: Missing or malformed.
    """
    try:
        return parse_json(read_text(path, _MOST_BYTES))
    except FileNotFoundError:
        raise ArtifactError(
            f"{path} is missing. The folder is not complete; run the command that makes it again."
        ) from None
    except (OSError, ValueError) as error:
        raise ArtifactError(
            f"{path} cannot be read as JSON ({error}). Delete it and run the command that made it again."
        ) from None


def parse_json(text: str | bytes) -> Any:
    """The value of a JSON text of at most 64 levels.

    Raises:
        ValueError: It is not JSON, too deep, or holds a number that is too long.
    """
    try:
        value = json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    level = [value]
    for _ in range(_MOST_LEVELS):
        level = [each for parent in level for each in _children(parent) if isinstance(each, dict | list)]
        if not level:
            return value
    raise ValueError("it is nested too deeply")


def _children(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


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
    """The manifest of a folder; None if there is none. A folder whose replacement was killed is put back first.

    Raises:
        ArtifactError: The manifest is malformed, or names a file outside the folder.
    """
    put_back(folder)
    path = folder / MANIFEST
    if not path.exists():
        return None
    raw = read_json(path)
    try:
        files = {str(name): str(digest) for name, digest in raw["files"].items()}
        manifest = Manifest(str(raw["key"]), files, dict(raw.get("info", {})))
    except (TypeError, KeyError, AttributeError, ValueError):
        raise ArtifactError(
            f"{path} is not a clipstill manifest. Make the folder again, or choose another one."
        ) from None
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
