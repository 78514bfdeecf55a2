"""Learned prompts: losses against closed forms and finite differences, and what learning is for."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.seeds import generator_for
from clipstill.text.contrastive import batches, content_loss, instance_loss, token_noise
from clipstill.text.diversity import Diversity, diversity
from clipstill.text.learned import contrastive_prompts, random_prompts, sdd_prompts
from clipstill.text.prompts import PromptRequest, PromptSet
from clipstill.text.soft_tokens import Sentence, SoftSentences
from clipstill.text.task import parse_task
from text_fixtures import request, tiny_clip, words

LEARNED: dict[str, Callable[[PromptRequest], PromptSet]] = {"sdd": sdd_prompts, "contrastive": contrastive_prompts}
QUICK = {"steps": 12, "lr": 0.1, "per_class": 4}


def measured(asked: PromptRequest, made: PromptSet) -> Diversity:
    ids = [one.class_id for one in made.prompts], [one.style_id for one in made.prompts]
    return diversity(made.targets_ND, *ids, asked.class_vectors_CD)


def vectors(count: int, dim: int = 5) -> Tensor:
    return normalize(torch.randn(count, dim, generator=generator_for("vectors", count), dtype=torch.float64), dim=1)


def test_the_instance_loss_of_orthogonal_and_of_equal_prompts_is_known() -> None:
    apart = instance_loss(torch.eye(4), torch.eye(4), 0.5)
    assert torch.allclose(apart, torch.full((4,), math.log(1 + 3 * math.exp(-2))))
    same = instance_loss(torch.eye(4)[[0] * 4], torch.eye(4)[[0] * 4], 0.1)
    assert torch.allclose(same, torch.full((4,), math.log(4)))


def test_prompts_of_other_groups_do_not_push() -> None:
    group = torch.tensor([0, 0, 1, 1, 1])
    together = instance_loss(vectors(5), vectors(5).flip(1), 0.1, group)
    for part in (slice(0, 2), slice(2, 5)):
        assert torch.allclose(together[part], instance_loss(vectors(5)[part], vectors(5).flip(1)[part], 0.1))


def test_the_content_loss_is_the_cross_entropy_of_the_cosines() -> None:
    made = content_loss(vectors(3), vectors(4), torch.tensor([0, 2, 3]), 0.1)
    shares = (vectors(3) @ vectors(4).T / 0.1).softmax(1)
    assert torch.allclose(made, -shares[range(3), [0, 2, 3]].log())


def test_the_contrastive_gradient_agrees_with_finite_differences() -> None:
    """Through a linear teacher in double precision, with the content term and a view in another sentence."""
    teacher: Any = words()
    names = ["dog", "dog", "cat"]
    soft = SoftSentences(teacher, [Sentence("a {tokens} style of a {class}", name) for name in names], 2)
    view = SoftSentences(teacher, [Sentence("a {class} in a {tokens} style", name) for name in names], 2)
    class_N, class_vectors = torch.tensor([0, 0, 1]), teacher.encode_text(["dog", "cat"]).double()

    def loss(tokens: Tensor) -> Tensor:
        noise = token_noise(0.1, 0.2, generator_for("noise"))
        feat, other = soft.encode(tokens), view.encode(tokens, noise)
        return instance_loss(feat, other, 0.1, class_N) + content_loss(feat, class_vectors, class_N, 0.1)

    tokens = torch.randn(3, 2, 12, dtype=torch.float64, generator=generator_for("tokens")).requires_grad_()
    assert torch.autograd.gradcheck(loss, (tokens,), eps=1e-6, atol=1e-7)


def test_token_noise_keeps_the_mean_and_has_the_told_spread() -> None:
    x = torch.ones(40, 50, 20)
    made = token_noise(0.5, 0.2, generator_for("noise"))(x)
    assert float(made.mean()) == pytest.approx(1, abs=0.01)
    # Bernoulli(0.8) / 0.8 has the variance 0.25.
    assert float(made.var()) == pytest.approx(0.25 + 0.25, rel=0.03)
    assert torch.equal(token_noise(0.0, 0.0, generator_for("noise"))(x), x)


@pytest.mark.parametrize(("classes", "count", "most"), [(5, 3, 7), (2, 3, 100), (3, 7, 3), (1, 128, 128)])
def test_batches_hold_every_row_once_and_split_no_class_that_fits(classes: int, count: int, most: int) -> None:
    made = batches(classes, count, most)
    rows = range(classes * count)
    sizes = [len(rows[batch]) for batch in made]
    assert [row for batch in made for row in rows[batch]] == list(rows)
    assert max(sizes) <= most
    if count <= most:
        assert all(size % count == 0 for size in sizes)
    else:
        assert min(sizes) >= 2
        cuts = {batch.start for batch in made}
        assert all(class_id * count in cuts for class_id in range(classes))


def test_random_draws_differ_by_image_and_repeat_by_seed() -> None:
    first, again = random_prompts(request(per_class=6)), random_prompts(request(per_class=6))
    assert torch.equal(first.targets_ND, again.targets_ND)
    assert len(first.targets_ND.unique(dim=0)) == 18
    assert all(angle is not None and angle > 5 for angle in measured(request(), first).within_class_each)
    assert not torch.allclose(random_prompts(request(per_class=6, seed=1)).targets_ND, first.targets_ND, atol=1e-2)


@pytest.mark.parametrize("teacher", [words, tiny_clip])
def test_a_random_prompt_does_not_depend_on_how_many_images_there_are(teacher: Callable[[], Any]) -> None:
    few, many = (random_prompts(request(teacher(), per_class=count, tokens=2)) for count in (4, 9))
    assert many.prompts[:12] == few.prompts
    assert torch.allclose(many.targets_ND[:12], few.targets_ND, atol=1e-6)


def test_pseudo_styles_are_numbered_in_turn() -> None:
    made = random_prompts(request(per_class=5, pseudo_styles=2))
    assert made.style_names == ("S1", "S2")
    assert [one.style_id for one in made.prompts[::3]] == [0, 1, 0, 1, 0]
    assert random_prompts(request(per_class=1)).style_names == ("S1",)


@pytest.mark.parametrize("teacher", [words, tiny_clip])
def test_contrastive_prompts_are_further_apart_than_random_ones_and_keep_their_class(
    teacher: Callable[[], Any],
) -> None:
    asked = request(teacher(), task=parse_task("dog,cat,house"), tokens=2, **QUICK)
    drawn, start = random_prompts(asked), contrastive_prompts(request_with(asked, steps=0))
    assert torch.allclose(start.targets_ND, drawn.targets_ND, atol=1e-6)
    made = contrastive_prompts(asked)
    before, after = measured(asked, drawn), measured(asked, made)
    assert before.within_class is not None
    assert after.within_class is not None
    assert after.within_class > before.within_class + 5
    assert after.class_accuracy >= before.class_accuracy


def request_with(asked: PromptRequest, **settings: Any) -> PromptRequest:
    return replace(asked, settings=asked.settings.changed(**settings))


@pytest.mark.parametrize("teacher", [words, tiny_clip])
def test_the_learned_dictionary_tells_images_apart_better_than_its_start(teacher: Callable[[], Any]) -> None:
    asked = request(teacher(), task=parse_task("dog,cat,house"), styles=("sketch", "art"), tokens=2, **QUICK)
    start, made = sdd_prompts(request_with(asked, steps=0)), sdd_prompts(asked)

    def apart(made: PromptSet) -> float:
        """Mean loss of telling each image from all others, by the vectors themselves."""
        return float(instance_loss(made.targets_ND, made.targets_ND, 0.1).mean())

    assert apart(made) < 0.8 * apart(start)
    before, after = measured(asked, start), measured(asked, made)
    assert before.within_class is not None
    assert after.within_class is not None
    assert after.within_class > before.within_class + 5
    assert made.style_names == ("sketch", "art")
    assert made.prompts == start.prompts


def test_without_the_content_term_the_dictionary_cares_for_difference_alone() -> None:
    kept, free = (sdd_prompts(request(content_weight=weight, **QUICK)) for weight in (1.0, 0.0))
    asked = request(per_class=4)
    assert measured(asked, kept).class_accuracy > measured(asked, free).class_accuracy


@pytest.mark.parametrize("strategy", list(LEARNED))
def test_learning_twice_gives_the_same_bits(strategy: str) -> None:
    first, again = (LEARNED[strategy](request(steps=4)) for _ in range(2))
    assert torch.equal(first.targets_ND, again.targets_ND)


@pytest.mark.parametrize("strategy", list(LEARNED))
def test_targets_are_unit_float32_one_a_prompt_in_round_robin_order(strategy: str) -> None:
    made = LEARNED[strategy](request(steps=1, per_class=5))
    assert [one.class_id for one in made.prompts] == [0, 1, 2] * 5
    assert made.targets_ND.shape == (15, 16)
    assert made.targets_ND.dtype == torch.float32
    assert torch.allclose(made.targets_ND.norm(dim=1), torch.ones(15), atol=1e-5)
    assert len({one.seed for one in made.prompts}) == 15
