"""The ladder's arithmetic against closed forms, and what is recommended on made-up measurements."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

from clipstill.core.errors import ArtifactError
from clipstill.evaluation.ladder import (
    EXAMPLES,
    NOISE,
    OURS,
    PROCEDURAL,
    RUNGS,
    SMALL_TEACHER,
    TEACHER,
    UNLABELLED,
    Cost,
    Ladder,
    Measured,
    Rung,
    difference,
    mcnemar_exact,
    recommend,
)

PHOTOS = 200


def answers(right: int, first: int = 0) -> str:
    """So many right answers of 200, from photo ``first`` on."""
    return "".join("1" if first <= number < first + right else "0" for number in range(PHOTOS))


def measured(
    right: str, megabytes: float | None = 10.0, ms: float | None = 10.0, gflop: float | None = None
) -> Measured:
    return Measured(
        right, 0.1, (0.5, None), Cost(None if megabytes is None else round(1e6 * megabytes), 5, gflop or ms, ms, 2.0)
    )


def rung(name: str, right: int, megabytes: float | None = 10.0, ms: float | None = 10.0) -> Rung:
    return Rung(name, f"the {name}", measured(answers(right), megabytes, ms), command=f"make {name}")


@pytest.mark.parametrize(("first", "second"), [(0, 0), (3, 3), (5, 0), (2, 11), (30, 14)])
def test_mcnemar_is_twice_the_tail_of_a_fair_coin(first: int, second: int) -> None:
    total, fewer = first + second, min(first, second)
    tail = sum(math.comb(total, count) * 0.5**total for count in range(fewer + 1))
    assert mcnemar_exact(first, second) == pytest.approx(min(1.0, 2 * tail), rel=1e-9)
    assert mcnemar_exact(first, second) == mcnemar_exact(second, first)


def test_mcnemar_of_thousands_of_photos_is_the_normal_approximation() -> None:
    z = (2 * 2600 - 5000 - 1) / math.sqrt(5000)  # with the correction for continuity
    assert mcnemar_exact(2600, 2400) == pytest.approx(math.erfc(z / math.sqrt(2)), rel=0.02)


def test_mcnemar_rejects_equal_classifiers_at_most_as_often_as_its_level() -> None:
    chances = np.array([math.comb(60, k) * 0.5**60 for k in range(61)])
    rejected = np.array([mcnemar_exact(k, 60 - k) < 0.05 for k in range(61)])
    assert 0.02 < float(chances[rejected].sum()) <= 0.05


def test_bootstrap_has_the_spread_of_paired_differences() -> None:
    first, second = answers(150), answers(130, first=10)
    plus = sum(a > b for a, b in zip(first, second, strict=True))
    minus = sum(a < b for a, b in zip(first, second, strict=True))
    gap = difference(measured(first), measured(second))
    assert gap.share == pytest.approx((plus - minus) / PHOTOS)
    deviation = math.sqrt((plus + minus) - (plus - minus) ** 2 / PHOTOS) / PHOTOS
    assert (gap.high - gap.low) / (2 * 1.96) == pytest.approx(deviation, rel=0.06)
    assert gap.low < gap.share < gap.high


def test_a_difference_is_measurable_where_its_interval_excludes_0() -> None:
    for plus in range(16):
        for minus in range(16):
            both = "1" * (PHOTOS - plus - minus)
            gap = difference(measured("1" * plus + "0" * minus + both), measured("0" * plus + "1" * minus + both))
            assert gap.measurable == (gap.low > 0 or gap.high < 0), (plus, minus)


def test_photos_that_both_name_right_say_nothing() -> None:
    few = difference(measured("1100" + "0" * 6), measured("0000" + "0" * 6))
    many = difference(measured("1100" + "1" * 96), measured("0000" + "1" * 96))
    assert few.p == many.p == 0.5


def test_a_small_teacher_that_is_measurably_better_and_affordable_is_shipped() -> None:
    found = recommend([rung(OURS, 140), rung(SMALL_TEACHER, 170, 25.0, 20.0)])
    assert found.ship == SMALL_TEACHER
    assert found.choice.startswith("Ship the small-teacher: with no photo refused")
    assert "85.0 % right, the student 70.0 % (15.0 points more than the student)" in found.choice
    assert "; it takes 2.5 times the space and 2.0 times the arithmetic a picture" in found.choice
    assert found.command == "make small-teacher"


def test_below_fifty_photos_nothing_is_to_ship() -> None:
    few = [Rung(name, name, measured("1" * right + "0" * (49 - right))) for name, right in ((OURS, 20), (TEACHER, 48))]
    assert recommend(few).ship is None
    assert recommend(few).choice.startswith(
        "49 photos are too few to say which to ship; it takes 50. So far: ours 40.8 %"
    )


def test_a_busy_clock_does_not_turn_the_advice() -> None:
    small = Rung(SMALL_TEACHER, "small", measured(answers(170), 20.0, ms=99.0, gflop=16.0))
    assert (
        recommend([Rung(OURS, "ours", measured(answers(140), 10.0, ms=5.0, gflop=10.0)), small]).ship == SMALL_TEACHER
    )


def test_equal_within_noise_the_cheaper_one_is_shipped() -> None:
    dearer = recommend([rung(OURS, 140), rung(SMALL_TEACHER, 143, 20.0, 12.0)])
    assert dearer.ship == OURS
    assert "no measurable difference" in dearer.choice
    assert recommend([rung(OURS, 140), rung(SMALL_TEACHER, 137, 10.5, 10.9)]).ship == SMALL_TEACHER
    assert recommend([rung(OURS, 140), rung(SMALL_TEACHER, 100, 5.0, 5.0)]).ship == OURS


def test_a_better_teacher_beyond_the_limit_of_cost_is_named_with_its_price() -> None:
    found = recommend([rung(OURS, 140), rung(SMALL_TEACHER, 141, 20.0, 20.0), rung(TEACHER, 190, 60.0, 70.0)])
    assert found.ship == OURS
    assert "the teacher reaches 95.0 %, 25.0 points more than the student, and takes 6.0 times the space" in found.more


def test_a_teacher_that_cannot_be_exported_is_never_shipped() -> None:
    found = recommend([rung(OURS, 140), rung(TEACHER, 190, None, None)])
    assert found.ship == OURS
    assert "takes space and arithmetic that were not measured" in found.choice


def test_photos_are_recommended_where_they_help_measurably() -> None:
    base = [rung(OURS, 140), rung(SMALL_TEACHER, 120)]
    assert recommend([*base, rung(EXAMPLES, 142)]).better_with is None
    found = recommend([*base, rung(EXAMPLES, 160), rung(UNLABELLED, 155)])
    assert (found.ship, found.better_with) == (OURS, EXAMPLES)
    assert "Better with photos: the examples reaches 80.0 %" in found.more


def test_photos_that_make_a_cheaper_rung_as_good_are_told_of() -> None:
    base = [rung(OURS, 120), rung(SMALL_TEACHER, 160, 25.0, 20.0)]
    found = recommend([*base, rung(EXAMPLES, 158)])
    assert (found.ship, found.better_with) == (SMALL_TEACHER, EXAMPLES)
    assert (
        "Cheaper with photos: the examples reaches 79.0 %, no measurable difference, and takes 60 % less space"
        in found.more
    )
    assert recommend([*base, rung(EXAMPLES, 140)]).better_with is None


def test_synthetic_images_that_teach_no_better_than_pictures_of_nothing_are_told_of_once() -> None:
    base = [rung(OURS, 140), rung(SMALL_TEACHER, 120)]
    assert "synthetic images" not in recommend([*base, rung(NOISE, 30), rung(PROCEDURAL, 90)]).more
    found = recommend([*base, rung(NOISE, 30), rung(PROCEDURAL, 136)])
    assert found.more.startswith(
        "the procedural reaches 68.0 %, so what the synthetic images show taught the student nothing"
    )
    assert found.more.endswith("To get more, give five photos of each class.")
    assert "synthetic images" not in found.choice  # Which other places quote.
    shown = recommend([*base, rung(PROCEDURAL, 136), rung(EXAMPLES, 160)]).more
    assert "give five photos" not in shown  # They were given.
    assert "Better with photos" in shown


def test_nothing_is_recommended_without_a_teacher_or_the_student() -> None:
    assert recommend([rung(OURS, 140), rung(NOISE, 20)]).ship is None
    assert recommend([rung(TEACHER, 140), rung(SMALL_TEACHER, 20)]).ship is None


def test_rungs_survive_json_and_what_was_not_measured_is_no_number() -> None:
    rungs = [rung(OURS, 140), rung(SMALL_TEACHER, 120), Rung(EXAMPLES, "tuned", missing="give --examples DIR")]
    value: dict[str, Any] = json.loads(json.dumps(Ladder.of(rungs, ["dog", "cat"]).to_json()))
    assert Ladder.from_json(value) == Ladder.of(rungs, ["dog", "cat"])
    assert [Rung.from_json(each) for each in value["rungs"]] == rungs
    assert value["n"] == PHOTOS
    assert value["rungs"][0]["measured"]["top1"] == 0.7
    assert value["rungs"][2]["measured"] is None
    assert set(value["against_ours"]) == {SMALL_TEACHER}
    assert value["against_ours"][SMALL_TEACHER]["measurable"] is True
    with pytest.raises(ArtifactError, match="Measure it again"):
        Rung.from_json({"name": OURS})


def test_names_of_rungs_differ() -> None:
    assert len(set(RUNGS)) == len(RUNGS)
