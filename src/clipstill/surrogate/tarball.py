"""The bytes of one shard: a plain tar with ``000000.png`` and ``000000.json`` for each image.

What the teacher sees in the image lies beside them as ``000000.safetensors``: in the shard, so that it is committed,
fetched and checked with the picture it belongs to.

Shapes: N images, H x W pixels, D teacher dimensions.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from clipstill.core.errors import ArtifactError
from clipstill.core.synthetic_mark import save_marked
from clipstill.surrogate.records import ImageRecord

# Of the tensor in an image's safetensors.
_FEATURE = "feature"


def read_shard(path: Path) -> Iterator[tuple[str, ImageRecord]]:
    """The members of a shard in order: name of the picture, record.

    Raises:
        ArtifactError: the file is not a shard.
    """
    with _open_tar(path) as tar:
        for name in tar.getnames():
            if name.endswith(".json"):
                yield name.replace(".json", ".png"), ImageRecord.from_json(_member(tar, name, path))


def read_pictures(path: Path, names: Sequence[str]) -> Iterator[NDArray[np.uint8]]:
    """Pictures of a shard by name, (H, W, 3) each.

    Raises:
        ArtifactError: one is missing or cannot be decoded.
    """
    with _open_tar(path) as tar:
        for name in names:
            try:
                with Image.open(io.BytesIO(_member(tar, name, path))) as image:
                    yield np.asarray(image.convert("RGB"))
            except OSError as error:
                raise ArtifactError(
                    f"{name} of {path} cannot be decoded ({error}). Make the surrogate set again."
                ) from None


def read_features(path: Path, names: Sequence[str]) -> Iterator[NDArray[np.float16]]:
    """The teacher's unit vectors of pictures of a shard, by the names of the pictures, (D,) each.

    Raises:
        ArtifactError: one is missing or malformed.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with _open_tar(path) as tar:
        for name in names:
            member = name.replace(".png", ".safetensors")
            try:
                yield load(_member(tar, member, path))[_FEATURE]
            except (SafetensorError, KeyError) as error:
                raise ArtifactError(
                    f"{member} of {path} cannot be read ({error}). Make the surrogate set again."
                ) from None


def _open_tar(path: Path) -> tarfile.TarFile:
    try:
        return tarfile.open(path, "r:")
    except (OSError, tarfile.TarError) as error:
        raise ArtifactError(
            f"{path} is not a shard of synthetic images ({error}). Make the surrogate set again."
        ) from None


def _member(tar: tarfile.TarFile, name: str, path: Path) -> bytes:
    try:
        stream = tar.extractfile(name)
    except KeyError:
        stream = None
    if stream is None:
        raise ArtifactError(f"{path} holds no {name}. Make the surrogate set again.")
    return stream.read()


def tar_bytes(
    images_NHW3: NDArray[np.uint8], records: Sequence[ImageRecord], features_ND: NDArray[np.float16] | None = None
) -> bytes:
    """The same images, records and features give the same bytes: no clock, no user, plain ustar headers."""
    from safetensors.numpy import save

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for position, (image_HW3, record) in enumerate(zip(images_NHW3, records, strict=True)):
            parts = {".png": _png_bytes(image_HW3), ".json": record.to_json().encode()}
            if features_ND is not None:
                parts[".safetensors"] = save({_FEATURE: np.ascontiguousarray(features_ND[position])})
            for suffix, data in parts.items():
                member = tarfile.TarInfo(f"{position:06d}{suffix}")  # mtime, uid and gid are 0 unless set
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


def _png_bytes(image_HW3: NDArray[np.uint8]) -> bytes:
    buffer = io.BytesIO()
    save_marked(Image.fromarray(np.ascontiguousarray(image_HW3)), buffer, "PNG")
    return buffer.getvalue()
