"""Class names in, a checked task out; mistakes are told in one line with their place."""

from __future__ import annotations

import os
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
    mapping = file(tmp_path, "classes.yaml", "dog: a pet\ncat:\ndog: a pet\n")
    assert f"class 'dog' appears twice (lines 1 and 3 of {mapping}" in refused(mapping)


def test_an_empty_name_is_refused_with_its_place(tmp_path: Path) -> None:
    assert "position 2 is empty" in refused("dog,,cat")
    assert "position 3 is empty" in refused("dog,cat,")
    path = file(tmp_path, "classes.txt", "dog\n: a description of nothing\n")
    assert f"line 2 of {path} is empty" in refused(path)
    assert "line 2" in refused(file(tmp_path, "classes.yaml", "- dog\n- ''\n"))


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    assert "does not exist" in refused("no-such-classes.txt")
    assert ".txt" in refused(tmp_path / "classes.docx")
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"\xff\xfe\x00d")
    assert "UTF-8" in refused(binary)


def test_malformed_yaml_is_refused_with_its_line(tmp_path: Path) -> None:
    assert "(line 3)" in refused(file(tmp_path, "broken.yaml", "- dog\n- cat\n]\n"))
    assert "line 2" in refused(file(tmp_path, "nested.yaml", "- dog\n- [a, b]\n"))
    assert "neither a list nor a mapping" in refused(file(tmp_path, "scalar.yaml", "dog\n"))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", '[\n\t"dog",\n\t"cat"\n]'),
        ("positions.json", '{"0": "dog", "1": "cat"}'),
        ("indices.json", '{"cat": 1, "dog": 0}'),
        ("python.txt", "['dog', 'cat']"),
        ("tuple.txt", "('dog', 'cat',)"),
        ("dots.txt", "1. dog\n2. cat\n"),
        ("colons.txt", "0: dog\n1: cat\n"),
        ("shuffled.txt", "1: cat\n0: dog\n"),
        ("teachable.txt", "0 dog\n1 cat\n"),
        ("behind.txt", "dog,0\ncat,1\n"),
        ("dashes.txt", "1 - dog\n2 - cat\n"),
        ("tabs.txt", "dog\t0\ncat\t1\n"),
        ("bullets.txt", "- dog\n- cat\n"),
        ("one-line.txt", "dog, cat\n"),
        ("wordnet.txt", "n02084071 dog\nn02121808 cat\n"),
        ("header.txt", "id,name\n0,dog\n1,cat\n"),
        ("header.csv", "name\ndog\ncat\n"),
        ("excel.csv", "Class Name;Index\ndog;0\ncat;1\n"),
        ("darknet.names", "dog\ncat\n"),
        ("data.yaml", "path: ../zoo\ntrain: images\nnc: 2\nnames: [dog, cat]\n"),
        ("data2.yaml", "train: images\nnames:\n  0: dog\n  1: cat\n"),
        ("data.txt", "nc: 2\nnames: ['dog', 'cat']\n"),
    ],
)
def test_a_list_in_a_known_form_is_read(tmp_path: Path, name: str, text: str) -> None:
    assert parse_task(file(tmp_path, name, text)) == Task(("dog", "cat"), ("", ""))


@pytest.mark.parametrize(
    "text", ['["dog", "cat"]', "[dog, cat]", "{dog, cat}", "dog; cat", "dog\ncat\n", "0: dog, 1: cat", "1. dog, 2. cat"]
)
def test_a_list_on_the_command_line_may_have_another_form(text: str) -> None:
    assert parse_task(text).names == ("dog", "cat")


@pytest.mark.parametrize(
    "names",
    [
        ("1 euro", "2 euro"),
        ("1 person", "2 people", "3 or more people"),
        ("Class 1", "Class 2"),
        ("1:1 photo", "2:3 photo"),
        ("1 dollar", "5 dollars"),
        ("tench, Tinca tinca", "goldfish, Carassius auratus"),
        ("0", "1", "2"),
    ],
)
def test_numbers_and_commas_that_belong_to_names_stay(tmp_path: Path, names: tuple[str, ...]) -> None:
    assert parse_task(file(tmp_path, "classes.txt", "\n".join(names))).names == names


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("gap.txt", "0: dog\n2: cat\n", "numbered 0, 2, ..."),
        ("gap.yaml", "names: {0: dog, 3: cat}", "numbered 0, 3, ..."),
        ("quotes.txt", '"dog"\n"cat"\n', "line 1 of"),
        ("code.txt", "names = [\n'dog',\n]", "line 1 of"),
        ("code1.txt", 'names = ["dog", "cat"]', "not one class"),
        ("commas.txt", "dog,\ncat\n", "line 1 of"),
        ("mixed.txt", "dog\n- cat\n", "line 2 of"),
        ("bare.csv", "dog\ncat\n", "no header with a column 'name'"),
        ("commas.csv", "name,description\ncrane,a large, grey bird\n", "line 2 of"),
        ("objects.json", '[{"id": 0, "name": "dog"}]', "nested"),
        ("class_index.json", '{"0": ["n02084071", "dog"]}', "nested"),
    ],
)
def test_a_list_in_another_form_is_refused_with_the_form_expected(
    tmp_path: Path, name: str, text: str, says: str
) -> None:
    message = refused(file(tmp_path, name, text))
    assert says in message
    assert "rite" in message or "Number them" in message or "quotes" in message


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


def test_a_byte_that_is_no_utf8_is_named_by_its_line(tmp_path: Path) -> None:
    path = tmp_path / "classes.txt"
    path.write_bytes("dog\ncafé\n".encode("latin-1"))
    assert "line 2 is not UTF-8" in refused(path)


def test_a_pipe_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "classes.txt")
    assert "pipe" in refused(tmp_path / "classes.txt")


def test_a_text_of_the_page_opens_no_file(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match="is the only class"):
        parse_text(str(file(tmp_path, "classes.txt", "dog\ncat\n")))
