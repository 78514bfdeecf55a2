"""What the linter says of names: on small spaces made by hand, and in that of the smallest real teacher."""

import functools
import itertools
from collections.abc import Sequence
from statistics import mean

import pytest
import torch
from torch import Tensor

from clipstill.core.seeds import generator_for
from clipstill.teachers import load_teacher
from clipstill.text.difficulty import estimate, is_familiar, simulated_accuracy
from clipstill.text.linter import Known, Linter
from clipstill.text.near_misses import WORDS
from clipstill.text.senses import choose_senses
from clipstill.text.task import parse_task
from clipstill.text.word_checks import NOTE, WARNING, Finding
from clipstill.text.wordnet import wordnet

DIM = 256
COMMON = ("tiger", "bottle", "rope", "tree")


def drawn(text: str) -> Tensor:
    """A vector of a text's own: any two texts are unrelated."""
    return torch.nn.functional.normalize(torch.randn(DIM, generator=generator_for("linter", text)), dim=0)


def space(**places: str) -> "Space":
    return Space({name.replace("_", " "): text for name, text in places.items()})


class Space:
    """Texts lie apart, but for those that are said to lie at another text."""

    def __init__(self, places: dict[str, str]) -> None:
        self.places = places

    def __call__(self, texts: Sequence[str]) -> Tensor:
        return torch.stack([drawn(self.places.get(text, text)) for text in texts])


def lint(names: Sequence[str], encode: Space | None = None) -> list[Finding]:
    encode = encode or space()
    task = parse_task(list(names))
    known = Known(COMMON, encode(COMMON))
    return Linter(task, encode(task.names), known, encode).findings()


def kinds(findings: Sequence[Finding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.kind, one.classes) for one in findings]


def test_only_near_pairs_are_looked_at_and_none_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ["sofa", "couch", "tulip", "tulips", "dog", "beagle", "animal", "glass", "glasses", "knives", "violin"]
    task, encode = parse_task(names), space(violin="dog")
    linter = Linter(task, encode(task.names), Known(COMMON, encode(COMMON)), encode)
    pairs, found = linter._near_pairs(), linter.findings()
    assert len(pairs) < 12
    assert {one.kind for one in found} >= {"synonym", "plural", "hypernym", "similar"}
    monkeypatch.setattr(linter, "_near_pairs", lambda: itertools.combinations(range(len(names)), 2))
    assert linter.findings() == found


def test_the_other_classes_say_which_meaning_is_wanted() -> None:
    for others, gloss in ((["heron", "stork"], "wading bird"), (["excavator", "bulldozer"], "heavy objects")):
        assert gloss in choose_senses(["crane", *others], wordnet())[0][0].sense.gloss


NEGATIONS = ["none of these", "other", "others", "unknown", "not a dog", "no dog", "non-dog", "nothing", "None"]
NEGATIONS += ["something else", "background", "other animals", "not_dog", "without a dog", "neither"]


@pytest.mark.parametrize("name", NEGATIONS)
def test_a_name_for_what_is_not_there_is_told_with_the_tool_for_it(name: str) -> None:
    [found] = [one for one in lint(["dog", "cat", name]) if name in one.classes]
    assert (found.level, found.kind) == (WARNING, "negation")
    assert "refusal.near_misses" in found.advice


@pytest.mark.parametrize("name", ["no entry sign", "nonpareil", "notebook", "other: a purple box", "northern cardinal"])
def test_a_name_that_only_looks_negative_is_none(name: str) -> None:
    assert all(one.kind != "negation" for one in lint(["dog", "cat", name]))


def test_two_names_of_one_thing_are_told() -> None:
    assert kinds(lint(["sofa", "couch", "dog"])) == [("synonym", ("sofa", "couch"))]


def test_a_kind_beside_what_it_is_a_kind_of_is_told() -> None:
    (found,) = lint(["dog", "animal", "guitar"])
    assert (found.level, found.kind, found.classes) == (WARNING, "hypernym", ("dog", "animal"))


def test_a_plural_beside_its_singular_is_told_and_glasses_beside_glass_are_not() -> None:
    assert ("plural", ("tulip", "tulips")) in kinds(lint(["tulip", "tulips", "guitar"]))
    assert "plural" not in [one.kind for one in lint(["glass", "glasses", "guitar"])]


