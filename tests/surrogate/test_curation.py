"""Which synthetic images stay."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.stages.curation import kept_facts
from clipstill.surrogate.curation import curate
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.surrogate.shards import ShardWriter
from clipstill.workflow.recipes import load_settings


def scored(*scores: tuple[int, float]) -> SurrogateSet:
    records = [
        ImageRecord(class_id, 0, i, i, "", 0.0, score, 8, "pixels", 2) for i, (class_id, score) in enumerate(scores)
    ]
    return SurrogateSet([(Path("none"), "")] * len(records), records)


def seen(*images: tuple[int, float, int]) -> SurrogateSet:
    """Class, score and what the picture shows, orthogonal to all others."""
    surrogate = scored(*[(class_id, score) for class_id, score, _ in images])
    # Where features are kept once they are read.
    surrogate.__dict__["features_ND"] = torch.eye(32)[[shown for _, _, shown in images]].half()
    return surrogate


def test_an_image_far_below_its_own_class_is_dropped() -> None:
    surrogate = scored((0, 0.9), (0, 0.8), (0, 0.3), (1, 0.3), (1, 0.2), (1, 0.25))
    assert curate(surrogate, 0.5).keep_N.tolist() == [True, True, False, True, True, True]


def test_zero_keeps_everything_and_one_keeps_the_better_half() -> None:
    surrogate = scored((0, 0.0), (0, 0.2), (0, 0.6), (0, 0.8))
    assert curate(surrogate, 0.0).keep_N.all()
    assert curate(surrogate, 1.0).keep_N.tolist() == [False, False, True, True]


def test_at_least_half_of_every_class_stays() -> None:
    draw = np.random.default_rng(0)
    surrogate = scored(*[(int(draw.integers(3)), float(draw.random() ** 4)) for _ in range(60)])
    kept = curate(surrogate, 1.0).keep_N
    for class_id in range(3):
        assert kept[surrogate.class_id_N == class_id].float().mean() >= 0.5


def test_a_fraction_outside_its_range_is_refused() -> None:
    with pytest.raises(ConfigError, match="between 0 and 1"):
        load_settings(overrides=["curation.min_score=1.5"])


def test_the_better_one_of_a_pair_stays() -> None:
    surrogate = seen((0, 0.7, 1), (0, 0.9, 1), (0, 0.8, 2), (1, 0.5, 3), (1, 0.5, 3), (1, 0.5, 4), (1, 0.4, 1))
    curation = curate(surrogate, 0.5, 0.9)
    assert curation.keep_N.tolist() == [False, True, True, True, False, True, True]
    assert curation.duplicate_N.tolist() == [not kept for kept in curation.keep_N.tolist()]
    assert curation.pairs == {0: 1, 1: 1}
    assert curate(surrogate, 0.5, 1.0).keep_N.all()


def test_an_image_between_two_others_goes_and_they_stay() -> None:
    surrogate = scored((0, 0.9), (0, 0.8), (0, 0.7))
    angles = torch.tensor([0.0, 0.5, 1.0])
    surrogate.__dict__["features_ND"] = torch.stack([angles.cos(), angles.sin()], dim=1)
    curation = curate(surrogate, 0.0, 0.8)  # cos(0.5) is above, cos(1) below
    assert curation.keep_N.tolist() == [True, False, True]
    assert curation.pairs == {0: 2}


def test_a_low_score_does_not_stand_for_its_better_twin() -> None:
    surrogate = seen((0, 0.9, 1), (0, 0.9, 2), (0, 0.1, 3), (0, 0.8, 4), (1, 0.5, 5), (1, 0.5, 6))
    surrogate.features_ND[2] = surrogate.features_ND[3]
    curation = curate(surrogate, 0.5, 0.9)
    assert curation.low_score_N.tolist() == [False, False, True, False, False, False]
    assert not curation.duplicate_N.any()
    assert curation.pairs == {0: 1}


def test_of_nothing_but_duplicates_the_better_half_stays() -> None:
    surrogate = seen(*[(0, score, 1) for score in (0.5, 0.9, 0.6, 0.8, 0.7)], (1, 0.5, 2))
    assert curate(surrogate, 0.0, 0.9).keep_N.tolist() == [False, True, False, True, True, True]


def test_half_of_a_class_stays_whatever_is_asked_for() -> None:
    draw = np.random.default_rng(1)
    surrogate = seen(*[(int(draw.integers(3)), float(draw.random() ** 4), int(draw.integers(6))) for _ in range(60)])
    kept = curate(surrogate, 1.0, 0.1).keep_N
    for class_id in range(3):
        assert kept[surrogate.class_id_N == class_id].float().mean() >= 0.5


@pytest.mark.parametrize("cosine", [0.0, 1.1])
def test_a_cosine_outside_its_range_is_refused(cosine: float) -> None:
    with pytest.raises(ConfigError, match="duplicate_cosine"):
        load_settings(overrides=[f"curation.duplicate_cosine={cosine}"])


def test_what_was_left_out_is_counted_class_by_class() -> None:
    surrogate = seen((0, 0.7, 1), (0, 0.9, 1), (0, 0.8, 2), (2, 0.5, 3), (2, 0.1, 4), (2, 0.5, 5))
    facts = kept_facts(surrogate, curate(surrogate, 0.5, 0.9), 3)
    assert facts[0] == {"kept": 2, "low_score": 0, "duplicates": 1, "duplicate_pairs": 1}
    assert facts[1] == {"kept": 0, "low_score": 0, "duplicates": 0, "duplicate_pairs": 0}
    assert facts[2] == {"kept": 2, "low_score": 1, "duplicates": 0, "duplicate_pairs": 0}


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
    assert torch.equal(part.pixels_N3HW, surrogate.pixels_N3HW[[0, 3]])


def test_an_empty_or_mixed_set_has_no_tensor(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="found: none"):
        _ = scored().pixels_N3HW
    writer = ShardWriter(tmp_path, "k")
    for number, size in enumerate((8, 16)):
        writer.write_group(
            number, np.zeros((1, size, size, 3), np.uint8), [ImageRecord(0, 0, 0, 0, "", 0.0, 1.0, size, "pixels", 2)]
        )
    writer.finish()
    with pytest.raises(ArtifactError, match="8 x 8, 16 x 16"):
        _ = SurrogateSet.open(tmp_path).pixels_N3HW
