"""Shards on a shared storage, here a folder: whole, told apart, and refused where they are damaged."""

import json
from pathlib import Path

import numpy as np
import pytest

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.seeds import generator_for
from clipstill.surrogate.dataset import ImageRecord
from clipstill.surrogate.shards import ShardWriter, receipt_of, tar_bytes

pytest.importorskip("fsspec")

from clipstill.surrogate.storage import ShardStorage

KEY = "a" * 64


def shard(seed: int, key: str = KEY) -> tuple[bytes, dict[str, object]]:
    import torch

    pixels = torch.randint(0, 256, (2, 8, 8, 3), generator=generator_for(seed, "storage"), dtype=torch.uint8).numpy()
    record = ImageRecord(0, 0, 0, seed, "a dog", 0.5, 0.9, 8, "pixels", 2)
    data = tar_bytes(np.asarray(pixels), [record, record])
    return data, receipt_of(key, 2, data, {"seconds": 1.0})


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_what_was_left_is_gathered_byte_for_byte(tmp_path: Path) -> None:
    storage = ShardStorage((tmp_path / "shared").as_uri(), KEY)
    data, receipt = shard(1)
    storage.write(4, data, receipt)
    shards = ShardWriter(tmp_path / "here", KEY)
    assert storage.gather(shards, [3, 4, 5]) == [4]
    assert shards.committed() == {4}
    assert (tmp_path / "here" / "shard-00004.tar").read_bytes() == data


def test_sets_of_another_key_are_not_seen(tmp_path: Path) -> None:
    address = (tmp_path / "shared").as_uri()
    ShardStorage(address, "b" * 64).write(0, *shard(1, "b" * 64))
    assert ShardStorage(address, KEY).gather(ShardWriter(tmp_path / "here", KEY), [0]) == []


def test_a_damaged_shard_is_refused(tmp_path: Path) -> None:
    storage = ShardStorage((tmp_path / "shared").as_uri(), KEY)
    storage.write(0, *shard(1))
    tar = next(path for path in files(tmp_path / "shared") if path.suffix == ".tar")
    tar.write_bytes(tar.read_bytes()[:-1] + b"x")
    shards = ShardWriter(tmp_path / "here", KEY)
    with pytest.raises(ArtifactError, match=r"Delete shard-00000.json there"):
        storage.gather(shards, [0])
    assert shards.committed() == set()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"sha256": 3}', '{"key": "x", "sha256": "y"}'])
def test_a_receipt_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    storage = ShardStorage((tmp_path / "shared").as_uri(), KEY)
    storage.write(0, *shard(1))
    next(path for path in files(tmp_path / "shared") if path.suffix == ".json").write_text(text)
    with pytest.raises(ArtifactError, match="do not belong together"):
        storage.gather(ShardWriter(tmp_path / "here", KEY), [0])


def test_a_shard_without_its_receipt_does_not_count(tmp_path: Path) -> None:
    storage = ShardStorage((tmp_path / "shared").as_uri(), KEY)
    storage.write(0, *shard(1))
    next(path for path in files(tmp_path / "shared") if path.suffix == ".json").unlink()
    assert storage.gather(ShardWriter(tmp_path / "here", KEY), [0]) == []


def test_two_that_make_one_group_leave_the_files_of_one(tmp_path: Path) -> None:
    first, second = (ShardStorage((tmp_path / "shared").as_uri(), KEY) for _ in range(2))
    for storage in (first, second):
        storage.write(0, *shard(1))
    assert [path.suffix for path in files(tmp_path / "shared")] == [".tar", ".json"]


def test_a_receipt_keeps_its_shard_when_another_worker_drew_differently(tmp_path: Path) -> None:
    storage = ShardStorage((tmp_path / "shared").as_uri(), KEY)
    data, receipt = shard(1)
    storage.write(0, data, receipt)
    # What a second worker leaves that is killed between its shard and its receipt.
    storage.write(0, *shard(2))
    place = next(path for path in files(tmp_path / "shared") if path.suffix == ".json")
    place.write_text(json.dumps(receipt))
    shards = ShardWriter(tmp_path / "here", KEY)
    assert storage.gather(shards, [0]) == [0]
    assert (tmp_path / "here" / "shard-00000.tar").read_bytes() == data


def test_a_plain_path_is_the_same_place_from_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert ShardStorage("shared", KEY).address == (tmp_path / "shared").as_uri()
    assert (tmp_path / "shared").is_dir()


@pytest.mark.parametrize("address", ["nosuch://bucket/run", "simplecache::nosuch://bucket/run"])
def test_an_address_of_no_known_kind_is_told(address: str) -> None:
    with pytest.raises(ResourceError, match="install what fsspec needs"):
        ShardStorage(address, KEY)


def test_a_storage_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be used"):
        ShardStorage(str(tmp_path / "file" / "below"), KEY)
