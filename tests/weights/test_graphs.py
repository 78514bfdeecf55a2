"""Stored ONNX graphs give the files that torch's exporter gives."""

from __future__ import annotations

import pytest
import torch

from clipstill.export.format import deployed_copy
from clipstill.export.onnx import traced_graph
from clipstill.export.stored_graphs import FOLDER, state_of, stored_graph
from clipstill.students.student import Student
from tools.weights.graphs import default_students


@pytest.fixture(scope="module")
def students() -> list[Student]:
    return list(default_students(3))


def test_every_network_that_a_default_run_exports_has_a_stored_graph(students: list[Student]) -> None:
    found = [stored_graph(deployed_copy(each), each.preprocess.size) for each in students]
    assert None not in found
    assert len(list(FOLDER.iterdir())) == len(students)


@pytest.mark.slow
def test_a_stored_graph_with_weights_is_what_the_exporter_writes(students: list[Student]) -> None:
    for student in students:
        # Other weights than those that the file was made from, so that none of them can be a constant of the graph.
        for value in state_of(student).values():
            if value.is_floating_point():
                value.data.mul_(1 + torch.rand(value.shape) / 100)
        model, size = deployed_copy(student), student.preprocess.size
        stored, traced = stored_graph(model, size), traced_graph(model, size)
        assert stored is not None
        assert stored.SerializeToString(deterministic=True) == traced.SerializeToString(deterministic=True)


def test_a_network_of_another_structure_has_none(students: list[Student]) -> None:
    student = students[0]
    assert stored_graph(deployed_copy(student), 192) is None
    student.head = torch.nn.Linear(student.head.in_features, 3, bias=False)  # type: ignore[arg-type]
    assert stored_graph(deployed_copy(student), student.preprocess.size) is None