def test_a_typing_mistake_is_told_with_the_word() -> None:
    found = [one for one in lint(["water lilly", "guitar"]) if one.kind == "spelling"]
    assert [one.classes for one in found] == [("water lilly",)]
    assert "water lily" in found[0].advice


def test_a_misspelt_name_gets_one_advice() -> None:
    (found,) = lint(["elefant", "dog"])
    assert (found.kind, found.advice) == ("spelling", "If that is meant, write: elephant")


def test_names_that_share_a_vector_are_told() -> None:
    assert kinds(lint(["violin", "hedgehog"], space(violin="hedgehog"))) == [("similar", ("violin", "hedgehog"))]


def test_a_name_that_lies_at_a_thing_of_another_kind_is_hardly_known() -> None:
    (found,) = [one for one in lint(["tiger lily", "guitar"], space(tiger_lily="tiger")) if one.kind == "unknown"]
    assert found.classes == ("tiger lily",)
    assert "at tiger (1.00)" in found.message
    assert found.taken_for == "tiger"
    assert "tiger lily: east Asian perennial" in found.advice
    assert lint(["tiger lily", "guitar"]) == []


def test_the_meaning_that_the_teacher_takes_is_compared_with_the_wanted_one() -> None:
    taken = space(crane="lifting device")
    (found,) = [one for one in lint(["crane", "heron", "stork"], taken) if one.kind == "ambiguous"]
    assert (found.level, found.classes) == (WARNING, ("crane",))
    assert "crane: large long-necked wading bird" in found.advice
    assert found.taken_for == "a lifting device"
    assert WARNING not in [one.level for one in lint(["crane", "excavator", "bulldozer"], taken)]


def test_a_description_settles_the_matter() -> None:
    taken = space(crane="lifting device")
    assert lint(["crane: a large wading bird", "heron", "stork"], taken) == []


def test_the_common_kind_is_offered_where_a_name_is_doubtful() -> None:
    found = lint(["crane", "heron", "stork", "duck"], space(crane="lifting device"))
    assert [(one.level, one.kind) for one in found] == [(WARNING, "ambiguous"), (NOTE, "constraint")]
    assert "{class}, a type of bird" in found[1].advice


def test_one_sentence_is_offered_for_all_classes_only_where_it_is_true_of_all() -> None:
    taken = space(crane="lifting device")
    birds = ["crane", "heron", "stork", "duck", "owl"]
    assert "constraint" in {one.kind for one in lint(birds, taken)}
    assert "constraint" not in {one.kind for one in lint([*birds, "guitar"], taken)}


def test_what_no_photo_shows_is_told_and_colours_and_sports_are_not() -> None:
    assert ("unseen", ("freedom",)) in kinds(lint(["freedom", "guitar"]))
    assert not [one for one in lint(["red", "archery", "wedding", "storm"]) if one.kind == "unseen"]


def test_simulated_images_are_named_by_how_far_they_are_drawn() -> None:
    encode = space()
    common = [f"word {number}" for number in range(64)]
    known, vectors_CD = Known(common, encode(common)), encode(["a", "b", "c", "d"])
    guessed, weak, strong = (simulated_accuracy(vectors_CD, known, [value] * 4) for value in (-3.0, 0.0, 2.0))
    assert sum(guessed) / 4 == pytest.approx(0.25, abs=0.05)
    assert 0.3 < sum(weak) / 4 < 0.9
    assert min(strong) > 0.99


@functools.cache
def real() -> tuple[Known, Tensor]:
    teacher = load_teacher("embedded-s", torch.device("cpu"))
    real_encode.teacher = teacher  # type: ignore[attr-defined]
    return Known(WORDS, teacher.encode_text(WORDS)), teacher.encode_text(wordnet().imagenet_words()[::4])


def real_encode(texts: Sequence[str]) -> Tensor:
    return real_encode.teacher.encode_text(list(texts))  # type: ignore[attr-defined]


def real_linter(names: str) -> Linter:
    known, _ = real()
    task = parse_task(names)
    return Linter(task, real_encode(task.names), known, real_encode)


