"""What is foretold: intervals against what is known, and what is said."""

import numpy as np
import pytest

from clipstill.core.foresight import (
    Estimate,
    Foresight,
    by_confidence,
    by_names,
    known_best,
    measured,
    measured_photos,
    of_student,
)


@pytest.mark.parametrize(("share", "count"), [(0.5, 10), (0.9, 20), (0.3, 40), (0.97, 60)])
def test_a_measured_interval_holds_the_truth_in_eighty_of_a_hundred_cases(share: float, count: int) -> None:
    right = np.random.default_rng(0).binomial(count, share, 4000) / count
    told = [measured(each, count, "").photos for each in right]
    inside = np.mean([each is not None and each.low <= share <= each.high for each in told])
    assert 0.72 <= inside <= 0.92


def test_what_is_known_better_has_a_narrower_interval() -> None:
    def width(told: Foresight) -> float:
        assert told.photos is not None
        return told.photos.high - told.photos.low

    assert width(measured(0.8, 1000, "")) < width(by_confidence(0.8, 200)) < width(by_confidence(0.8, 10))
    assert width(by_confidence(0.8, 200)) < width(by_names(0.8)) < width(of_student(by_names(0.8)))


def test_drawings_are_foretold_below_photos_and_students_below_teachers() -> None:
    told = by_names(0.9)
    assert told.photos is not None
    assert told.drawings is not None
    assert told.drawings.share < told.photos.share
    assert of_student(told).share < told.photos.share  # type: ignore[operator]


def test_nothing_is_told_where_nothing_is_known() -> None:
    strange = Foresight("names alone", reason="the names are strange")
    assert strange.share is None
    assert of_student(strange) == strange
    assert strange.text() == "cannot tell: the names are strange. 10 labelled photos in all measure it"


def test_a_measured_share_replaces_what_was_foretold_from_ten_photos_on() -> None:
    foretold = Foresight("names alone", Estimate(0.9, 0.8, 0.95))
    found = {"n": 40, "student_top1": 0.9, "right_and_answered": 0.5}
    assert known_best(foretold.to_json(), None) == foretold
    assert known_best(foretold.to_json(), {**found, "n": 9}) == foretold
    assert (
        known_best(foretold.to_json(), found).text() == "50.0 % (80 % interval 40.1 to 59.9 %), by 40 labelled photos"
    )


def test_a_foretold_share_claims_no_decimal() -> None:
    assert Estimate(0.8818, 0.8139, 0.9301).text() == "about 88 % (80 % interval 81 to 93 %)"


def test_a_share_by_names_says_how_doubtful_names_were_taken() -> None:
    assert by_names(0.8).text().endswith(", by names alone")
    assert by_names(0.8, ["elefant as a guess"]).text().endswith(", by names alone, taking elefant as a guess")


def test_the_photos_of_a_number_say_which_classes_have_none() -> None:
    def found(**per_class: float | None) -> dict[str, object]:
        return {"n": 1234, "student": {"classes": list(per_class), "per_class": list(per_class.values())}}

    assert measured_photos(found(dog=1.0, cat=0.0)) == "1,234 labelled photos"
    assert measured_photos(found(dog=1.0, cat=None)) == "1,234 labelled photos in 1 of the 2 classes (none of cat)"
    dogs = {**found(dog=1.0, cat=None), "right_and_answered": 1.0}
    assert known_best(Foresight("names alone").to_json(), dogs).text().endswith("1 of the 2 classes (none of cat)")
