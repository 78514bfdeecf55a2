"""Writes the surrogate set: one tar shard per group of images that were made together.

``shard-00012.tar`` appears whole by rename, and counts once its receipt ``shard-00012.json`` (size, sha256, key) stands
beside it; a group that was interrupted before that is made again with the same bytes. The folder's manifest, written
when all groups are there, makes it a surrogate set.

Shapes: N images, H x W pixels, D teacher dimensions.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipstill.core.errors import ArtifactError
from clipstill.core.files import (
    MANIFEST,
    Manifest,
    commit_manifest,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
    writing,
)
from clipstill.core.synthetic_mark import save_marked
from clipstill.surrogate.dataset import FEATURE, ImageRecord, SurrogateSet


def shard_name(group_id: int) -> str:
    """File name of a group's shard."""
    return f"shard-{group_id:05d}.tar"


def tar_bytes(
    pixels_NHW3: NDArray[np.uint8], records: Sequence[ImageRecord], features_ND: NDArray[np.float16] | None = None
) -> bytes:
    """The bytes of a shard: equal images, records and features give equal bytes."""
    from safetensors.numpy import save

    shard = io.BytesIO()
    with tarfile.open(fileobj=shard, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for position, (pixels_HW3, record) in enumerate(zip(pixels_NHW3, records, strict=True)):
            png = io.BytesIO()
            save_marked(Image.fromarray(np.ascontiguousarray(pixels_HW3)), png, "PNG")
            files = {".png": png.getvalue(), ".json": record.to_json().encode()}
            if features_ND is not None:
                files[".safetensors"] = save({FEATURE: np.ascontiguousarray(features_ND[position])})
            for suffix, data in files.items():
                add_member(tar, f"{position:06d}{suffix}", data)
    return shard.getvalue()


def add_member(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    """Write a file into a tar that is open for writing; equal files give equal bytes."""
    member = tarfile.TarInfo(name)  # mtime, uid and gid are 0 unless set
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def receipt_of(key: str, images: int, data: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt beside a shard of some images, whose bytes are ``data``; ``facts`` are any other facts."""
    digest = hashlib.sha256(data).hexdigest()
    return {"key": key, "images": images, "size": len(data), "sha256": digest, "facts": dict(facts)}


class ShardWriter:
    """Writes groups of images into a folder, and goes on where an earlier writer stopped.

    ``key`` is the hash of everything that the images depend on; groups of another key do not count and are overwritten.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder, self.key = folder, key

    def committed(self) -> set[int]:
        """Numbers of the groups that have a shard and its receipt."""
        return {int(name.removesuffix(".tar").removeprefix("shard-")) for name in self._receipts()}

    def facts(self) -> list[dict[str, Any]]:
        """Facts of each committed group, in the order of the groups."""
        return [dict(receipt.get("facts", {})) for receipt in self._receipts().values()]

    def write_group(
        self,
        group_id: int,
        pixels_NHW3: NDArray[np.uint8],
        records: Sequence[ImageRecord],
        *,
        facts: Mapping[str, Any] | None = None,
        features_ND: NDArray[np.float16] | None = None,
    ) -> None:
        """Write one group; an earlier version of it is replaced.

        Args:
            group_id: Number of the group, from 0, without gaps over the whole set.
            pixels_NHW3: RGB images, uint8.
            records: Record of each image.
            facts: Other facts about the group, for the receipt.
            features_ND: The teacher's unit vectors of the images; None for a set without features.

        Raises:
            ResourceError: The disk is full or not writable; earlier groups stay.
        """
        data = tar_bytes(pixels_NHW3, records, features_ND)
        self.adopt(group_id, data, receipt_of(self.key, len(records), data, facts or {}))

    def adopt(self, group_id: int, data: bytes, receipt: Mapping[str, Any]) -> None:
        """Write a shard that was made elsewhere, and the receipt that ``receipt_of`` returned for it."""
        shard = self.folder / shard_name(group_id)
        # From here on the set is incomplete, and an old receipt must not stand beside a new shard.
        with writing(shard):
            (self.folder / MANIFEST).unlink(missing_ok=True)
            shard.with_suffix(".json").unlink(missing_ok=True)
        write_bytes(shard, data)
        write_json(shard.with_suffix(".json"), receipt)

    def finish(self, info: dict[str, Any] | None = None, beside: Sequence[str] = ()) -> Manifest:
        """Make the folder a surrogate set of the groups written so far.

        Args:
            info: Facts for the manifest besides the numbers of images and groups.
            beside: Names of other files in the folder that belong to the set.

        Raises:
            ArtifactError: There is no group, one is missing, or a shard was altered.
        """
        receipts = self._receipts()
        shards = self._verified(max(1, len(receipts)))
        files = [name for shard in shards for name in (shard.name, shard.with_suffix(".json").name)]
        counts = {"groups": len(receipts), "images": sum(int(receipt["images"]) for receipt in receipts.values())}
        return commit_manifest(self.folder, self.key, [*files, *beside], {**(info or {}), **counts})

    def read(self, groups: int) -> SurrogateSet:
        """The images of the first groups; the folder need not be a surrogate set yet."""
        return SurrogateSet.read(self._verified(groups))

    def _verified(self, groups: int) -> list[Path]:
        """The shards of the first groups. An altered one loses its receipt, so that it is made again."""
        receipts = self._receipts()
        shards = [self.folder / shard_name(number) for number in range(groups)]
        for shard in shards:
            if shard.name not in receipts:
                raise ArtifactError(f"{shard} is missing. Run the same command again: it makes what is missing.")
            if sha256_file(shard) != receipts[shard.name]["sha256"]:
                shard.with_suffix(".json").unlink()
                raise ArtifactError(
                    f"{shard} was altered after it was written. Run the same command again: it is made anew."
                )
        return shards

    def _receipts(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in sorted(self.folder.glob("shard-*.json")):
            shard = path.with_suffix(".tar")
            try:
                receipt = read_json(path)
                if receipt["key"] == self.key and shard.stat().st_size == receipt["size"]:
                    found[shard.name] = receipt
            except (ArtifactError, KeyError, TypeError, FileNotFoundError):
                continue  # Another file, or a receipt without its shard: the group is made again.
        return found
