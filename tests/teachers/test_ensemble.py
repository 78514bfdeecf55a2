"""Several teachers as one: every cosine is the mean of theirs."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.errors import ConfigError, UnknownNameError
from clipstill.core.protocols import BatchNormTeacher, Teacher
from clipstill.core.seeds import generator_for
from clipstill.generators.pixels import Pixels
from clipstill.synthesis.engine import GroupSpec, Synthesiser
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.teachers import load_teacher
from clipstill.teachers.ensemble import ensemble
from synthesis_fixtures import TinyTeacher, units


class Bright(TinyTeacher):
    """Sees other things in the same images, and has texts."""

    name = "bright"
    logit_scale = 30.0

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        return normalize(self.network(1 - x_N3HW).amax((2, 3)), dim=-1)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        return torch.cat([units(1, text) for text in texts])


class Plain(Bright):
    """Without statistics."""

    encode_image_with_statistics = None  # type: ignore[assignment]
    statistics_networks = None  # type: ignore[assignment]


IMAGES = torch.rand(4, 3, 32, 32, generator=generator_for("images"))


def test_cosines_are_the_mean_of_the_teachers_cosines() -> None:
    one, other = TinyTeacher(), Bright()
    both = ensemble([one, other])
    assert isinstance(both, Teacher)
    assert both.dim == 12
    assert both.logit_scale == 20.0
    vectors = both.encode_image(IMAGES)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(4))
    expected = sum(teacher.encode_image(IMAGES) @ teacher.encode_image(IMAGES).T for teacher in (one, other)) / 2
    torch.testing.assert_close(vectors @ vectors.T, expected)


def test_statistics_come_from_those_teachers_that_have_some() -> None:
    both, one = ensemble([TinyTeacher(), Bright()]), ensemble([Plain(), Plain()])
    assert isinstance(both, BatchNormTeacher)
    vectors, gap = both.encode_image_with_statistics(IMAGES)
    torch.testing.assert_close(vectors, both.encode_image(IMAGES))
    gaps = [teacher.encode_image_with_statistics(IMAGES)[1] for teacher in (TinyTeacher(), Bright())]
    torch.testing.assert_close(gap, torch.stack(gaps).mean())
    assert not isinstance(one, BatchNormTeacher)


def test_an_image_is_drawn_towards_what_all_teachers_see() -> None:
    both = ensemble([TinyTeacher(), Bright()])
    targets = normalize(torch.cat([units(3, "one"), units(3, "other")], dim=1), dim=-1)
    settings = SynthesisSettings(
        steps=25, image_size=32, group_size=3, bn_weight=0.0, natural_weight=0.0, tv_weight=0.0, lr=0.1
    )
    made = Synthesiser(both, [Pixels(torch.device("cpu"))], targets, settings, torch.device("cpu")).group(
        GroupSpec(0, [1, 2, 3], [0, 1, 2], targets)
    )
    before, after = made.history[0]["text"], made.history[-1]["text"]
    assert after < before


def test_prompts_cannot_be_learned_with_several_teachers() -> None:
    with pytest.raises(ConfigError, match="no common tokens"):
        ensemble([TinyTeacher(), Bright()]).embed_tokens(["a dog"])


def test_a_typing_mistake_in_one_of_the_names_is_told() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'embedded-m'"):
        load_teacher("embedded-s+embeded-m", torch.device("cpu"))
