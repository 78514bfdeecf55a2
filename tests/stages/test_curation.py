"""How diverse the images of each class are, as the stages write it down."""

from pathlib import Path

import pytest
import torch

from clipstill.stages.curation import curation_facts, curation_line
from clipstill.surrogate.dataset import ImageRecord, SurrogateSet
from clipstill.teachers import load_teacher
from clipstill.text.prompts import Prompt


def test_a_class_without_any_image_is_named_as_such() -> None:
    records = [ImageRecord(0, 0, i, i, "", 0.0, 0.5, 8, "pixels", 2) for i in range(2)]
    images = SurrogateSet([(Path("none"), "")] * 2, records)
    images.__dict__["features_ND"] = torch.eye(2)
    prompts = [Prompt(class_id, 0, i, i, "") for i in range(2) for class_id in range(2)]
    facts = curation_facts(images, prompts, ("dog", "guitar"), None)
    dog, guitar = facts["classes"]
    assert (dog["mean_score"], dog["effective_number"]) == (0.5, 2.0)
    assert (guitar["made"], guitar["not_made"], guitar["mean_score"], guitar["effective_number"]) == (0, 2, None, 0.0)
    assert curation_line(facts) == "2 images; diversity of a class (Vendi score) 0.0 (guitar) to 2.0 (dog), median 1.0"


def test_range_and_median_are_of_the_same_classes_where_one_was_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def images_of(*pairs: tuple[int, int]) -> SurrogateSet:
        records = [
            ImageRecord(class_id, 0, i, seed, "", 0.0, 0.5, 8, "pixels", 2) for i, (class_id, seed) in enumerate(pairs)
        ]
        return SurrogateSet([(Path("none"), "")] * len(records), records)

    monkeypatch.setattr(
        SurrogateSet, "features_ND", property(lambda them: torch.eye(4)[[r.seed for r in them.records]])
    )
    dogs_and_cats, zebras = images_of((0, 0), (0, 0), (1, 1), (1, 1)), images_of((2, 2), (2, 3))
    asked = [Prompt(2, 0, i, i, "") for i in range(2)]
    facts = curation_facts(zebras, asked, ("dog", "cat", "zebra"), dogs_and_cats)
    (zebra,) = facts["classes"]
    assert zebra["effective_number"] > 1.5  # Dogs and cats have 1 each.
    assert facts["median_effective_number"] == zebra["effective_number"]


def test_features_in_a_set_are_those_of_its_pictures(quick_run: Path) -> None:
    images = SurrogateSet.open(quick_run / "stages" / "surrogate")
    with torch.no_grad():
        expected_ND = load_teacher("embedded-s", torch.device("cpu")).encode_image(images.pixels_N3HW.float() / 255)
    assert torch.allclose(images.features_ND.float(), expected_ND, atol=2e-3)
