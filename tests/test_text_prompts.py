"""Templates, styles and the spread of prompts."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from clipstill.core.errors import ConfigError, UnknownNameError
from clipstill.core.seeds import seed_for
from clipstill.text import prompt_strategies
from clipstill.text.prompts import plain_prompts, styled_prompts
from clipstill.text.styles import STYLES, load_styles
from clipstill.text.task import Task, parse_task
from clipstill.text.templates import CLASS_TEMPLATES, class_texts, fill, template_set

TASK = parse_task(["dog", "ice_cream", "crane: a bird"])


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


def test_styles_are_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "styles.txt"
    path.write_text("# mine\npixel   art\n\nwoodcut\n")
    assert load_styles(path) == ("pixel art", "woodcut")


def test_bad_style_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "styles.txt"
    with pytest.raises(ConfigError, match="cannot be read"):
        load_styles(path)
    path.write_text("# none\n")
    with pytest.raises(ConfigError, match="holds no style"):
        load_styles(path)
    path.write_text("mosaic\nposter\nMosaic\n")
    with pytest.raises(ConfigError, match="lines 1 and 3"):
        load_styles(path)


def test_each_block_of_prompts_has_every_class_once() -> None:
    prompts = styled_prompts(TASK, STYLES, 20, seed=0)
    assert len(prompts) == 60
    for start in range(0, 60, 3):
        assert [prompt.class_id for prompt in prompts[start : start + 3]] == [0, 1, 2]


def test_styles_are_spread_evenly_over_each_class() -> None:
    counts = Counter((prompt.class_id, prompt.style_id) for prompt in styled_prompts(TASK, STYLES, 32, seed=0))
    assert set(counts.values()) == {2}


def test_seeds_are_all_different_and_made_from_names() -> None:
    prompts = styled_prompts(TASK, STYLES, 20, seed=5)
    assert len({prompt.seed for prompt in prompts}) == 60
    assert prompts[4].seed == seed_for(5, "ice_cream", STYLES[1], 1)


def test_another_class_or_more_images_leave_the_prompts_that_were_there() -> None:
    before = {(p.seed, p.text) for p in styled_prompts(TASK, STYLES, 4, seed=0)}
    more = Task(("zebra", *TASK.names), ("", *TASK.descriptions))
    after = {(p.seed, p.text) for p in styled_prompts(more, STYLES, 6, seed=0)}
    assert before < after


def test_plain_prompts_have_one_text_a_class_and_different_seeds() -> None:
    prompts = plain_prompts(TASK, STYLES, 3, seed=0)
    assert [prompt.text for prompt in prompts[:3]] == [
        "a photo of a dog",
        "a photo of a ice cream",
        "a photo of a crane, a bird",
    ]
    assert {prompt.style_id for prompt in prompts} == {0}
    assert len({prompt.seed for prompt in prompts}) == 9


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        styled_prompts(TASK, STYLES, 0, seed=0)
    with pytest.raises(ConfigError, match="list of styles is empty"):
        styled_prompts(TASK, (), 1, seed=0)


def test_the_strategies_are_found_by_name() -> None:
    assert prompt_strategies.names() == ["plain", "styles"]
    assert prompt_strategies.resolve("styles")[0] is styled_prompts
