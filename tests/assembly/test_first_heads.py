"""What a student's head begins with: its teacher's own, an embedded teacher's, or rows of its ImageNet classifier."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity

from clipstill.assembly.class_vectors import task_of
from clipstill.assembly.first_heads import first_head
from clipstill.assembly.students import new_student
from clipstill.core.packaged_weights import lite_classifier
from clipstill.students.settings import StudentSettings
from clipstill.students.student import FirstHead, Student
from clipstill.teachers import class_vectors, load_teacher
from clipstill.text.task import Task

CPU = torch.device("cpu")
TASK = task_of(("tabby cat", "acoustic guitar", "school bus"))
# Their numbers among ImageNet's classes.
IMAGENET = (281, 402, 779)


class StrangeTeacher:
    """A teacher that shares no network with a student."""

    multilingual = True


def begun(section: StudentSettings, teacher: Any = None, task: Task = TASK) -> tuple[Student, FirstHead | None]:
    student = new_student(section, len(task.names), section.init, 0)
    return student, first_head(student, section, teacher or StrangeTeacher(), torch.eye(len(task.names)), task)


def test_the_rows_of_the_classifier_are_those_of_what_a_name_means() -> None:
    _, first = begun(StudentSettings(start="classifier"))
    assert first is not None
    rows_KF, _ = lite_classifier("lite0")
    rows_KF = rows_KF - rows_KF.mean(0)
    likeness_CK = cosine_similarity(first.weight_CF[:, None], rows_KF[None], dim=2)
    assert [IMAGENET[place] in row.topk(5).indices for place, row in enumerate(likeness_CK)] == [True] * 3
    assert first.answers_CK is not None
    assert first.answers_CK.argmax(1).tolist() == list(IMAGENET)
    # All classes count alike.
    torch.testing.assert_close(first.answers_CK.norm(dim=1), torch.full((3,), 25.0))
    lengths_C = first.weight_CF.norm(dim=1)
    torch.testing.assert_close(lengths_C, torch.full((3,), 0.25 * float(rows_KF.norm(dim=1).mean())))
    assert not first.bias_C.any()


def test_under_a_strange_teacher_a_lite_begins_as_under_its_own_but_is_held_less() -> None:
    student, first = begun(StudentSettings())
    assert first is not None
    own = load_teacher("embedded-s", CPU)
    vectors_CD = class_vectors(own, [[name] for name in TASK.names])
    expected = first_head(student, StudentSettings(), own, vectors_CD, TASK)
    assert expected is not None
    torch.testing.assert_close(first.weight, expected.weight)
    assert first.worth < expected.worth == 1
    # The names were read by other networks than the teacher's, whose licences count.
    assert not expected.provenance
    assert any("MiniLM" in part.name for part in first.provenance)
    student.begin_with(first)
    assert set(first.provenance) <= set(student.provenance)


def test_a_teacher_of_one_tower_gives_no_head_for_the_other() -> None:
    small = load_teacher("embedded-s", CPU)
    vectors_CD = class_vectors(small, [[name] for name in TASK.names])
    section = StudentSettings(name="lite2")
    first = first_head(new_student(section, 3, section.init, 0), section, small, vectors_CD, TASK)
    assert first is not None
    assert first.worth < 1


def test_other_classes_give_other_heads_in_their_order() -> None:
    _, first = begun(StudentSettings(start="classifier"))
    turned = task_of(TASK.names[::-1])
    _, again = begun(StudentSettings(start="classifier"), task=turned)
    assert first is not None
    assert again is not None
    torch.testing.assert_close(again.weight, first.weight.flip(0))


@pytest.mark.parametrize(
    ("section", "task"),
    [
        (StudentSettings(start="none"), TASK),
        (StudentSettings(init="scratch"), TASK),
        (StudentSettings(name="resnet10t", init="scratch"), TASK),
        (StudentSettings(), task_of(("собака", "cat"))),
        (StudentSettings(start="classifier"), task_of(("0", "1"))),
    ],
)
def test_nothing_is_known_of_random_weights_or_of_names_that_are_no_english(
    section: StudentSettings, task: Task
) -> None:
    assert begun(section, task=task)[1] is None


def test_a_name_that_is_no_english_is_known_by_its_description() -> None:
    section = StudentSettings(start="classifier")
    _, first = begun(section, task=replace(task_of(("собака", "cat")), descriptions=("dog", "")))
    _, plain = begun(section, task=task_of(("dog", "cat")))
    assert first is not None
    assert plain is not None
    torch.testing.assert_close(first.weight, plain.weight)


def test_of_names_that_are_no_english_only_the_teacher_knows_something() -> None:
    own, section = load_teacher("embedded-s", CPU), StudentSettings()
    vectors_CD = class_vectors(own, [["dog"], ["cat"]])
    first = first_head(new_student(section, 2, "pretrained", 0), section, own, vectors_CD, task_of(("собака", "кот")))
    assert first is not None
    assert first.answers_CK is None
