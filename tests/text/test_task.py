"""Class names in, a checked task out; mistakes are told in one line with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipstill.core.errors import TaskError
from clipstill.text.task import Task, parse_task


def file(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def refused(classes: object) -> str:
    with pytest.raises(TaskError) as caught:
        parse_task(classes)  # type: ignore[arg-type]
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_comma_separated_names_are_stripped_and_keep_their_order() -> None:
    assert parse_task(" dog ,sea   horse, Cat").names == ("dog", "sea horse", "Cat")


def test_a_sequence_may_carry_descriptions() -> None:
    task = parse_task(["dog", "crane: a large wading bird"])
    assert task == Task(("dog", "crane"), ("", "a large wading bird"))


def test_a_colon_without_a_space_belongs_to_the_name() -> None:
    assert parse_task(["16:9 photo", "4:3 photo"]).names == ("16:9 photo", "4:3 photo")


def test_a_text_file_has_one_class_a_line_and_comments(tmp_path: Path) -> None:
    path = file(tmp_path, "classes.txt", "\ufeff# animals\n\ndog  # a pet\ncrane: a bird\nC#\n")
    for given in (path, str(path)):
        assert parse_task(given) == Task(("dog", "crane", "C#"), ("", "a bird", ""))


def test_yaml_may_be_a_list_or_a_mapping(tmp_path: Path) -> None:
    expected = Task(("no", "007", "crane"), ("", "", "a bird"))
    assert parse_task(file(tmp_path, "list.yaml", "- no\n- 007\n- crane: a bird\n")) == expected
    assert parse_task(file(tmp_path, "map.yml", "no:\n007: ''\ncrane: a bird\n")) == expected


def test_a_task_survives_json() -> None:
    task = parse_task(["dog", "crane: a bird"])
    assert Task.from_json(task.to_json()) == task


@pytest.mark.parametrize("value", [[], {"names": ["a"]}, {"names": ["a", "b"], "descriptions": [""]}, None])
def test_a_damaged_stored_task_is_refused(value: object) -> None:
    with pytest.raises(TaskError, match="new folder"):
        Task.from_json(value)


@pytest.mark.parametrize("nothing", ["", "  ", [], ()])
def test_no_class_is_refused(nothing: object) -> None:
    assert "no class is named" in refused(nothing)


def test_an_empty_file_is_refused_by_name(tmp_path: Path) -> None:
    for name in ("empty.txt", "empty.yaml"):
        path = file(tmp_path, name, "# nothing\n")
        assert f"no class is named in {path}" in refused(path)


def test_one_class_is_refused() -> None:
    assert "'dog' is the only class" in refused("dog")


@pytest.mark.parametrize("again", ["dog", "Dog", " DOG ", "d og", "d-og", "D_OG"])
def test_duplicates_are_found_whatever_the_case_and_the_spaces(again: str) -> None:
    message = refused(["dog", "cat", again])
    assert message.startswith("class 'dog' appears twice (positions 1 and 3")


def test_a_second_spelling_is_named() -> None:
    assert "the second time as 'Ice_Cream'" in refused("ice cream,Ice_Cream")


def test_duplicates_in_files_are_named_by_line(tmp_path: Path) -> None:
    text = file(tmp_path, "classes.txt", "dog\n\n# more\nDog\n")
    assert f"class 'dog' appears twice (lines 1 and 4 of {text}" in refused(text)
    mapping = file(tmp_path, "classes.yaml", "dog: a pet\ncat:\ndog: again\n")
    assert f"class 'dog' appears twice (lines 1 and 3 of {mapping}" in refused(mapping)


def test_an_empty_name_is_refused_with_its_place(tmp_path: Path) -> None:
    assert "position 2 is empty" in refused("dog,,cat")
    assert "position 3 is empty" in refused("dog,cat,")
    path = file(tmp_path, "classes.txt", "dog\n: a description of nothing\n")
    assert f"line 2 of {path} is empty" in refused(path)
    assert "line 2" in refused(file(tmp_path, "classes.yaml", "- dog\n- ''\n"))


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused("no-such-classes.txt")
    assert ".txt" in refused(tmp_path / "classes.csv")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00d")
    assert "UTF-8" in refused(binary)


def test_malformed_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "(line 3)" in refused(file(tmp_path, "broken.yaml", "- dog\n- cat\n]\n"))
    assert "line 2" in refused(file(tmp_path, "nested.yaml", "- dog\n- [a, b]\n"))
    assert "neither a list nor a mapping" in refused(file(tmp_path, "scalar.yaml", "dog\n"))
