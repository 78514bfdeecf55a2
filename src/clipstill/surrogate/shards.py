"""Writes the surrogate set: one tar shard per group of images that were made together.

The group is the unit of work and of commitment. ``shard-00012.tar`` appears whole by rename, and counts once its
receipt ``shard-00012.json`` (size, sha256, key) stands beside it. A group that was interrupted in between is made again
and gives the same bytes. When all groups are there, the folder's manifest makes it a surrogate set.

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
    disk_error,
    read_json,
    sha256_file,
    write_bytes,
    write_json,
)
from clipstill.core.synthetic_mark import save_marked
from clipstill.surrogate.dataset import FEATURE, ImageRecord, SurrogateSet


def shard_name(group_id: int) -> str:
    """File name of a group's shard."""
    return f"shard-{group_id:05d}.tar"


def tar_bytes(
    pixels_NHW3: NDArray[np.uint8], records: Sequence[ImageRecord], features_ND: NDArray[np.float16] | None = None
) -> bytes:
    """A shard; equal images, records and features give equal bytes: no clock, no user, plain ustar headers."""
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
                member = tarfile.TarInfo(f"{position:06d}{suffix}")  # mtime, uid and gid are 0 unless set
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return shard.getvalue()


def receipt_of(key: str, images: int, data: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """The receipt that stands beside a shard.

    Args:
        key: Key of the surrogate set.
        images: Number of images in the shard.
        data: Bytes of the shard.
        facts: Anything else to know of the group.
    """
    digest = hashlib.sha256(data).hexdigest()
    return {"key": key, "images": images, "size": len(data), "sha256": digest, "facts": dict(facts)}


class ShardWriter:
    """Writes groups of images into a folder, and goes on where an earlier writer stopped.

    Args:
        folder: Folder of the surrogate set; made when the first group is written.
        key: Hash of everything that the images depend on. Groups of another key do not count and are overwritten.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def committed(self) -> set[int]:
        """Numbers of the groups with a receipt of this key and a shard of the size that it names."""
        return {int(name.removesuffix(".tar").removeprefix("shard-")) for name in self._receipts()}

    def facts(self) -> list[dict[str, Any]]:
        """Facts of each committed group, in the order of the groups."""
        return [dict(receipt.get("facts", {})) for receipt in self._receipts().values()]

    def write_group(
        self,
        group_id: int,
        pixels_NHW3: NDArray[np.uint8],
        records: Sequence[ImageRecord],
        facts: Mapping[str, Any] | None = None,
        features_ND: NDArray[np.float16] | None = None,
    ) -> None:
        """Commit one group, in the order of its members. Writing a group twice leaves it once.

        Args:
            group_id: Number of the group, from 0, without gaps over the whole set.
            pixels_NHW3: RGB images, uint8.
            records: Record of each image.
            facts: Anything else to know of the group.
            features_ND: The teacher's unit vectors of the images; None for a set without features.

        Raises:
            ArtifactError: Images and records do not belong together, or an image diverged.
            ResourceError: The disk is full or not writable; committed groups stay.
        """
        if pixels_NHW3.dtype != np.uint8 or pixels_NHW3.ndim != 4 or pixels_NHW3.shape[-1] != 3:
            raise ArtifactError(
                f"group {group_id}: images are {pixels_NHW3.dtype} of shape {pixels_NHW3.shape}; "
                "uint8 (N, H, W, 3) is needed."
            )
        if len(pixels_NHW3) != len(records) or not records:
            raise ArtifactError(
                f"group {group_id}: {len(pixels_NHW3)} images and {len(records)} records; give one each."
            )
        if features_ND is not None and (len(features_ND) != len(records) or features_ND.dtype != np.float16):
            raise ArtifactError(
                f"group {group_id}: features are {features_ND.dtype} of shape {features_ND.shape}; "
                f"float16 ({len(records)}, D) is needed."
            )
        data = tar_bytes(pixels_NHW3, records, features_ND)
        self.adopt(group_id, data, receipt_of(self.key, len(records), data, facts or {}))

    def adopt(self, group_id: int, data: bytes, receipt: Mapping[str, Any]) -> None:
        """Commit a shard that was made elsewhere, with the receipt that ``receipt_of`` gave for it.

        Raises:
            ResourceError: The disk is full or not writable; committed groups stay.
        """
        shard = self.folder / shard_name(group_id)
        # From here the folder is incomplete, and an old receipt must not vouch for a new shard.
        try:
            (self.folder / MANIFEST).unlink(missing_ok=True)
            shard.with_suffix(".json").unlink(missing_ok=True)
        except OSError as error:
            raise disk_error(error, shard) from error
        write_bytes(shard, data)
        write_json(shard.with_suffix(".json"), receipt)

    def finish(self, info: dict[str, Any] | None = None, beside: Sequence[str] = ()) -> Manifest:
        """Make the folder a surrogate set of the groups committed so far.

        Args:
            info: Facts for the manifest beside the counts of images and groups.
            beside: Names of other files in the folder that belong to the set.

        Raises:
            ArtifactError: There is no group, one is missing, or a shard is not what its receipt says.
        """
        receipts = self._receipts()
        shards = self._verified(max(1, len(receipts)))
        files = [name for shard in shards for name in (shard.name, shard.with_suffix(".json").name)]
        counts = {"groups": len(receipts), "images": sum(int(receipt["images"]) for receipt in receipts.values())}
        return commit_manifest(self.folder, self.key, [*files, *beside], {**(info or {}), **counts})

    def read(self, groups: int) -> SurrogateSet:
        """The images of the first groups, before the folder is a surrogate set.

        Raises:
            ArtifactError: A group is missing, or not what its receipt says.
        """
        return SurrogateSet.read(self._verified(groups))

    def _verified(self, groups: int) -> list[Path]:
        """The shards of the first groups; one that was altered is disowned, so that it is made again."""
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
                continue  # not a receipt of ours, or without its shard: the group is made again
        return found
