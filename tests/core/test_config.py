from pathlib import Path

import pytest

from clipstill.core.config import Config, apply_overrides, load_yaml, merge, validate
from clipstill.core.errors import ConfigError


class Inner(Config):
    steps: int = 1
    rate: float = 0.1
    mode: str = "off"


class Outer(Config):
    inner: Inner = Inner()
    seed: int = 0


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return path


def test_unknown_key_names_file_line_and_the_closest_key(tmp_path: Path) -> None:
    path = written(tmp_path, "seed: 1\ninner:\n  rate: 0.5\n  stepz: 4\n")
    with pytest.raises(ConfigError, match=r"settings\.yaml, line 4: unknown key 'inner\.stepz'\. Did you mean 'steps'"):
        validate(Outer, load_yaml(path), path)


def test_wrong_value_names_key_and_line(tmp_path: Path) -> None:
    path = written(tmp_path, "inner:\n  steps: many\n")
    with pytest.raises(ConfigError, match=r"line 2: inner\.steps = 'many' cannot be used"):
        validate(Outer, load_yaml(path), path)


def test_value_where_a_section_belongs_says_so() -> None:
    with pytest.raises(ConfigError, match="inner = 3 cannot be used: it is a section"):
        validate(Outer, {"inner": 3}, "--set")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("inner: [1, 2\n", "not valid YAML"),
        ("- a\n- b\n", "must hold settings"),
        ("seed: 1\nseed: 2\n", r"line 2, is not valid YAML: key 'seed' appears twice"),
        ("seed: !!python/object:os.system {}\n", "not valid YAML"),
        ("inner:\n\t- x\n", "line 2, is not valid YAML"),
    ],
)
def test_yaml_that_cannot_be_settings_is_one_line(tmp_path: Path, text: str, message: str) -> None:
    path = written(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_yaml(path)
    assert "\n" not in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no settings file .*gone\.yaml"):
        load_yaml(tmp_path / "gone.yaml")


def test_empty_file_holds_no_settings(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, "# nothing\n")) == {}


def test_off_is_a_word_and_true_a_boolean() -> None:
    assert apply_overrides({}, ["inner.mode=off", "a=true", "b=no"]) == {"inner": {"mode": "off"}, "a": True, "b": "no"}


def test_numbers_in_exponent_form_are_numbers() -> None:
    assert validate(Outer, apply_overrides({}, ["inner.rate=1e-3"]), "--set").inner.rate == 0.001


@pytest.mark.parametrize("text", ["steps", "=3", "inner.=3", ".steps=3", "inner.steps=[1"])
def test_malformed_override_is_an_error(text: str) -> None:
    with pytest.raises(ConfigError, match="--set"):
        apply_overrides({}, [text])


def test_merge_keeps_what_is_not_named_and_leaves_its_arguments_alone() -> None:
    base = {"inner": {"steps": 1, "rate": 2}, "seed": 0}
    assert merge(base, {"inner": {"steps": 5}}) == {"inner": {"steps": 5, "rate": 2}, "seed": 0}
    assert base == {"inner": {"steps": 1, "rate": 2}, "seed": 0}


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Outer().seed = 3  # type: ignore[misc]


def test_a_template_in_braces_is_a_text_and_no_mapping() -> None:
    assert apply_overrides({}, ["prompts.template={class}"]) == {"prompts": {"template": "{class}"}}
    assert apply_overrides({}, ["a={b: 1}"]) == {"a": {"b": 1}}
