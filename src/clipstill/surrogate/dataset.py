"""A complete surrogate set, read back for distillation and reports.

Shapes: N images, H x W pixels, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from clipstill.core.errors import ArtifactError
from clipstill.core.files import read_manifest, verify_files
from clipstill.surrogate.records import ImageRecord
from clipstill.surrogate.tarball import read_features, read_pictures, read_shard

if TYPE_CHECKING:
    from torch import Tensor


class SurrogateSet:
    """Synthetic images with class, style and record, in the order of their groups.

    Use ``open``; the constructor only stores.

    Args:
        members: shard and name of each picture.
        records: one a member.
    """

    def __init__(self, members: Sequence[tuple[Path, str]], records: Sequence[ImageRecord]) -> None:
        self.members = list(members)
        self.records = list(records)

    @classmethod
    def open(cls, folder: Path) -> SurrogateSet:
        """Open the set in a folder after checking each file against the manifest. Pictures are decoded on first use.

        Raises:
            ArtifactError: the set is incomplete or altered.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise ArtifactError(f"{folder} holds no complete surrogate set. Run the command that makes it again.")
        verify_files(folder, manifest)
        return cls.read([folder / name for name in sorted(manifest.files) if name.endswith(".tar")])

    @classmethod
    def read(cls, shards: Sequence[Path]) -> SurrogateSet:
        """The images of some shards, in their order; what they hold is not checked against anything.

        Raises:
            ArtifactError: a file is not a shard.
        """
        members: list[tuple[Path, str]] = []
        records: list[ImageRecord] = []
        for shard in shards:
            for picture, record in read_shard(shard):
                members.append((shard, picture))
                records.append(record)
        return cls(members, records)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def images(self) -> Tensor:
        """All pictures: uint8 (N, 3, H, W), decoded once and kept in memory.

        Raises:
            ArtifactError: the set is empty, or its pictures differ in size.
        """
        import torch

        pictures = [
            picture
            for shard, of_shard in groupby(self.members, key=lambda member: member[0])
            for picture in read_pictures(shard, [name for _, name in of_shard])
        ]
        shapes = sorted({picture.shape for picture in pictures})
        if len(shapes) != 1:
            found = ", ".join(f"{height} x {width}" for height, width, _ in shapes) or "none"
            raise ArtifactError(f"a surrogate set needs pictures of one size; found: {found}. Make it again.")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    @cached_property
    def features_ND(self) -> Tensor:
        """What the teacher sees in each image: unit vectors, float16, read once and kept in memory.

        Raises:
            ArtifactError: the set was written without.
        """
        import torch

        vectors = [
            vector
            for shard, of_shard in groupby(self.members, key=lambda member: member[0])
            for vector in read_features(shard, [name for _, name in of_shard])
        ]
        return torch.from_numpy(np.stack(vectors))

    @cached_property
    def class_id(self) -> Tensor:
        """Class of each image: int64 (N,)."""
        import torch

        return torch.tensor([record.class_id for record in self.records], dtype=torch.int64)

    @cached_property
    def style_id(self) -> Tensor:
        """Style of each image: int64 (N,)."""
        import torch

        return torch.tensor([record.style_id for record in self.records], dtype=torch.int64)

    def keep(self, mask_N: Tensor) -> SurrogateSet:
        """The images where the mask is true, in the same order; nothing on disk changes.

        Args:
            mask_N: bool.

        Raises:
            ArtifactError: the mask has another length.
        """
        if len(mask_N) != len(self):
            raise ArtifactError(f"the mask has {len(mask_N)} entries and the surrogate set {len(self)} images.")
        chosen = [position for position, keep in enumerate(mask_N.tolist()) if keep]
        return SurrogateSet([self.members[i] for i in chosen], [self.records[i] for i in chosen])

    def of_classes(self, position_of: Mapping[int, int]) -> SurrogateSet:
        """The images of some classes, numbered as another task has them; nothing on disk changes.

        Args:
            position_of: class id here -> class id there.
        """
        chosen = [place for place, record in enumerate(self.records) if record.class_id in position_of]
        records = [replace(self.records[i], class_id=position_of[self.records[i].class_id]) for i in chosen]
        return SurrogateSet([self.members[i] for i in chosen], records)

    @classmethod
    def joined(cls, parts: Sequence[SurrogateSet]) -> SurrogateSet:
        """The images of several sets as one, in their order."""
        members = [member for part in parts for member in part.members]
        return cls(members, [record for part in parts for record in part.records])
