"""What the linear head of a pretrained student begins with: what is known of the class names without a picture.

Shapes: C classes, K = 1000 ImageNet classes, F features, D dimensions of a teacher.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import normalize

from clipstill.core.packaged_weights import LITE
from clipstill.core.protocols import HeadTeacher
from clipstill.students.student import FirstHead, Student
from clipstill.text.reading import as_read, unread
from clipstill.text.templates import NAME_TEMPLATES, class_texts

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.core.protocols import Teacher
    from clipstill.students.settings import StudentSettings
    from clipstill.text.task import Task

# What the teacher itself does not know counts as a tenth of what it knows. Chosen, with the length, on PACS and
# Caltech-101 (docs/measured.md).
_WORTH = 0.1
# Length of a class's row, as a share of the mean length of ImageNet's rows: a full length would make answers about a
# few classes too sure.
_LENGTH = 0.25


@torch.no_grad()
def first_head(
    student: Student, section: StudentSettings, teacher: Teacher, class_vectors_CD: Tensor, task: Task
) -> FirstHead | None:
    """The first weights of a student's linear head, on the CPU; None where it begins with nothing.

    They come from the teacher, where it shares the student's network; else from the embedded teacher that does, by the
    class names; else from the rows of the network's own ImageNet classifier, in the proportions in which a name is near
    to ImageNet's classes. Names that are no English begin with nothing but what the teacher knows.
    """
    if section.start == "none" or section.init != "pretrained":
        return None
    if section.start == "names" and isinstance(teacher, HeadTeacher):
        found = teacher.linear_head(student.name, class_vectors_CD)
        if found is not None:
            return FirstHead(*found)
    shares_network = section.start == "names" and student.name in LITE
    if unread(task, multilingual=False) or (student.imagenet_KF is None and not shares_network):
        return None
    from clipstill.teachers import class_vectors
    from clipstill.teachers.embedded import EmbeddedTeacher

    network = student.name if shares_network else "lite0"
    reader = EmbeddedTeacher(f"embedded {network}", (network,), torch.device("cpu"))
    vectors_CD = class_vectors(reader, class_texts(as_read(task, multilingual=False), NAME_TEMPLATES))
    provenance = tuple(reader.provenance)
    if shares_network:
        found = reader.linear_head(network, vectors_CD)
        assert found is not None
        return FirstHead(*found, _WORTH, provenance)
    assert student.imagenet_KF is not None
    rows_KF = student.imagenet_KF - student.imagenet_KF.mean(0)
    length = _LENGTH * rows_KF.norm(dim=1).mean()
    weight_CF = length * normalize(reader.imagenet_shares(vectors_CD) @ rows_KF, dim=1)
    return FirstHead(weight_CF, torch.zeros(len(weight_CF)), _WORTH, provenance)
