"""Shards in a storage that several machines can reach: any address that fsspec knows, such as a folder or a bucket."""

from __future__ import annotations

import hashlib
import json
import platform
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.paths import user_path
from clipstill.surrogate.shards import ShardWriter, shard_name


class ShardStorage:
    """The shards of one surrogate set, in a folder of its own below an address such as ``"s3://bucket/run"`` or a path.

    ``shard-00012.json`` is the receipt of group 12 and is written last. The name of a shard contains a part of its
    sha256, so two workers may make the same group: equal bytes are the same file, and if a GPU makes them differ, the
    receipt still finds its own shard.

    Raises:
        ResourceError: fsspec or its driver for this kind of address is not installed, or the storage does not answer.
    """

    def __init__(self, address: str, key: str) -> None:
        self.address, self._key = resolve_address(address), key
        import fsspec

        try:
            self._files, path = fsspec.core.url_to_fs(self.address)
            self._folder = f"{path.rstrip('/')}/{key[:16]}"
            self._files.makedirs(self._folder, exist_ok=True)
        except Exception as error:  # Each kind of storage has its own errors.
            raise ResourceError(
                f"the storage {address} cannot be used ({error}). Check the address, and the credentials on "
                f"{platform.node()}."
            ) from error

    def write(self, group_id: int, data: bytes, receipt: Mapping[str, Any]) -> None:
        """Write the shard of one group, and the receipt that ``receipt_of`` returned for it.

        Raises:
            ResourceError: The storage cannot be written.
        """
        files = {
            _data_name(group_id, str(receipt["sha256"])): data,
            _receipt_name(group_id): json.dumps(dict(receipt)).encode(),
        }
        with self._errors_of("written"):
            for name, content in files.items():
                # A folder, unlike a bucket, would show a file before it is whole.
                temporary = f"{self._folder}/.tmp-{uuid.uuid4().hex}"
                self._files.pipe_file(temporary, content)
                self._files.mv(temporary, f"{self._folder}/{name}")

    def gather(self, shards: ShardWriter, groups: Sequence[int]) -> list[int]:
        """Copy those of the groups that are in the storage to this machine, and return their numbers.

        Raises:
            ArtifactError: A shard does not fit its receipt.
            ResourceError: The storage cannot be read, or this machine's disk cannot be written.
        """
        with self._errors_of("read"):
            self._files.invalidate_cache(self._folder)
            there = {name.rpartition("/")[2] for name in self._files.ls(self._folder, detail=False)}
            found = [group_id for group_id in groups if _receipt_name(group_id) in there]
            for group_id in found:
                receipt, data = self._read(group_id)
                shards.adopt(group_id, data, receipt)
        return found

    @contextmanager
    def _errors_of(self, verb: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise ResourceError(
                f"{self.address} cannot be {verb} ({error}). Check its space and permissions, and run the same command "
                f"again: it goes on where it stopped."
            ) from error

    def _read(self, group_id: int) -> tuple[dict[str, Any], bytes]:
        place = f"{self._folder}/{_receipt_name(group_id)}"
        try:
            receipt = json.loads(self._files.cat_file(place))
            data = self._files.cat_file(f"{self._folder}/{_data_name(group_id, receipt['sha256'])}")
            if receipt["key"] == self._key and hashlib.sha256(data).hexdigest() == receipt["sha256"]:
                return receipt, data
        except (FileNotFoundError, ValueError, TypeError, KeyError):
            pass  # A receipt without its shard, or another file.
        raise ArtifactError(
            f"{place} in the storage and its shard do not belong together. Delete {_receipt_name(group_id)} there and "
            f"run the same command again: the group is made anew."
        )


def resolve_address(address: str) -> str:
    """Make a plain path an absolute address, and check that fsspec and its driver for the address are installed."""
    try:
        import fsspec
    except ImportError:
        raise ResourceError("fsspec is not installed. Run: pip install 'clipstill[ray]'") from None
    if "://" not in address and "::" not in address:
        return user_path(address).resolve().as_uri()
    try:
        for part in address.split("::"):
            fsspec.get_filesystem_class(part.partition("://")[0])
    except (ImportError, ValueError) as error:
        raise ResourceError(
            f"the storage {address} cannot be used ({error}). Check the address, and install what fsspec needs for it, "
            f"such as s3fs for s3://."
        ) from None
    return address


def _data_name(group_id: int, sha256: str) -> str:
    return shard_name(group_id).replace(".tar", f"-{sha256[:16]}.tar")


def _receipt_name(group_id: int) -> str:
    return shard_name(group_id).replace(".tar", ".json")
