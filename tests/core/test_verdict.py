"""The verdict in words, and the next steps."""

from dataclasses import replace
from typing import Any

import pytest

from clipstill.core.foresight import Estimate, Foresight, measured
from clipstill.core.verdict import UNMEASURED, Advice, Shipped, advise, advise_of_bundle, verdict, which_to_ship


def evaluation_of(photos: int, **per_class: float | None) -> dict[str, Any]:
    """Of photos that are shared evenly by the classes that have a share."""
    each = photos // max(1, sum(share is not None for share in per_class.values()))
    confusion = [[0 if share is None else each] for share in per_class.values()]
    student = {"classes": list(per_class), "per_class": list(per_class.values()), "confusion": confusion}
    return {"n": photos, "right_and_answered": 0.9, "student": student}


@pytest.mark.parametrize(
    ("share", "photos", "classes", "word", "begins"),
    [
        (0.9, 280, 7, "good", "Good: right and answered 90.0 %"),
        (0.9, 49, 7, "good so far", "Good so far: right and answered 90.0 %"),
        (0.7, 280, 7, "weak", "Weak: right and answered 70.0 %"),
        (0.4, 280, 7, "do not use", "Do not use: right and answered 40.0 %"),
        (0.55, 60, 2, "do not use", "Do not use: "),  # Its interval holds a coin's share.
    ],
)
def test_the_verdict_of_a_measured_share(share: float, photos: int, classes: int, word: str, begins: str) -> None:
    found = verdict(measured(share, photos, f"{photos} labelled photos"), evaluation_of(photos), classes)
    assert found[0] == word
    assert found[1].startswith(begins)
    assert ("it takes 50 to be sure" in found[1]) == (photos < 50)


def test_no_verdict_is_good_of_classes_that_nobody_measured() -> None:
    word, text = verdict(measured(1.0, 60, "60 labelled photos"), evaluation_of(60, dog=1.0, cat=None, cow=None), 3)
    assert word == "good so far"
    assert text.endswith("; it takes photos of cat, cow to be sure.")
    word, text = verdict(measured(1.0, 20, "20 labelled photos"), evaluation_of(20, dog=1.0, cow=1.0, cat=None), 3)
    assert text.endswith("; it takes 50 and photos of cat to be sure.")
    found = advise(
        measured(1.0, 60, "photos"),
        evaluation=evaluation_of(60, dog=1.0, cat=None),
        per_class={"dog": 1.0},
        classes=("dog", "cat"),
        doubtful=(),
        examples=0,
        teacher="embedded-m",
        run="zoo",
    )
    assert found.verdict == "good so far"
    assert "one folder a class, cat too: clipstill evaluate zoo" in found.steps["measure"]


@pytest.mark.parametrize(
    ("photos", "giraffes", "ends"),
    [
        (80, 0.5, "by photos; least giraffe, 50.0 %."),
        (18, 0.5, "by photos; it takes 50 to be sure."),  # Nine of each class.
        (80, 0.6, "by photos."),
        (80, None, "by photos; it takes photos of giraffe to be sure."),
    ],
)
def test_a_class_that_is_seldom_right_is_named_beside_the_verdict(
    photos: int, giraffes: float | None, ends: str
) -> None:
    word, text = verdict(measured(0.9, photos, "photos"), evaluation_of(photos, dog=0.9, giraffe=giraffes), 2)
    assert word.startswith("good")
    assert text.endswith(ends)


def test_what_is_foretold_is_told_so_and_what_is_not_known_too() -> None:
    assert verdict(Foresight("names alone", Estimate(0.14, 0.1, 0.3)), None, 7) == (
        "do not use, foretold",
        "Do not use, by what can be foretold: right about 14 % (80 % interval 10 to 30 %), by names alone.",
    )
    word, text = verdict(Foresight("names alone", reason="strange words"), None, 7)
    assert word == "not known"
    assert "strange words" in text


def advice(photos: int = 280, examples: int = 0, teacher: str = "embedded-m", doubtful: tuple[str, ...] = ()) -> Advice:
    return advise(
        measured(0.6, photos, "photos"),
        evaluation=evaluation_of(photos),
        per_class={"dog": 0.9, "cat": 0.2, "cow": 0.5, "horse": 0.8},
        classes=("dog", "cat", "cow", "horse"),
        doubtful=doubtful,
        examples=examples,
        teacher=teacher,
        run="my runs/zoo",
    )


def test_five_photos_lead_with_the_gain_and_a_command_to_paste() -> None:
    assert advice().steps["photos"] == (
        "Give five photos of each class, above all of cat, cow, horse; nothing lifts it more (they halved the mistakes "
        "of eight sets: from 60.0 % to about 80 %): clipstill fine-tune 'my runs/zoo' --examples five_photos --out "
        "'my runs/zoo-tuned'"
    )


def test_there_are_at_most_three_steps_and_none_that_was_done() -> None:
    few = advice(photos=20, doubtful=("crane",))
    assert list(few.steps) == ["photos", "measure", "describe"]
    assert advice(examples=35, teacher="openclip:RN50/openai").steps == {}


def test_a_bundle_without_a_run_gets_the_command_that_it_is_given() -> None:
    def found(photos: int, cats: float | None, five_photos: str = "") -> Advice:
        return advise_of_bundle(
            UNMEASURED, evaluation_of(photos, dog=0.9, cat=cats), classes=7, folder="my zoo", five_photos=five_photos
        )

    few = found(20, 0.9, "do it")
    assert few.verdict == "good so far"
    assert list(few.facts("my zoo")) == ["name a photo", "next 1", "next 2"]
    assert few.facts("my zoo")["name a photo"] == "clipstill predict 'my zoo' photo.jpg"
    assert few.steps["photos"].endswith("from 90.0 % to about 95 %): do it")
    assert few.steps["measure"].endswith("clipstill evaluate 'my zoo' photos")
    assert found(280, 0.9).steps == {}
    assert "cat too" in found(280, None).steps["measure"]  # No photo showed one.
    assert advise_of_bundle(UNMEASURED, None, classes=7, folder="zoo").verdict == "not known"


def test_which_to_ship_says_what_each_bundle_can_and_follows_a_ladder_where_there_is_one() -> None:
    student, small = (
        Shipped("lite0", "zoo/bundle", 13_500_000, 5.0),
        Shipped("embedded-s", "zoo/zero-shot", 27_800_000, 9.0),
    )
    told = which_to_ship(student, small, refuses=True, run="zoo", recommended=None)
    assert told.startswith(
        "Ship the student. 50 photos tell which of the two is right more often: clipstill ladder zoo photos. "
    )
    assert "lite0 (zoo/bundle) takes 13.5 MB, 5.0 ms a picture; it can refuse and be tuned on photos" in told
    assert "embedded-s without training (zoo/zero-shot) takes 27.8 MB, 9.0 ms a picture; it answers always" in told
    larger = replace(student, onnx_bytes=44_700_000)
    told = which_to_ship(larger, small, refuses=False, run="zoo", recommended=None)
    assert told.startswith("Ship the student where it must refuse or be tuned. 50 photos tell")
    assert "it answers always and be tuned" not in told
    measured = which_to_ship(student, small, refuses=True, run="zoo", recommended="Ship the other: 92 %.")
    assert measured.startswith("Ship the other: 92 %. The student lite0")
