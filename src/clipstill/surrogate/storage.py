"""Shards on a storage that several machines reach: a folder, a bucket, whatever fsspec knows by its address."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.surrogate.records import ImageRecord
from clipstill.surrogate.shards import ShardWriter, receipt_of, shard_name
from clipstill.surrogate.tarball import tar_bytes


class ShardStorage:
    """The shards of one surrogate set, below an address.

    A shard counts once its receipt stands beside it; the receipt is written last. Two workers that make the same group
    write the same bytes, so that neither has to know of the other.

    Args:
        address: such as ``"file:///mnt/shared/run"``, ``"s3://bucket/run"`` or a plain path.
        key: of the surrogate set; each set has a folder of its own.

    Raises:
        ResourceError: fsspec, or what it needs for this kind of address, is not installed, or nobody answers there.
    """

    def __init__(self, address: str, key: str) -> None:
        self._address, self._key = address, key
        try:
            import fsspec

            self._files, path = fsspec.core.url_to_fs(address)
            self._folder = f"{path.rstrip('/')}/{key[:16]}"
            self._files.makedirs(self._folder, exist_ok=True)
        except (ImportError, ValueError, OSError) as error:
            raise ResourceError(
                f"the storage {address} cannot be used ({error}). Check the address, and install what fsspec needs for "
                f"it, such as s3fs for s3://."
            ) from error

    def write(
        self,
        group_id: int,
        images_NHW3: NDArray[np.uint8],
        records: Sequence[ImageRecord],
        facts: Mapping[str, Any],
    ) -> None:
        """Leave one group there.

        Raises:
            ResourceError: it cannot be written.
        """
        data = tar_bytes(images_NHW3, records)
        receipt = receipt_of(self._key, len(records), data, facts)
        try:
            for name, content in (
                (shard_name(group_id), data),
                (_receipt_name(group_id), json.dumps(receipt).encode()),
            ):
                # A bucket shows whole files only; in a folder, the rename does that.
                temporary = f"{self._folder}/.tmp-{hashlib.sha256(content).hexdigest()[:16]}-{name}"
                self._files.pipe_file(temporary, content)
                self._files.mv(temporary, f"{self._folder}/{name}")
        except OSError as error:
            raise ResourceError(f"{self._address} cannot be written ({error}). Check its permissions.") from error

    def gather(self, shards: ShardWriter, groups: Sequence[int]) -> list[int]:
        """Bring those of the groups that are there into a folder of this machine.

        Returns:
            Numbers of the groups that were brought.

        Raises:
            ArtifactError: a shard is not what its receipt says.
        """
        brought = []
        for group_id in groups:
            try:
                receipt = json.loads(self._files.cat_file(f"{self._folder}/{_receipt_name(group_id)}"))
                data = self._files.cat_file(f"{self._folder}/{shard_name(group_id)}")
            except FileNotFoundError:
                continue
            if receipt.get("key") != self._key or hashlib.sha256(data).hexdigest() != receipt.get("sha256"):
                raise ArtifactError(
                    f"{shard_name(group_id)} in {self._address} is not what its receipt says. Delete it and run again."
                )
            shards.adopt(group_id, data, receipt)
            brought.append(group_id)
        return brought


def _receipt_name(group_id: int) -> str:
    return shard_name(group_id).replace(".tar", ".json")
