"""Writes the surrogate set: one tar shard a group of images that were made together.

The group is the unit of work and of commitment. ``shard-00012.tar`` appears whole by rename, and counts once
``shard-00012.json`` (size, sha256, key) stands beside it; whatever is killed in between is made again and gives the
same bytes. When all groups are there, the folder's manifest makes it a surrogate set.

Shapes: N images, H x W pixels, D teacher dimensions.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.surrogate.records import ImageRecord
from clipstill.surrogate.tarball import tar_bytes


def shard_name(group_id: int) -> str:
    """File name of a group's shard."""
    return f"shard-{group_id:05d}.tar"


def receipt_of(key: str, images: int, data: bytes, facts: Mapping[str, Any]) -> dict[str, Any]:
    """What stands beside a shard and vouches for it.

    Args:
        key: of the surrogate set.
        images: in the shard.
        data: of the shard.
        facts: what else is to be known of the group.
    """
    digest = hashlib.sha256(data).hexdigest()
    return {"key": key, "images": images, "size": len(data), "sha256": digest, "facts": dict(facts)}


def _missing(shard: Path) -> ArtifactError:
    return ArtifactError(f"{shard} is missing. Run the same command again: it makes what is missing.")


class ShardWriter:
    """Writes groups of images into a folder, any number of times interrupted.

    Args:
        folder: of the surrogate set; made when the first group is written.
        key: hash of everything that the images depend on. Groups of another key do not count and are written over.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self.folder = folder
        self.key = key

    def committed(self) -> set[int]:
        """Numbers of the groups that are safe: receipt of this key, and a shard of the size that it names."""
        return {int(name.removesuffix(".tar").removeprefix("shard-")) for name in self._receipts()}

    def facts(self) -> list[dict[str, Any]]:
        """What was told of each committed group when it was written, in the order of the groups."""
        return [dict(receipt.get("facts", {})) for receipt in self._receipts().values()]

    def write_group(
        self,
        group_id: int,
        images_NHW3: NDArray[np.uint8],
        records: Sequence[ImageRecord],
        facts: Mapping[str, Any] | None = None,
        features_ND: NDArray[np.float16] | None = None,
    ) -> None:
        """Commit one group, in the order of its members. Writing a group twice leaves it once.

        Args:
            group_id: from 0, without gaps over the whole set.
            images_NHW3: RGB, 0 to 255.
            records: one an image.
            facts: what else is to be known of the group.
            features_ND: the teacher's unit vectors of the images; None leaves the set without.

        Raises:
            ArtifactError: images and records do not belong together, or an image diverged.
            ResourceError: the disk is full or not writable; committed groups stay.
        """
        if images_NHW3.dtype != np.uint8 or images_NHW3.ndim != 4 or images_NHW3.shape[-1] != 3:
            raise ArtifactError(
                f"group {group_id}: images are {images_NHW3.dtype} of shape {images_NHW3.shape}; "
                "uint8 (N, H, W, 3) is needed."
            )
        if len(images_NHW3) != len(records) or not records:
            raise ArtifactError(
                f"group {group_id}: {len(images_NHW3)} images and {len(records)} records; give one each."
            )
        if features_ND is not None and (len(features_ND) != len(records) or features_ND.dtype != np.float16):
            raise ArtifactError(
                f"group {group_id}: features are {features_ND.dtype} of shape {features_ND.shape}; "
                f"float16 ({len(records)}, D) is needed."
            )
        data = tar_bytes(images_NHW3, records, features_ND)
        self.adopt(group_id, data, receipt_of(self.key, len(records), data, facts or {}))

    def adopt(self, group_id: int, data: bytes, receipt: Mapping[str, Any]) -> None:
        """Commit a shard that was made elsewhere.

        Args:
            group_id: from 0, without gaps over the whole set.
            data: of the shard.
            receipt: that belongs to it, see ``receipt_of``.

        Raises:
            ResourceError: the disk is full or not writable; committed groups stay.
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
            info: facts for the manifest beside the counts of images and groups.
            beside: names of other files in the folder that belong to the set.

        Raises:
            ArtifactError: there is no group, one is missing, or a shard is not what its receipt says.
        """
        receipts = self._receipts()
        expected = [shard_name(number) for number in range(len(receipts))]
        if not receipts or sorted(receipts) != expected:
            missing = sorted({*expected, shard_name(0)} - set(receipts))[0]
            raise _missing(self.folder / missing)
        files = [name for shard in expected for name in (shard, shard.replace(".tar", ".json"))]
        counts = {"groups": len(expected), "images": sum(int(receipt["images"]) for receipt in receipts.values())}
        manifest = commit_manifest(self.folder, self.key, [*files, *beside], {**(info or {}), **counts})
        for shard, receipt in receipts.items():
            if manifest.files[shard] != receipt["sha256"]:
                (self.folder / MANIFEST).unlink()
                raise self._disowned(shard)
        return manifest

    def read(self, groups: int) -> SurrogateSet:
        """The images of the first groups, before the folder is a surrogate set.

        Args:
            groups: how many; all of them committed.

        Raises:
            ArtifactError: one is missing, or not what its receipt says.
        """
        receipts, expected = self._receipts(), [shard_name(number) for number in range(groups)]
        for shard in expected:
            if shard not in receipts:
                raise _missing(self.folder / shard)
            if sha256_file(self.folder / shard) != receipts[shard]["sha256"]:
                raise self._disowned(shard)
        return SurrogateSet.read([self.folder / shard for shard in expected])

    def _disowned(self, shard: str) -> ArtifactError:
        """Make a shard count no more; returns what to raise."""
        (self.folder / shard).with_suffix(".json").unlink()
        return ArtifactError(
            f"{self.folder / shard} was altered after it was written. Run the same command again: it is made anew."
        )

    def _receipts(self) -> dict[str, dict[str, Any]]:
        found = {}
        for path in sorted(self.folder.glob("shard-*.json")):
            shard = path.with_suffix(".tar")
            try:
                receipt = read_json(path)
                if receipt["key"] == self.key and shard.stat().st_size == receipt["size"]:
                    found[shard.name] = receipt
            except (ArtifactError, KeyError, TypeError, FileNotFoundError):
                continue  # not a receipt of ours, or without its shard: the group is simply made again
        return found
