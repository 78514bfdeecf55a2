"""The engine on a made-up teacher of a few hundred numbers: groups are what their members are, and nothing else."""

import numpy as np
import pytest
import torch
from torch import Tensor

from clipstill.core.errors import ConfigError
from clipstill.core.protocols import BatchNormTeacher, Teacher
from clipstill.generators.pixels import Pixels
from clipstill.synthesis.engine import GroupSpec, SynthesisedGroup, Synthesiser, group_ranges
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.workflow.recipes import load_settings
from synthesis_fixtures import TinyTeacher, units

CPU = torch.device("cpu")
SETTINGS = SynthesisSettings(
    steps=12, views=2, image_size=32, group_size=4, lr=0.05, bn_weight=0.0, natural_weight=0.0, tv_weight=0.0
)
SEEDS, CLASSES = (21, 22, 23, 24), (0, 1, 2, 1)


TARGETS = units(4, "targets")


def synthesiser(**changed: object) -> Synthesiser:
    settings = SETTINGS.changed(**changed)
    return Synthesiser(TinyTeacher(), [Pixels(CPU)], units(3, "classes"), settings, CPU)


def made(targets_ND: Tensor = TARGETS, **changed: object) -> SynthesisedGroup:
    return synthesiser(**changed).group(GroupSpec(0, SEEDS, CLASSES, targets_ND))


def largest_difference(one: np.ndarray, other: np.ndarray) -> int:
    return int(np.abs(one.astype(int) - other.astype(int)).max())


def test_the_made_up_teacher_keeps_the_protocols() -> None:
    assert isinstance(TinyTeacher(), Teacher)
    assert isinstance(TinyTeacher(), BatchNormTeacher)


def test_a_group_of_four_is_four_groups_of_one() -> None:
    together = made()
    engine = synthesiser()
    for n in range(4):
        alone = engine.group(GroupSpec(0, SEEDS[n : n + 1], CLASSES[n : n + 1], TARGETS[n : n + 1]))
        # Convolutions over batches of different sizes round differently; one grey level is the most that is left.
        assert largest_difference(together.pixels_NHW3[n], alone.pixels_NHW3[0]) <= 1
        assert together.losses[n] == pytest.approx(alone.losses[0], abs=1e-3)
        assert together.scores[n] == pytest.approx(alone.scores[0], abs=1e-3)


def test_neighbours_target_does_not_move_an_image() -> None:
    other = TARGETS.clone()
    other[0] = -other[0]
    first, second = made(), made(other)
    assert np.array_equal(first.pixels_NHW3[1:], second.pixels_NHW3[1:])
    assert not np.array_equal(first.pixels_NHW3[0], second.pixels_NHW3[0])


def test_neighbours_do_move_an_image_where_statistics_couple_the_group() -> None:
    other = TARGETS.clone()
    other[0] = -other[0]
    first, second = made(bn_weight=2.0), made(other, bn_weight=2.0)
    assert not np.array_equal(first.pixels_NHW3[1:], second.pixels_NHW3[1:])


def test_the_same_group_twice_is_equal_to_the_bit() -> None:
    engine = synthesiser(bn_weight=2.0)
    first = engine.group(GroupSpec(0, SEEDS, CLASSES, TARGETS))
    engine.group(GroupSpec(0, SEEDS[::-1], CLASSES[::-1], TARGETS))
    second = engine.group(GroupSpec(0, SEEDS, CLASSES, TARGETS))
    assert np.array_equal(first.pixels_NHW3, second.pixels_NHW3)
    assert first.losses == second.losses
    assert first.history == second.history


@pytest.mark.parametrize("terms", [{"text_weight": 0.0}, {"class_weight": 0.0}, {"bn_weight": 1.0, "tv_weight": 0.1}])
def test_the_loss_goes_down(terms: dict[str, float]) -> None:
    history = made(steps=30, **terms).history
    assert history[-1]["loss"] < 0.9 * history[0]["loss"]
    assert [entry["step"] for entry in history] == sorted({entry["step"] for entry in history})


