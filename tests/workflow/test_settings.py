from pathlib import Path

import pytest

from clipstill.core.config import dotted, load_yaml
from clipstill.core.config_fields import declared
from clipstill.core.errors import ConfigError, UnknownNameError
from clipstill.workflow.recipes import load_settings, load_with_origins, recipe_names, recipe_path
from clipstill.workflow.settings import Settings


def test_the_default_recipe_changes_only_how_many_images_its_student_gets() -> None:
    loaded = load_with_origins()
    assert loaded.settings == Settings().changed(**{"prompts.images_per_class": 8})
    assert list(loaded.origins) == ["prompts.images_per_class"]
    assert not loaded.given


def test_every_setting_has_a_description_and_a_default() -> None:
    for each in declared(Settings):
        assert each.description.endswith("."), each.name
        assert each.type, each.name


def test_a_shipped_recipe_repeats_no_default_without_a_source() -> None:
    defaults = dict(dotted(Settings().model_dump(mode="json")))
    for name in recipe_names():
        values = load_yaml(recipe_path(name))
        for key, value in () if "extends" in values else dotted(values):
            if defaults[key] == value:
                last = key.rpartition(".")[2]
                lines = [line for line in recipe_path(name).read_text().splitlines() if f" {last}: " in line]
                assert any("#" in line for line in lines), f"{name}: {key}"


def test_origins_name_the_last_place_that_set_a_value(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("synthesis:\n  steps: 11\n  views: 3\n")
    loaded = load_with_origins("ovc", file, ["synthesis.steps=12"], {"seed": 5})
    assert loaded.origins["synthesis.image_size"] == "recipe ovc"
    assert loaded.origins["synthesis.views"] == f"file {file}"
    assert loaded.origins["synthesis.steps"] == "--set"
    assert loaded.origins["seed"] == "flag"
    assert "synthesis.precision" not in loaded.origins
    assert loaded.given == {"synthesis.views", "synthesis.steps", "seed"}


def test_identity_leaves_out_what_changes_no_result() -> None:
    identity = Settings().identity()
    assert not {"device", "threads", "launch"} & set(identity)
    fast = Settings().changed(**{"device": "cpu", "threads": 2, "launch.launcher": "ray"})
    assert fast.identity() == identity
    assert fast.changed(seed=1).identity() != identity


def test_section_values_are_asked_for_by_name() -> None:
    settings = load_settings(overrides=["examples.style_share=0.25", "seed=3"])
    assert settings.section_values("seed") == 3
    assert settings.section_values("examples.style_share") == 0.25
    assert settings.section_values("curation") == settings.curation.identity()
    with pytest.raises(KeyError):
        settings.section_values("launch")


def test_changed_settings_are_checked_anew() -> None:
    assert Settings().changed(**{"synthesis.steps": 40, "seed": 2}).synthesis.steps == 40
    with pytest.raises(ConfigError, match=r"synthesis\.steps is 0\. It must lie between 1 and"):
        Settings().changed(**{"synthesis.steps": 0})
    with pytest.raises(ConfigError, match=r"distillation\.kernel is 'cubic'\. Expected: bilinear or bicubic"):
        load_settings(overrides=["distillation.kernel=cubic"])


def test_synthesis_settings_that_make_nothing_are_refused_before_any_work() -> None:
    with pytest.raises(ConfigError, match="--set: synthesis.text_weight and synthesis.class_weight are both 0"):
        load_settings(overrides=["synthesis.text_weight=0", "synthesis.class_weight=0"])


@pytest.mark.parametrize("name", recipe_names())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert load_settings(name).seed == 0


def test_published_recipes_say_where_their_values_come_from() -> None:
    for name in ("ovc", "dfkd-vlfm", "promptkd"):
        text = recipe_path(name).read_text()
        assert "published" in text
        assert "reconstruction" in text


def test_later_settings_win(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("synthesis:\n  steps: 11\nstudent:\n  name: resnet18\nseed: 4\n")
    config = load_settings("ovc", file, ["synthesis.steps=12"], values={"seed": 5})
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
        load_settings(str(recipe), file)


def test_range_of_a_part_is_told_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"--set: distillation\.temperature is 0"):
        load_settings(overrides=["distillation.temperature=0"])


def test_unknown_recipe_suggests_the_closest() -> None:
    with pytest.raises(UnknownNameError, match=r"no recipe named 'ovv'\. Did you mean 'ovc'"):
        load_settings("ovv")
