"""Templates, styles and the spread of prompts."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

from clipstill.core.errors import ConfigError, UnknownNameError
from clipstill.core.seeds import seed_for
from clipstill.text import prompt_strategies
from clipstill.text.mixing import mixed_prompts, slerp
from clipstill.text.prompts import plain_prompts, styled_prompts
from clipstill.text.settings import PromptSettings
from clipstill.text.task import Task
from clipstill.text.templates import (
    CLASS_TEMPLATES,
    DATASET_TEMPLATES,
    class_texts,
    fill,
    sentence_template,
    template_set,
)
from clipstill.workflow.recipes import load_settings
from text_fixtures import TASK, request, words

STYLES = PromptSettings().styles


def test_underscores_become_spaces_and_descriptions_follow_the_name() -> None:
    assert fill("a photo of a {class}.", "ice_cream") == "a photo of a ice cream."
    assert fill("a {class} in the style of {style}", "crane", "a bird", "poster") == (
        "a crane, a bird in the style of poster"
    )


def test_braces_in_a_class_name_are_left_alone() -> None:
    assert fill("a {class} in the style of {style}", "{style} {0}", style="poster") == (
        "a {style} {0} in the style of poster"
    )


def test_every_class_gets_every_template() -> None:
    texts = class_texts(TASK, CLASS_TEMPLATES)
    assert [len(of_class) for of_class in texts] == [len(CLASS_TEMPLATES)] * 3
    assert all("ice cream" in text for text in texts[1])


def test_templates_without_a_class_are_refused() -> None:
    with pytest.raises(ConfigError, match="does not contain"):
        class_texts(TASK, ["a photo"])
    with pytest.raises(ConfigError, match="empty"):
        class_texts(TASK, [])


def test_an_unknown_template_set_gets_a_suggestion() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'plain'"):
        template_set("plane", "name")


def test_auto_templates_are_those_that_suit_the_teacher() -> None:
    assert template_set("auto", "name") == ("{class}",)
    assert template_set("auto", "plain") == template_set("plain", "name") == CLASS_TEMPLATES


def test_the_dictionary_has_sixteen_different_styles() -> None:
    assert len(set(STYLES)) == 16


def test_every_data_set_has_its_sentence() -> None:
    assert fill(*template_set("oxford_flowers", "plain"), "rose") == "a photo of a rose, a type of flower."
    assert fill(*template_set("dtd", "plain"), "woven") == "woven texture."
    assert all(text.count("{class}") == 1 for texts in DATASET_TEMPLATES.values() for text in texts)


def test_a_style_follows_the_sentence_without_its_full_stop() -> None:
    def text(template: str) -> str:
        return styled_prompts(request(template=template)).prompts[0].text

    assert text("a photo of a {class}, a type of pet.") == "a photo of a dog, a type of pet in the style of sketch"
    assert text("{style} of a {class}") == "sketch of a dog"


def test_the_sentence_of_the_images_is_a_text_a_set_or_the_strategys_own() -> None:
    assert sentence_template("default", "a {class}", "plain") == "a {class}"
    assert sentence_template("the {class}", "a {class}", "plain") == "the {class}"
    assert sentence_template("food101", "a {class}", "plain") == "a photo of {class}, a type of food."
    assert sentence_template("auto", "a {class}", "name") == "{class}"
    with pytest.raises(ConfigError, match="does not contain"):
        sentence_template("a photo", "a {class}", "plain")
    with pytest.raises(UnknownNameError, match="Did you mean 'eurosat'"):
        sentence_template("eurosatt", "a {class}", "plain")


def test_each_block_of_prompts_has_every_class_once() -> None:
    prompts = styled_prompts(request(styles=STYLES, per_class=20)).prompts
    assert len(prompts) == 60
    for start in range(0, 60, 3):
        assert [prompt.class_id for prompt in prompts[start : start + 3]] == [0, 1, 2]


def test_styles_are_spread_evenly_over_each_class() -> None:
    made = styled_prompts(request(styles=STYLES, per_class=32))
    assert set(Counter((prompt.class_id, prompt.style_id) for prompt in made.prompts).values()) == {2}
    assert made.style_names == STYLES


def test_seeds_are_all_different_and_made_from_names() -> None:
    prompts = styled_prompts(request(styles=STYLES, per_class=20, seed=5)).prompts
    assert len({prompt.seed for prompt in prompts}) == 60
    assert prompts[4].seed == seed_for(5, "ice_cream", STYLES[1], 1)


def test_another_class_or_more_images_leave_the_prompts_that_were_there() -> None:
    before = {(p.seed, p.text) for p in styled_prompts(request()).prompts}
    more = Task(("zebra", *TASK.names), ("", *TASK.descriptions))
    after = {(p.seed, p.text) for p in styled_prompts(request(task=more, per_class=6)).prompts}
    assert before < after


def test_targets_of_styles_are_the_vectors_of_their_texts() -> None:
    teacher = words()
    made = styled_prompts(request(teacher, per_class=6))
    assert made.prompts[0].text == "a dog in the style of sketch"
    assert made.targets_ND.dtype == torch.float32
    assert torch.allclose(made.targets_ND, teacher.encode_text([prompt.text for prompt in made.prompts]), atol=1e-6)


def test_plain_prompts_have_one_text_a_class_and_different_seeds() -> None:
    made = plain_prompts(request(per_class=3))
    assert [prompt.text for prompt in made.prompts[:3]] == [
        "a photo of a dog",
        "a photo of a ice cream",
        "a photo of a crane, a bird",
    ]
    assert {prompt.style_id for prompt in made.prompts} == {0}
    assert made.style_names == ("",)
    assert len({prompt.seed for prompt in made.prompts}) == 9
    assert torch.equal(made.targets_ND[:3], made.targets_ND[3:6])


def test_the_sentence_of_the_images_can_be_chosen() -> None:
    assert plain_prompts(request(template="dtd")).prompts[0].text == "dog texture."
    assert styled_prompts(request(template="imagenet")).prompts[0].text == "a photo of a dog in the style of sketch"
    for strategy in (plain_prompts, styled_prompts, mixed_prompts):
        with pytest.raises(ConfigError, match=r"holds \{tokens\}"):
            strategy(request(template="a {tokens} {class}"))


def test_two_vectors_are_mixed_along_the_arc_between_them() -> None:
    a, b = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[0.0, 1.0, 0.0]])
    for degrees in (0.0, 15.0, 45.0, 90.0):
        angle = torch.tensor([degrees]).deg2rad()
        expected = torch.stack([angle.cos(), angle.sin(), torch.zeros(1)], dim=1)
        assert torch.allclose(slerp(a, b, torch.tensor([degrees / 90])), expected, atol=1e-6)
    assert torch.allclose(slerp(a, a, torch.tensor([0.3])), a)
    assert torch.isfinite(slerp(a, -a, torch.tensor([0.5]))).all()


def test_mixed_targets_are_unit_vectors_in_the_cone_of_their_texts() -> None:
    teacher = words(width=30, dim=30)
    made = mixed_prompts(request(teacher, styles=STYLES, per_class=5))
    for prompt, target_D in zip(made.prompts, made.targets_ND, strict=True):
        styles = prompt.text.partition(" in the style of ")[2].split(" and ")
        assert len(set(styles)) == 2
        stem = prompt.text.partition(" in the style of ")[0]
        part_KD = teacher.encode_text([f"{stem} in the style of {style}" for style in styles])
        weight_K = torch.linalg.lstsq(part_KD.T.double(), target_D.double()[:, None]).solution[:, 0]
        assert float(weight_K.min()) > -1e-4
        assert torch.allclose(weight_K @ part_KD.double(), target_D.double(), atol=1e-5)
        assert float(target_D.norm()) == pytest.approx(1, abs=1e-5)
        assert styles[0] == STYLES[prompt.style_id]
        assert float(weight_K[0]) >= float(weight_K.max()) - 1e-4


def test_mixes_differ_by_image_and_repeat_by_seed() -> None:
    first, again = mixed_prompts(request(per_class=6)), mixed_prompts(request(per_class=6))
    assert torch.equal(first.targets_ND, again.targets_ND)
    assert len(first.targets_ND.unique(dim=0)) == 18
    more = mixed_prompts(request(per_class=8))
    assert more.prompts[:18] == first.prompts
    assert torch.allclose(more.targets_ND[:18], first.targets_ND, atol=1e-6)
    assert not torch.allclose(mixed_prompts(request(per_class=6, seed=1)).targets_ND, first.targets_ND, atol=1e-3)


def test_mixing_one_style_is_refused() -> None:
    with pytest.raises(ConfigError, match="has one style"):
        mixed_prompts(request(styles=("sketch",)))


def test_the_strategies_are_found_by_name() -> None:
    assert set(prompt_strategies.names()) == {"contrastive", "mix", "plain", "random", "sdd", "styles"}
    assert prompt_strategies.resolve("styles")[0] is styled_prompts


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("prompts.tokens=0", "prompts.tokens is 0. It must lie between 1 and"),
        ("prompts.sigma=0", "prompts.sigma is 0"),
        ("prompts.images_per_class=-1", "prompts.images_per_class is -1"),
        ("prompts.sigma=big", "prompts.sigma"),
        ("prompts.template=a photo", "does not contain"),
        ("prompts.styles=[]", "at least 1 item"),
    ],
)
def test_settings_that_make_no_prompt_are_refused_before_any_work(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_settings(overrides=[override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
