"""Reads a surrogate set: records, pixels and features of the synthetic images.

A shard is a plain tar with ``000000.png``, ``000000.json`` and ``000000.safetensors`` (the teacher's vector) for each
image.

Shapes: N images, H x W pixels, D teacher dimensions.
"""

from __future__ import annotations

import io
import json
import math
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from safetensors import SafetensorError

from clipstill.core.errors import ArtifactError
from clipstill.core.files import parse_json, read_manifest, verify_files
from clipstill.core.records import checked

if TYPE_CHECKING:
    from torch import Tensor

# Name of the vector in an image's safetensors.
FEATURE = "feature"
Decoded = TypeVar("Decoded")


@dataclass(frozen=True)
class ImageRecord:
    """Facts about one synthetic image.

    Attributes:
        class_id: Position of its class in the task.
        style_id: Position of its style in the run's list.
        index: Number of the image within its class.
        prompt: Text that it was made to match.
        loss: Last value of its objective.
        score: The teacher's probability of its class, in [0, 1].
        image_size: Side in pixels.
        steps: Optimiser steps; 0 for an image that was not inverted.
        codes: Codebook indices, row by row, which determine the image; None without a codebook.
    """

    class_id: int
    style_id: int
    index: int
    seed: int
    prompt: str
    loss: float
    score: float
    image_size: int
    generator: str
    steps: int
    codes: list[int] | None = None

    def to_json(self) -> str:
        """One line of JSON with sorted keys.

        Raises:
            ArtifactError: The loss or the score is not a number, as of a teacher whose half precision overflows.
        """
        if not (math.isfinite(self.loss) and math.isfinite(self.score)):
            raise ArtifactError(
                f"image {self.index} of class {self.class_id} ('{self.prompt}') ended with loss {self.loss} and score "
                f"{self.score}. Its synthesis diverged; use a smaller synthesis.lr, or teacher.precision=fp32."
            )
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> ImageRecord:
        """Read what ``to_json`` returned; a ``ValueError`` or an ``ArtifactError`` where it is damaged."""
        return checked(parse_json(text), cls, "the record of an image")


class SurrogateSet:
    """Synthetic images in the order of their groups: shard and PNG name of each, and its record. Use ``open``."""

    def __init__(self, members: Sequence[tuple[Path, str]], records: Sequence[ImageRecord]) -> None:
        self.members, self.records = list(members), list(records)

    @classmethod
    def open(cls, folder: Path) -> SurrogateSet:
        """Open the set in a folder and check each file against the manifest. Images are decoded on first use.

        Raises:
            ArtifactError: The set is incomplete or altered.
        """
        manifest = read_manifest(folder)
        if manifest is None:
            raise ArtifactError(f"{folder} holds no complete surrogate set. Run the command that makes it again.")
        verify_files(folder, manifest)
        return cls.read([folder / name for name in sorted(manifest.files) if name.endswith(".tar")])

    @classmethod
    def read(cls, shards: Sequence[Path]) -> SurrogateSet:
        """The images of some shards, without a check against receipts or a manifest.

        Raises:
            ArtifactError: A shard is damaged.
        """
        members: list[tuple[Path, str]] = []
        records: list[ImageRecord] = []
        for shard in shards:
            with _open_shard(shard) as tar:
                for name in tar.getnames():
                    if name.endswith(".json"):
                        members.append((shard, name.replace(".json", ".png")))
                        records.append(ImageRecord.from_json(_content(tar, name)))
        return cls(members, records)

    def __len__(self) -> int:
        return len(self.records)

    @cached_property
    def pixels_N3HW(self) -> Tensor:
        """All images, uint8, decoded once.

        Raises:
            ArtifactError: The set is empty, its images differ in size, or one cannot be decoded.
        """
        import torch
        from PIL import Image

        pictures = self.decoded(".png", lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB")))
        shapes = sorted({picture.shape for picture in pictures})
        if len(shapes) != 1:
            found = ", ".join(f"{height} x {width}" for height, width, _ in shapes) or "none"
            raise ArtifactError(f"a surrogate set needs pictures of one size; found: {found}. Make it again.")
        return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).contiguous()

    @cached_property
    def features_ND(self) -> Tensor:
        """The teacher's unit vectors of the images, float16, read once.

        Raises:
            ArtifactError: The set was written without features, or one cannot be read.
        """
        import torch
        from safetensors.torch import load

        return torch.stack(self.decoded(".safetensors", lambda data: load(data)[FEATURE]))

    def decoded(self, suffix: str, decode: Callable[[bytes], Decoded]) -> list[Decoded]:
        """The decoded content of one file of each image, such as ``.png``; ``ArtifactError`` if a shard is damaged."""
        found = []
        for shard, members in groupby(self.members, key=lambda member: member[0]):
            with _open_shard(shard) as tar:
                found += [decode(_content(tar, picture.replace(".png", suffix))) for _, picture in members]
        return found

    @cached_property
    def class_id_N(self) -> Tensor:
        """Class of each image, int64."""
        import torch

        return torch.tensor([record.class_id for record in self.records], dtype=torch.int64)

    @cached_property
    def style_id_N(self) -> Tensor:
        """Style of each image, int64."""
        import torch

        return torch.tensor([record.style_id for record in self.records], dtype=torch.int64)

    def keep(self, mask_N: Tensor) -> SurrogateSet:
        """The images where the bool mask is true, in the same order."""
        chosen = mask_N.nonzero().flatten().tolist()
        return SurrogateSet([self.members[i] for i in chosen], [self.records[i] for i in chosen])

    def of_classes(self, position_of: Mapping[int, int]) -> SurrogateSet:
        """The images of some classes, renumbered by ``position_of``: class id here -> class id in the result."""
        chosen = [place for place, record in enumerate(self.records) if record.class_id in position_of]
        records = [replace(self.records[i], class_id=position_of[self.records[i].class_id]) for i in chosen]
        return SurrogateSet([self.members[i] for i in chosen], records)

    @classmethod
    def joined(cls, parts: Sequence[SurrogateSet]) -> SurrogateSet:
        """The images of several sets as one set, in order."""
        members = [member for part in parts for member in part.members]
        return cls(members, [record for part in parts for record in part.records])


@contextmanager
def _open_shard(path: Path) -> Iterator[tarfile.TarFile]:
    """Open a shard to read it; an ``ArtifactError`` says that it is damaged."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield tar
    except (OSError, tarfile.TarError, SafetensorError, ValueError, TypeError, KeyError) as error:
        raise ArtifactError(
            f"{path} is not a shard of synthetic images ({error}). Make the surrogate set again."
        ) from None


def _content(tar: tarfile.TarFile, name: str) -> bytes:
    stream = tar.extractfile(name)
    return b"" if stream is None else stream.read()