def test_statistics_pull_the_group_to_those_of_the_teacher() -> None:
    def gap(group: SynthesisedGroup) -> float:
        x_N3HW = torch.from_numpy(group.pixels_NHW3).permute(0, 3, 1, 2).float() / 255
        return float(TinyTeacher().encode_image_with_statistics(x_N3HW)[1])

    assert gap(made(steps=30, bn_weight=5.0)) < 0.8 * gap(made(steps=30))


def test_scores_are_the_teachers_probabilities_of_the_stored_pictures() -> None:
    group = made()
    assert group.pixels_NHW3.dtype == np.uint8
    assert group.pixels_NHW3.shape == (4, 32, 32, 3)
    x_N3HW = torch.from_numpy(group.pixels_NHW3).permute(0, 3, 1, 2).float() / 255
    logits_NC = 10.0 * TinyTeacher().encode_image(x_N3HW) @ units(3, "classes").T
    expected = [float(torch.softmax(row, 0)[label]) for row, label in zip(logits_NC, CLASSES, strict=True)]
    assert group.scores == pytest.approx(expected, abs=1e-4)


def test_settings_without_a_pull_to_the_class_are_refused() -> None:
    with pytest.raises(ConfigError, match="both 0"):
        synthesiser(text_weight=0.0, class_weight=0.0)
    with pytest.raises(ConfigError, match=r"synthesis\.crop_min is 0"):
        load_settings(overrides=["synthesis.crop_min=0.0"])


def test_the_natural_network_is_told_with_its_licence() -> None:
    assert synthesiser().provenance == []  # its weight is 0
    told = synthesiser(natural_weight=1.0).provenance
    assert [part.licence for part in told] == ["Apache-2.0"]


def test_statistics_that_the_teacher_carries_are_not_computed_twice() -> None:
    teacher = TinyTeacher()
    settings = SynthesisSettings(lr=0.05, bn_weight=1.0, natural_weight=1.0, tv_weight=0.0)
    vectors = torch.eye(teacher.dim)[:2]
    beside = Synthesiser(teacher, [Pixels(CPU)], vectors, settings, CPU)
    teacher.statistics_networks = ("lite0",)
    carried = Synthesiser(teacher, [Pixels(CPU)], vectors, settings, CPU)
    assert len(beside.provenance) == 1
    assert carried.provenance == []


@pytest.mark.parametrize(
    ("images", "group_size", "turns", "sizes"),
    [(112, 28, 2, [28] * 4), (32, 28, 2, [16, 16]), (28, 28, 2, [14, 14]), (10, 28, 2, [10]), (5, 2, 1, [1, 2, 2])],
)
def test_groups_are_even_and_every_generator_gets_one(
    images: int, group_size: int, turns: int, sizes: list[int]
) -> None:
    ranges = group_ranges(images, group_size, turns)
    assert [len(one) for one in ranges] == sizes
    assert [number for one in ranges for number in one] == list(range(images))


def test_generators_take_turns_and_each_draws_as_if_it_were_alone() -> None:
    class Other(Pixels):
        name = "other"
        lr_factor = 3.0
        tv_factor = 0.0

    vectors = units(3, "classes")

    def drawn(generators: list[Pixels], number: int) -> SynthesisedGroup:
        settings = SETTINGS.changed(tv_weight=1.0)
        engine = Synthesiser(TinyTeacher(), generators, vectors, settings, CPU)
        return engine.group(GroupSpec(number, SEEDS, CLASSES, TARGETS))

    both = [drawn([Pixels(CPU), Other(CPU)], number) for number in range(3)]
    assert [group.generator for group in both] == ["pixels", "other", "pixels"]
    assert np.array_equal(both[0].pixels_NHW3, drawn([Pixels(CPU)], 0).pixels_NHW3)
    assert np.array_equal(both[0].pixels_NHW3, both[2].pixels_NHW3)
    # The factors are what the other generator differs by.
    settings = SETTINGS.changed(lr=SETTINGS.lr * 3, tv_weight=0.0)
    alone = Synthesiser(TinyTeacher(), [Pixels(CPU)], vectors, settings, CPU).group(
        GroupSpec(0, SEEDS, CLASSES, TARGETS)
    )
    assert np.array_equal(both[1].pixels_NHW3, alone.pixels_NHW3)
    assert not np.array_equal(both[1].pixels_NHW3, both[0].pixels_NHW3)
