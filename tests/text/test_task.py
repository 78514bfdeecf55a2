"""Class names in, a checked task out; mistakes are told in one line with their place."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipstill.core.errors import TaskError
from clipstill.text.task import Task, parse_task, parse_text
from clipstill.text.templates import class_texts


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


@pytest.mark.parametrize("again", ["dog", "Dog", " DOG ", "d og", "d-og", "D_OG"])
def test_duplicates_are_found_whatever_the_case_and_the_spaces(again: str) -> None:
    message = refused(["dog", "cat", again])
    assert message.startswith("class 'dog' appears twice (positions 1 and 3")


def test_a_second_spelling_is_named() -> None:
    assert "the second time as 'Ice_Cream'" in refused("ice cream,Ice_Cream")


def test_duplicates_in_files_are_named_by_line(tmp_path: Path) -> None:
    text = file(tmp_path, "classes.txt", "dog\n\n# more\nDog\n")
    assert f"class 'dog' appears twice (lines 1 and 4 of {text}" in refused(text)
    mapping = file(tmp_path, "classes.yaml", "dog: a pet\ncat:\ndog: a pet\n")
    assert f"class 'dog' appears twice (lines 1 and 3 of {mapping}" in refused(mapping)


def test_an_empty_name_is_refused_with_its_place(tmp_path: Path) -> None:
    assert "position 2 is empty" in refused("dog,,cat")
    assert "position 3 is empty" in refused("dog,cat,")
    path = file(tmp_path, "classes.txt", "dog\n: a description of nothing\n")
    assert f"line 2 of {path} is empty" in refused(path)
    assert "line 2" in refused(file(tmp_path, "classes.yaml", "- dog\n- ''\n"))


def test_a_comma_in_a_description_makes_no_class(tmp_path: Path) -> None:
    crane = Task(("crane", "dog"), ("a large, grey bird", ""))
    assert parse_task("crane: a large, grey bird,dog") == crane
    assert parse_task("crane: a large, grey bird; dog") == crane
    assert parse_task('["crane: a large, grey bird", "dog"]') == crane
    assert parse_task(file(tmp_path, "classes.txt", "crane: a large, grey bird\ndog\n")) == crane
    assert parse_task("crane: a bird,dog,cat").names == ("crane", "dog", "cat")
    assert parse_task("crane: a bird, dog: a pet").names == ("crane", "dog")
    assert "is 'grey bird' a class, or does it belong to the description" in refused("crane: a large, grey bird, dog")


def test_one_name_may_stand_for_two_classes_where_descriptions_differ(caplog: pytest.LogCaptureFixture) -> None:
    task = parse_task(["crane: a bird", "dog", "Crane: a machine", "crane (2)"])
    assert task.names == ("crane", "dog", "Crane (3)", "crane (2)")
    assert "they are shown as Crane (3)" in caplog.text
    assert class_texts(task, ["a photo of a {class}"])[2] == ["a photo of a Crane, a machine"]
    assert "or describe what differs, as in 'crane: ...'" in refused(["crane: a bird", "Crane: a bird"])


def test_what_the_teacher_reads_alike_is_known() -> None:
    assert parse_task(["01_euro", "dog", "02_euro", "dog (2)"]).read_alike() == [
        ["01_euro", "02_euro"],
        ["dog", "dog (2)"],
    ]
    assert parse_task(["01_euro: silver", "02_euro: gold"]).read_alike() == []


def test_a_text_of_the_page_opens_no_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is the only class"):
        parse_text(str(file(tmp_path, "classes.txt", "dog\ncat\n")))


def test_a_hundred_thousand_classes_are_read() -> None:
    assert len(parse_task([f"class {number}" for number in range(100_000)]).names) == 100_000
