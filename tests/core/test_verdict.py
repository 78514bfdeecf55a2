"""The verdict in words, and the next steps."""

import pytest

from clipstill.core.foresight import Estimate, Foresight, measured
from clipstill.core.verdict import Advice, advise, verdict


@pytest.mark.parametrize(
    ("share", "photos", "classes", "word", "begins"),
    [
        (0.9, 280, 7, "good", "Good: right and answered 90 %"),
        (0.9, 49, 7, "good so far", "Good so far: right and answered 90 %"),
        (0.7, 280, 7, "weak", "Weak: right and answered 70 %"),
        (0.4, 280, 7, "do not use", "Do not use: right and answered 40 %"),
        (0.55, 60, 2, "do not use", "Do not use: "),  # Its interval holds a coin's share.
    ],
)
def test_the_verdict_of_a_measured_share(share: float, photos: int, classes: int, word: str, begins: str) -> None:
    found = verdict(measured(share, photos, f"{photos} labelled photos"), photos, classes)
    assert found[0] == word
    assert found[1].startswith(begins)
    assert ("it takes 50 to be sure" in found[1]) == (photos < 50)


def test_what_is_foretold_is_told_so_and_what_is_not_known_too() -> None:
    assert verdict(Foresight("names alone", Estimate(0.14, 0.1, 0.3)), 0, 7) == (
        "do not use, foretold",
        "Do not use, by what can be foretold: right 14 % (80 % interval 10 to 30), by names alone.",
    )
    word, text = verdict(Foresight("names alone", reason="strange words"), 0, 7)
    assert word == "not known"
    assert "strange words" in text


def advice(photos: int = 280, examples: int = 0, teacher: str = "embedded-m", doubtful: tuple[str, ...] = ()) -> Advice:
    return advise(
        measured(0.6, photos, "photos"),
        photos=photos,
        per_class={"dog": 0.9, "cat": 0.2, "cow": 0.5, "horse": 0.8},
        classes=("dog", "cat", "cow", "horse"),
        doubtful=doubtful,
        examples=examples,
        teacher=teacher,
        run="my runs/zoo",
    )


def test_five_photos_lead_with_the_gain_and_a_command_to_paste() -> None:
    assert advice().steps[0] == (
        "Give five photos of each class, above all of cat, cow, horse; nothing lifts it more (they halved the mistakes "
        "of eight sets: from 60 to about 80 %): clipstill fine-tune 'my runs/zoo' --examples five_photos --out "
        "'my runs/zoo-tuned'"
    )


def test_there_are_at_most_three_steps_and_none_that_was_done() -> None:
    few = advice(photos=20, doubtful=("crane",))
    assert [step.split()[0] for step in few.steps] == ["Give", "Measure", "Describe"]
    assert advice(examples=35, teacher="openclip:RN50/openai").steps == ()
