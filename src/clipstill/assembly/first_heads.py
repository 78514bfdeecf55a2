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

# How much of ``distillation.pull`` holds to what another teacher knows of the names, and to the rows of a classifier.
# The latter was chosen, with the next two, on PACS and Caltech-101 (docs/measured.md).
_WORTH, _ROWS_WORTH = 0.1, 0.003
# Length of a class's row, as a share of the mean length of ImageNet's rows: a full length would make answers about a
# few classes too sure.
_LENGTH = 0.25
# Logits of a photo of which ImageNet's classifier is sure that it shows just what a name means.
_SURE = 25.0


@torch.no_grad()
def first_head(
    student: Student, section: StudentSettings, teacher: Teacher, class_vectors_CD: Tensor, task: Task
) -> FirstHead | None:
    """The first weights of a student's linear head, on the CPU; None where it begins with nothing.

    They come from the teacher, where it shares the student's network; else from the embedded teacher that does, by the
    class names; else from the rows of the network's own ImageNet classifier, in the proportions in which a name is near
    to ImageNet's classes. In the same proportions, the answers of that classifier count beside its features. Of names
    that are no English only the teacher knows something.
    """
    if section.start == "none" or section.init != "pretrained":
        return None
    own = None
    if section.start == "names" and isinstance(teacher, HeadTeacher):
        own = teacher.linear_head(student.name, class_vectors_CD)
    is_read = not unread(task, multilingual=False)
    shares_network = section.start == "names" and student.name in LITE
    if not is_read or (student.imagenet is None and not shares_network):
        return None if own is None else FirstHead(*own)
    from clipstill.teachers import class_vectors
    from clipstill.teachers.embedded import EmbeddedTeacher

    network = student.name if shares_network else "lite0"
    reader = EmbeddedTeacher(f"embedded {network}", (network,), torch.device("cpu"))
    vectors_CD = class_vectors(reader, class_texts(as_read(task, multilingual=False), NAME_TEMPLATES))
    share_CK = reader.imagenet_shares(vectors_CD)
    answers_CK = None if student.imagenet is None else _SURE * normalize(share_CK, dim=1)
    if own is not None:
        return FirstHead(*own, answers_CK)
    provenance = tuple(reader.provenance)
    if shares_network:
        found = reader.linear_head(network, vectors_CD)
        assert found is not None
        return FirstHead(*found, answers_CK, worth=_WORTH, provenance=provenance)
    assert student.imagenet is not None
    rows_KF = student.imagenet[0] - student.imagenet[0].mean(0)
    length = _LENGTH * rows_KF.norm(dim=1).mean()
    weight_CF = length * normalize(share_CK @ rows_KF, dim=1)
    bias_C = torch.zeros(len(weight_CF))
    return FirstHead(weight_CF, bias_C, answers_CK, worth=_ROWS_WORTH, provenance=provenance)
