from pathlib import Path
from typing import Annotated, Literal

import pytest
import yaml
from pydantic import Field

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
    with pytest.raises(ConfigError, match=r"line 2: inner\.steps is 'many'\. Expected: whole number"):
        validate(Outer, load_yaml(path), path)


def test_value_where_a_section_belongs_says_so() -> None:
    with pytest.raises(ConfigError, match="inner = 3 cannot be used: it is a section"):
        validate(Outer, {"inner": 3}, "--set")


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no settings file .*gone\.yaml"):
        load_yaml(tmp_path / "gone.yaml")


def test_empty_file_holds_no_settings(tmp_path: Path) -> None:
    assert load_yaml(written(tmp_path, "# nothing\n")) == {}


def test_off_is_a_word_and_true_a_boolean() -> None:
    assert apply_overrides({}, ["inner.mode=off", "a=true", "b=no"]) == {"inner": {"mode": "off"}, "a": True, "b": "no"}


def test_numbers_in_exponent_form_are_numbers() -> None:
    assert validate(Outer, apply_overrides({}, ["inner.rate=1e-3"]), "--set").inner.rate == 0.001


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


class Kinds(Config):
    number: int = 1
    rate: float = 0.5
    on: bool = True
    name: str = ""
    folder: Path | None = None
    near: Literal["auto"] | Annotated[int, Field(ge=0)] | list[str] = "auto"


def given(text: str) -> Kinds:
    return validate(Kinds, apply_overrides({}, [text]), "--set")


@pytest.mark.parametrize(
    "value",
    [
        *("010", "1_000", "1e3", "1000.0", "0x1F", "0b1", "0o7", "1:30", ".inf", "nan", "2026-01-31", "true", "null"),
        *("'12'", "[1]", "+_1", "0x" + "f" * 6000, "9" * 6000, "!!int 0x" + "f" * 6000),
    ],
)
def test_a_whole_number_is_plain_digits(value: str) -> None:
    with pytest.raises(ConfigError, match="number .*Expected: whole number") as caught:
        given(f"number={value}")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("text", "meant"), [("number=3.0", "3"), ("number=1e3", "1000"), ("number=-2.5E1", "-25"), ("near=4.0", "4")]
)
def test_a_whole_number_that_is_written_as_another_comes_with_the_plain_one(text: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"Expected: .*whole number.*\. Did you mean {meant}\?$"):
        given(text)
    with pytest.raises(ConfigError, match=rf"Did you mean {meant}\?$"):
        validate(Kinds, {text.split("=")[0]: float(text.split("=")[1])}, "settings")


@pytest.mark.parametrize("text", ["number=2.5", "number=1e-3", "number=1e99", "number=1e999", "number=.inf"])
def test_numbers_that_are_not_whole_come_without_a_proposal(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        given(text)
    assert "Did you mean" not in str(caught.value)


@pytest.mark.parametrize("value", ["010.5", "1_0.5", ".inf", "-.inf", "nan", "0x1F", "true", "1:30.5"])
def test_a_number_is_finite_and_decimal(value: str) -> None:
    with pytest.raises(ConfigError, match="rate is .*Expected: number"):
        given(f"rate={value}")


def test_plain_numbers_are_read() -> None:
    assert [given(f"number={text}").number for text in ("12", "-3", "+5", "0")] == [12, -3, 5, 0]
    assert [given(f"rate={text}").rate for text in ("1", "1.", ".5", "1e-3", "2.5E+2")] == [1.0, 1.0, 0.5, 0.001, 250.0]


def test_texts_that_look_like_numbers_and_dates_are_texts() -> None:
    texts = ["007", "2026-01-31", "no", "0x1F", "1_000", "nan", "<<"]
    assert given(f"near=[{', '.join(texts)}]").near == texts
    assert given("name=010").name == "010"
    assert given("folder=2026-01-31").folder == Path("2026-01-31")


def test_a_range_is_told_rather_than_another_kind() -> None:
    with pytest.raises(ConfigError, match="near is -1. It must lie at or above 0"):
        given("near=-1")


def test_texts_survive_being_written_and_read(tmp_path: Path) -> None:
    texts = [
        "007",
        "010",
        "1e3",
        "1_000",
        "0x1F",
        ".inf",
        "nan",
        "no",
        "null",
        "true",
        "~",
        "2026-01-31",
        "1:30",
        "12",
        "<<",
        "",
    ]
    assert load_yaml(written(tmp_path, yaml.safe_dump({"near": texts}))) == {"near": texts}