@pytest.mark.parametrize(
    "names",
    [
        "dog,elephant,giraffe,guitar,horse,house,person",
        "airplane,automobile,bird,cat,deer,dog,frog,horse,ship,truck",
        "dog,cat,hamster,rabbit,goldfish,parrot,guinea pig,turtle,snake",
        "car,bus,tram,bicycle,train,ship,boat,motorcycle",
        "dog,guitar",  # Not the catch of a ratchet.
        "ring,necklace,bracelet,watch",  # A band or a jewel: both look like a bracelet.
        "jar,lid,bottle",
    ],
)
def test_plain_lists_raise_no_alarm_in_a_real_space(names: str) -> None:
    assert real_linter(names).findings() == []


def test_a_real_teacher_takes_a_crane_for_a_machine_and_a_tiger_lily_for_a_tiger() -> None:
    assert ("ambiguous", ("crane",)) in kinds(real_linter("crane,heron,stork").findings())
    assert ("unknown", ("tiger lily",)) in kinds(real_linter("tiger lily,rose,tulip").findings())


@pytest.mark.parametrize(
    ("names", "other"),
    [
        ("kiwi,mango,lemon", "an inhabitant"),
        ("pitcher,vase,bowl", "a thrower"),
        ("chest,wardrobe,bed", "a body part"),  # The teacher is as near to it as to the furniture.
    ],
)
def test_a_person_or_a_far_commoner_meaning_makes_a_name_doubtful(names: str, other: str) -> None:
    (found,) = [one for one in real_linter(names).findings() if one.level == WARNING]
    assert (found.kind, found.classes) == ("ambiguous", (names.split(",")[0],))
    assert f"or {other};" in found.message


def test_a_person_that_the_teacher_does_not_lean_to_is_slang() -> None:
    assert lint(["kiwi", "mango", "lemon"]) == []
    assert kinds(lint(["kiwi", "mango", "lemon"], space(kiwi="inhabitant")))[0] == ("ambiguous", ("kiwi",))


def test_a_meaning_of_another_class_kind_is_doubtful_however_rare() -> None:
    (found,) = real_linter("cat,mouse,keyboard").findings()
    assert (found.level, found.classes) == (WARNING, ("mouse",))
    assert "a rodent or an electronic device" in found.message


def test_one_other_class_does_not_outweigh_the_frequent_meaning() -> None:
    assert "domesticated" in choose_senses(["dog", "guitar"], wordnet())[0][0].sense.gloss


def test_more_classes_and_strange_names_are_expected_to_be_harder() -> None:
    _, imagenet_KD = real()
    few = estimate(real_linter("goldfish,ketch"), imagenet_KD)
    many = estimate(real_linter("goldfish,ketch,schooner,yawl,sloop,tench,eel,stingray,hen"), imagenet_KD)
    assert 0 <= mean(many) < mean(few) <= 1
    assert many[0] > many[1]


def test_what_imagenet_shows_is_familiar_and_what_it_does_not_is_strange() -> None:
    for names, familiar in (
        ("dog,elephant,giraffe,guitar,horse", True),
        ("rose,tulip,camellia,foxglove", False),
        ("flawless fabric,fabric with a local defect", False),
    ):
        assert is_familiar(real_linter(names)) is familiar


def test_names_in_another_language_are_told_at_once_with_the_way_out() -> None:
    (found,) = lint(["собака", "dog", "слон: elephant"])
    assert (found.level, found.kind, found.classes) == (WARNING, "unreadable", ("собака",))
    assert "собака: dog" in found.advice


def test_a_class_with_examples_or_a_teacher_of_many_languages_is_not_told_of() -> None:
    encode, task = space(), parse_task(["собака", "слон"])
    known, vectors_CD = Known(COMMON, encode(COMMON)), encode(task.names)
    shown = Linter(task, vectors_CD, known, encode, with_examples=["собака"])
    assert [one.classes for one in shown.findings()] == [("слон",)]
    assert "unreadable" not in [
        one.kind for one in Linter(task, vectors_CD, known, encode, multilingual=True).findings()
    ]


def test_the_english_behind_the_colon_is_checked_and_the_label_is_named() -> None:
    assert kinds(lint(["диван: sofa", "couch", "dog"])) == [("synonym", ("диван", "couch"))]
