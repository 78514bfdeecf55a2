"""Shards: nothing lost, nothing repeated, the same bytes again."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from clipstill.core.errors import ArtifactError, ResourceError
from clipstill.core.files import read_manifest, verify_files
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.surrogate.shards import ShardWriter

SIZE = 8


def group(number: int, members: int = 3) -> tuple[NDArray[np.uint8], list[ImageRecord]]:
    draw = np.random.default_rng(number)
    images = draw.integers(0, 256, (members, SIZE, SIZE, 3), dtype=np.uint8)
    records = [
        ImageRecord(place, number % 2, number, 2**62 + place, f"a dög {place}", 0.25, 0.5, SIZE, "pixels", 2)
        for place in range(members)
    ]
    return images, records


def fill(folder: Path, groups: int = 3, key: str = "k") -> ShardWriter:
    writer = ShardWriter(folder, key)
    for number in range(groups):
        writer.write_group(number, *group(number))
    return writer


def test_what_is_written_is_read_back_exactly_and_in_order(tmp_path: Path) -> None:
    fill(tmp_path, 11).finish()
    surrogate = SurrogateSet.open(tmp_path)
    pictures = np.concatenate([group(number)[0] for number in range(11)])
    assert len(surrogate) == 33
    assert np.array_equal(surrogate.pixels_N3HW.numpy(), pictures.transpose(0, 3, 1, 2))
    assert surrogate.records == [record for number in range(11) for record in group(number)[1]]
    assert surrogate.class_id_N.tolist() == [0, 1, 2] * 11
    assert surrogate.style_id_N.tolist() == [number % 2 for number in range(11) for _ in range(3)]


def test_the_same_images_give_the_same_bytes_in_any_order(tmp_path: Path) -> None:
    one = fill(tmp_path / "one").finish()
    two_writer = ShardWriter(tmp_path / "two", "k")
    for number in (2, 0, 1, 2):
        two_writer.write_group(number, *group(number))
    assert two_writer.finish() == one


def test_the_manifest_counts_and_verifies(tmp_path: Path) -> None:
    manifest = fill(tmp_path).finish({"seconds": 1.5})
    assert manifest.info == {"seconds": 1.5, "groups": 3, "images": 9}
    assert read_manifest(tmp_path) == manifest
    verify_files(tmp_path, manifest)


def test_pictures_say_that_a_model_made_them(tmp_path: Path) -> None:
    fill(tmp_path, 1)
    with tarfile.open(tmp_path / "shard-00000.tar") as tar:
        assert tar.getnames()[:2] == ["000000.png", "000000.json"]
        stream = tar.extractfile("000000.png")
        assert stream is not None
        picture = Image.open(io.BytesIO(stream.read()))
    picture.load()
    assert picture.info["DigitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert "trainedAlgorithmicMedia" in picture.info["XML:com.adobe.xmp"]


def test_a_new_writer_goes_on_where_the_old_one_stopped(tmp_path: Path) -> None:
    assert ShardWriter(tmp_path / "none", "k").committed() == set()
    fill(tmp_path, 2)
    assert ShardWriter(tmp_path, "k").committed() == {0, 1}


def test_groups_of_another_key_do_not_count_and_are_written_over(tmp_path: Path) -> None:
    fill(tmp_path, 2, key="old").finish()
    writer = ShardWriter(tmp_path, "new")
    assert writer.committed() == set()
    writer.write_group(0, *group(7))
    assert writer.committed() == {0}
    assert ShardWriter(tmp_path, "old").committed() == {1}
    assert read_manifest(tmp_path) is None


def test_a_shard_without_receipt_or_of_another_size_does_not_count(tmp_path: Path) -> None:
    writer = fill(tmp_path, 4)
    (tmp_path / "shard-00000.json").unlink()
    (tmp_path / "shard-00001.tar").unlink()
    (tmp_path / "shard-00002.tar").write_bytes(b"short")
    (tmp_path / "shard-00003.json").write_text("{")
    assert writer.committed() == set()


def test_a_set_with_a_missing_group_is_not_finished(tmp_path: Path) -> None:
    writer = fill(tmp_path)
    (tmp_path / "shard-00001.json").unlink()
    with pytest.raises(ArtifactError, match=r"shard-00001\.tar is missing"):
        writer.finish()
    with pytest.raises(ArtifactError, match=r"shard-00000\.tar is missing"):
        ShardWriter(tmp_path / "none", "k").finish()
    assert read_manifest(tmp_path) is None


def test_a_shard_altered_before_the_end_is_made_again(tmp_path: Path) -> None:
    writer = fill(tmp_path)
    shard = tmp_path / "shard-00001.tar"
    data = bytearray(shard.read_bytes())
    data[700] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtifactError, match="altered"):
        writer.finish()
    assert writer.committed() == {0, 2}
    writer.write_group(1, *group(1))
    writer.finish()


def test_an_incomplete_or_altered_set_is_not_opened(tmp_path: Path) -> None:
    writer = fill(tmp_path)
    with pytest.raises(ArtifactError, match="no complete surrogate set"):
        SurrogateSet.open(tmp_path)
    writer.finish()
    (tmp_path / "shard-00002.tar").write_bytes(b"")
    with pytest.raises(ArtifactError, match=r"shard-00002\.tar was altered"):
        SurrogateSet.open(tmp_path)


def test_an_unwritable_place_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        ShardWriter(tmp_path / "file" / "set", "k").write_group(0, *group(0))


# The child writes groups for ever, each again and again; the parent kills it at a moment of its choosing.
CHILD = """
import sys
from pathlib import Path
sys.path[:0] = {paths!r}
from tests.surrogate.test_shards import group
from clipstill.surrogate.shards import ShardWriter
writer = ShardWriter(Path({folder!r}), "k")
print("ready", flush=True)
while True:
    for number in range(4):
        writer.write_group(number, *group(number))
"""


def test_a_diverged_image_is_refused_by_name(tmp_path: Path) -> None:
    images, records = group(0, 1)
    bad = ImageRecord(0, 0, 4, 1, "a dog", float("nan"), 0.5, SIZE, "pixels", 2)
    with pytest.raises(ArtifactError, match="image 4 of class 0"):
        ShardWriter(tmp_path, "k").write_group(0, images, [bad])
    assert records[0] == ImageRecord.from_json(records[0].to_json())


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs kill -9")
@pytest.mark.parametrize("milliseconds", [1, 7, 23])
def test_a_killed_writer_leaves_only_whole_groups(tmp_path: Path, milliseconds: int) -> None:
    expected = fill(tmp_path / "whole", 4).finish()
    folder = tmp_path / "killed"
    root = Path(__file__).parents[2]
    code = CHILD.format(paths=[str(root), str(root / "src")], folder=str(folder))
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            child.wait(timeout=milliseconds / 1000)
        except subprocess.TimeoutExpired:
            os.kill(child.pid, signal.SIGKILL)
    writer = ShardWriter(folder, "k")
    for number in {0, 1, 2, 3} - writer.committed():
        writer.write_group(number, *group(number))
    assert writer.finish() == expected
    assert len(SurrogateSet.open(folder).pixels_N3HW) == 12
