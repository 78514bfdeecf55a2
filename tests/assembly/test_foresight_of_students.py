"""Of which students anything is foretold: of those that are like the measured ones."""

import pytest

from clipstill.assembly.foresight import _unlike_measured
from clipstill.workflow.settings import Settings


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),
        ({"prompts.images_per_class": 2}, ""),
        ({"prompts.images_per_class": 2, "student.name": "lite2"}, "fewer than 16 images"),
        ({"prompts.images_per_class": 2, "student.start": "none"}, "fewer than 16 images"),
        ({"prompts.images_per_class": 2, "student.head": "class-vectors"}, "fewer than 16 images"),
        ({"prompts.images_per_class": 16, "student.start": "none"}, ""),
        ({"student.init": "scratch"}, "from scratch"),
    ],
)
def test_a_student_with_few_images_is_foretold_if_it_begins_with_what_its_teacher_knows(
    changes: dict[str, object], reason: str
) -> None:
    found = _unlike_measured(Settings().changed(**{"teacher.name": "embedded-s", **changes}))
    assert reason in found
    assert bool(found) == bool(reason)
