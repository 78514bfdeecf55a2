from dataclasses import fields
from pathlib import Path

import pytest

from clipstill.core.errors import ConfigError, UnknownNameError
from clipstill.distillation.settings import DistilSettings
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.workflow.recipes import load_config, recipe_names, recipe_path
from clipstill.workflow.settings import DistillationSection, SynthesisSection


def test_distillation_section_carries_the_fields_of_its_part() -> None:
    assert set(DistillationSection.model_fields) | {"seed"} == {field.name for field in fields(DistilSettings)}


def test_synthesis_section_carries_the_fields_of_its_part() -> None:
    assert set(SynthesisSection.model_fields) == {field.name for field in fields(SynthesisSettings)}


def test_synthesis_settings_that_make_nothing_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="--set: synthesis.text_weight and synthesis.class_weight are both 0"):
        load_config(overrides=["synthesis.text_weight=0", "synthesis.class_weight=0"])
    with pytest.raises(ConfigError, match="no network named 'lite3'. Did you mean 'lite"):
        load_config(overrides=["synthesis.natural_networks=[lite3]"])
    assert load_config(overrides=["synthesis.natural_networks=[lite0]"]).synthesis.natural_networks == ("lite0",)


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert load_config(name).seed == 0


def test_published_recipes_say_where_their_values_come_from() -> None:
    for name in ("ovc", "dfkd-vlfm", "promptkd"):
        text = recipe_path(name).read_text()
        assert "published" in text
        assert "reconstruction" in text


def test_later_settings_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("synthesis:\n  steps: 11\nstudent:\n  name: resnet18\nseed: 4\n")
    config = load_config("ovc", file, ["synthesis.steps=12"], {"seed": 5})
    assert config.synthesis.steps == 12
    assert config.synthesis.views == 8  # of ovc
    assert config.student.name == "resnet18"
    assert config.seed == 5


def test_wrong_key_in_the_second_file_names_the_second_file(tmp_path: Path) -> None:
    recipe, file = tmp_path / "recipe.yaml", tmp_path / "mine.yaml"
    recipe.write_text("seed: 1\n")
    file.write_text("# mine\ndistilation:\n  steps: 3\n")
    with pytest.raises(
        ConfigError, match=r"mine\.yaml, line 2: unknown key 'distilation'\. Did you mean 'distillation'"
    ):
        load_config(str(recipe), file)


def test_range_of_a_part_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"--set: distillation\.temperature is 0"):
        load_config(overrides=["distillation.temperature=0"])


def test_unknown_recipe_suggests_the_closest() -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe named 'ovv'\. Did you mean 'ovc'"):
        load_config("ovv")
