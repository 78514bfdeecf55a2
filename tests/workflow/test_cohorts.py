"""Which images serve which classes: what a folder holds, settings, and the choice that follows. No model is loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from clipstill.core.image_folder import ImageFolder
from clipstill.stages import STAGES
from clipstill.text.task import parse_task
from clipstill.workflow.cohorts import Cohort, CohortsInUse, FolderHistory, cohorts_in_use
from clipstill.workflow.keys import Keys
from clipstill.workflow.photos import Photos
from clipstill.workflow.recipes import load_settings
from run_fixtures import noise_photos


def choose(
    history: FolderHistory, classes: str, *overrides: str, examples: ImageFolder | None = None
) -> tuple[CohortsInUse, FolderHistory]:
    """What serves the classes, and what the folder holds once the work has begun."""
    keys = Keys(STAGES, load_settings(overrides=overrides), Photos(examples=examples))
    in_use = cohorts_in_use(keys, parse_task(classes), history)
    return in_use, FolderHistory(
        _with(history.images, in_use.images), _with(history.near_misses, in_use.near_misses), history.students
    )


def _with(cohorts: tuple[Cohort, ...], used: tuple[Cohort, ...]) -> tuple[Cohort, ...]:
    by_key = {cohort.key: cohort for cohort in cohorts}
    return tuple((by_key | {cohort.key: cohort for cohort in used}).values())


def finished(history: FolderHistory) -> FolderHistory:
    """The same once all images are there."""
    return FolderHistory(
        tuple(replace(cohort, complete=True) for cohort in history.images),
        tuple(replace(cohort, complete=True) for cohort in history.near_misses),
        history.students,
    )


def used(in_use: CohortsInUse) -> list[tuple[int, tuple[str, ...]]]:
    return [(cohort.number, cohort.used) for cohort in in_use.images]


EMPTY = FolderHistory()


@pytest.mark.parametrize(
    "overrides", [(), ("refusal.near_misses=0",), ("prompts.images_per_class=0", "refusal.near_misses=0")]
)
def test_an_empty_folder_has_one_cohort_of_all_classes(overrides: tuple[str, ...]) -> None:
    task = parse_task("dog,cat: a pet")
    in_use, _ = choose(EMPTY, "dog,cat: a pet", *overrides)
    keys = Keys(STAGES, load_settings(overrides=overrides), Photos())
    assert not any("-" in step.name for step in keys.steps(task, in_use))
    assert all(cohort.is_whole and cohort.used == task.names for cohort in in_use.images)
    assert len(in_use.images) == ("surrogate" in keys.stages)


def test_a_cohort_that_is_not_finished_serves_only_the_classes_it_was_begun_for() -> None:
    _, history = choose(EMPTY, "dog,cat")
    assert used(choose(history, "dog,cat")[0]) == [(1, ("dog", "cat"))]
    in_use, _ = choose(history, "dog,cat,cow")
    assert used(in_use) == [(1, ("dog", "cat", "cow"))]
    assert in_use.images[0].key != history.images[0].key


def test_images_that_are_not_finished_are_begun_anew_when_examples_come(tmp_path: Path) -> None:
    """Those of the other classes would be told apart by vectors that examples have moved."""
    _, history = choose(EMPTY, "dog,cat")
    examples = ImageFolder.open(noise_photos(tmp_path, ["dog"], 2), ("dog", "cat"))
    assert used(choose(history, "dog,cat", examples=examples)[0]) == [(1, ("dog", "cat"))]
    assert used(choose(finished(history), "dog,cat", examples=examples)[0]) == [(1, ("cat",)), (2, ("dog",))]


def test_another_description_is_another_class_and_another_order_is_not() -> None:
    history = finished(choose(EMPTY, "dog,crane")[1])
    assert used(choose(history, "crane,dog")[0]) == [(1, ("crane", "dog"))]
    assert used(choose(history, "dog,crane: a machine")[0]) == [(1, ("dog",)), (2, ("crane",))]


def test_other_settings_draw_all_classes_together_and_the_old_ones_find_their_cohorts() -> None:
    history = finished(choose(EMPTY, "dog,cat")[1])
    history = finished(choose(history, "dog,cat,cow")[1])
    assert used(choose(history, "dog,cat,cow")[0]) == [(1, ("dog", "cat")), (2, ("cow",))]
    other, history = choose(history, "dog,cat,cow", "synthesis.steps=3")
    assert used(other) == [(1, ("dog", "cat", "cow"))]
    assert used(choose(finished(history), "dog,cat,cow")[0]) == [(1, ("dog", "cat")), (2, ("cow",))]


def test_two_cohorts_of_one_folder_get_one_each_when_both_are_in_use() -> None:
    history = finished(choose(EMPTY, "dog,cat")[1])
    history = finished(choose(history, "cow,horse")[1])  # None of the first: the folder changes hands.
    assert [cohort.number for cohort in history.images] == [1, 1]
    in_use, history = choose(history, "dog,cat,cow,horse")
    assert used(in_use) == [(1, ("dog", "cat")), (2, ("cow", "horse"))]
    assert [cohort.number for cohort in history.images] == [1, 2]


def test_only_the_student_s_own_settings_leave_all_images_in_use() -> None:
    history = finished(choose(EMPTY, "dog,cat")[1])
    history = finished(choose(history, "dog,cat,cow")[1])
    before, after = (choose(history, "dog,cat,cow", *more)[0] for more in ((), ("student.image_size=64",)))
    assert before == after
