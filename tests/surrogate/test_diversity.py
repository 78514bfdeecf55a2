"""How many different images there are, against closed forms; and features beside the images on the disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.errors import ArtifactError
from clipstill.core.seeds import generator_for
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.surrogate.diversity import by_class, effective_number, effective_numbers, near_duplicates
from clipstill.surrogate.shards import ShardWriter


def drawn(*shape: int) -> Tensor:
    return normalize(torch.randn(shape, generator=generator_for("diversity", *shape), dtype=torch.float64), dim=-1)


def test_the_same_image_many_times_is_one() -> None:
    assert effective_number(drawn(1, 7).expand(5, 7)) == pytest.approx(1)


def test_orthogonal_images_count_each() -> None:
    assert effective_number(torch.eye(9)[:6]) == pytest.approx(6)


def test_two_equal_clusters_are_two() -> None:
    assert effective_number(torch.eye(4)[[0, 0, 0, 3, 3, 3]]) == pytest.approx(2)


def test_two_images_at_an_angle_follow_the_binary_entropy() -> None:
    # Eigenvalues of [[1, c], [c, 1]] / 2 are (1 + c) / 2 and (1 - c) / 2.
    cosine = 0.6
    shares = np.array([(1 + cosine) / 2, (1 - cosine) / 2])
    pair = torch.tensor([[1.0, 0.0], [cosine, 0.8]])
    assert effective_number(pair) == pytest.approx(float(np.exp(-(shares * np.log(shares)).sum())))


def test_more_images_than_dimensions_count_the_same_either_way() -> None:
    unit_MD = drawn(40, 5)
    spectrum = torch.linalg.eigvalsh(unit_MD @ unit_MD.T / 40).clamp_min(1e-15)
    assert effective_number(unit_MD) == pytest.approx(float(torch.exp(-(spectrum * spectrum.log()).sum())), rel=1e-6)


def test_what_all_images_share_hides_no_difference() -> None:
    feat_ND, classes = drawn(30, 16), torch.arange(30) % 3
    numbers = effective_numbers(feat_ND, classes)
    assert effective_numbers(feat_ND + 4 * drawn(1, 16), classes) == pytest.approx(numbers)
    assert max(numbers.values()) > 5


def test_what_one_class_shares_is_seen() -> None:
    feat_ND, classes = drawn(30, 16), torch.arange(30) % 3
    feat_ND[classes == 1] = normalize(feat_ND[classes == 1] + 3 * drawn(1, 16), dim=-1)
    numbers = effective_numbers(feat_ND, classes)
    assert numbers[1] < 0.6 * min(numbers[0], numbers[2])


def test_a_large_class_does_not_move_the_middle() -> None:
    feat_ND, classes = drawn(12, 8), torch.arange(12) % 2
    once = {class_id: unit_MD for class_id, _, unit_MD in by_class(feat_ND, classes)}
    again = torch.cat([feat_ND, feat_ND[classes == 0]]), torch.cat([classes, classes[classes == 0]])
    twice = {class_id: unit_MD for class_id, _, unit_MD in by_class(*again)}
    assert torch.allclose(once[1], twice[1])


def test_classes_of_one_image_all_over_are_one_image_each() -> None:
    feat_ND = drawn(1, 64).half().expand(10, 64)
    assert effective_numbers(feat_ND, torch.arange(10) % 2) == pytest.approx({0: 1, 1: 1}, abs=1e-3)


def test_a_lonely_class_is_not_centred() -> None:
    assert effective_numbers(torch.eye(5), torch.zeros(5, dtype=torch.int64)) == pytest.approx({0: 5})


def test_near_duplicates_are_pairs_from_the_cosine_on() -> None:
    unit_MD = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    assert near_duplicates(unit_MD, 0.7).nonzero().tolist() == [[0, 1], [1, 0]]


def test_features_are_read_back_with_their_pictures(tmp_path: Path) -> None:
    images = np.zeros((3, 8, 8, 3), np.uint8)
    records = [ImageRecord(0, 0, i, i, "", 0.0, 1.0, 8, "pixels", 2) for i in range(3)]
    features = drawn(6, 5).half().numpy()
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, images, records, features_ND=features[:3])
    writer.write_group(1, images, records, features_ND=features[3:])
    writer.finish()
    made = SurrogateSet.open(tmp_path)
    assert np.array_equal(made.features_ND.numpy(), features)
    chosen = torch.tensor([True, False, False, False, True, True])
    assert torch.equal(made.keep(chosen).features_ND, made.features_ND[chosen])


def test_a_set_without_features_is_told(tmp_path: Path) -> None:
    records = [ImageRecord(0, 0, 0, 0, "", 0.0, 1.0, 8, "pixels", 2)]
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, np.zeros((1, 8, 8, 3), np.uint8), records)
    writer.finish()
    with pytest.raises(ArtifactError, match=r"000000\.safetensors"):
        _ = SurrogateSet.open(tmp_path).features_ND


def test_an_altered_shard_is_not_measured_but_made_again(tmp_path: Path) -> None:
    records = [ImageRecord(0, 0, 0, 0, "", 0.0, 1.0, 8, "pixels", 2)]
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, np.zeros((1, 8, 8, 3), np.uint8), records)
    shard = tmp_path / "shard-00000.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ArtifactError, match="was altered"):
        writer.read(1)
    assert writer.committed() == set()
    with pytest.raises(ArtifactError, match="is missing"):
        writer.read(1)
