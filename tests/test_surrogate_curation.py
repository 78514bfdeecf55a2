"""Which synthetic images stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.surrogate.curation import keep_mask
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.surrogate.records import ImageRecord
from clipstill.surrogate.shards import ShardWriter


def scored(*scores: tuple[int, float]) -> SurrogateSet:
    records = [
        ImageRecord(class_id, 0, i, i, "", 0.0, score, 8, "pixels", 2) for i, (class_id, score) in enumerate(scores)
    ]
    return SurrogateSet([(Path("none"), "")] * len(records), records)


def test_an_image_far_below_its_own_class_is_dropped() -> None:
    surrogate = scored((0, 0.9), (0, 0.8), (0, 0.3), (1, 0.3), (1, 0.2), (1, 0.25))
    assert keep_mask(surrogate, 0.5).tolist() == [True, True, False, True, True, True]


def test_zero_keeps_everything_and_one_keeps_the_better_half() -> None:
    surrogate = scored((0, 0.0), (0, 0.2), (0, 0.6), (0, 0.8))
    assert keep_mask(surrogate, 0.0).all()
    assert keep_mask(surrogate, 1.0).tolist() == [False, False, True, True]


def test_at_least_half_of_every_class_stays() -> None:
    draw = np.random.default_rng(0)
    surrogate = scored(*[(int(draw.integers(3)), float(draw.random() ** 4)) for _ in range(60)])
    kept = keep_mask(surrogate, 1.0)
    for class_id in range(3):
        assert kept[surrogate.class_id == class_id].float().mean() >= 0.5


def test_a_fraction_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        keep_mask(scored((0, 1.0)), 1.5)


def test_keeping_selects_pictures_and_records_alike(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    records = [ImageRecord(i % 2, i, i, i, "", 0.0, 1.0, 8, "pixels", 2) for i in range(4)]
    writer = ShardWriter(tmp_path, "k")
    writer.write_group(0, images[:2], records[:2])
    writer.write_group(1, images[2:], records[2:])
    writer.finish()
    surrogate = SurrogateSet.open(tmp_path)
    part = surrogate.keep(torch.tensor([True, False, False, True]))
    assert part.records == [records[0], records[3]]
    assert torch.equal(part.images, surrogate.images[[0, 3]])
    with pytest.raises(ArtifactError, match="mask has 2"):
        surrogate.keep(torch.tensor([True, False]))


def test_an_empty_or_mixed_set_has_no_tensor(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found: none"):
        _ = scored().images
    writer = ShardWriter(tmp_path, "k")
    for number, size in enumerate((8, 16)):
        writer.write_group(
            number, np.zeros((1, size, size, 3), np.uint8), [ImageRecord(0, 0, 0, 0, "", 0.0, 1.0, size, "pixels", 2)]
        )
    writer.finish()
    with pytest.raises(ArtifactError, match="8 x 8, 16 x 16"):
        _ = SurrogateSet.open(tmp_path).images
