"""A student small enough to export in a second, and what a bundle needs beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from clipstill.core.description import Description, ExportFacts
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import generator_for
from clipstill.export.bundle import BundleContent, write_bundle
from run_fixtures import once

SIZE = 32
LABELS = ("dog", "elephant", "guitar")
PREPROCESS = Preprocess(size=SIZE, mean=(0.5, 0.4, 0.3), std=(0.2, 0.25, 0.3), crop_fraction=0.875)
PROVENANCE = (
    Provenance("tiny tower", "Apache-2.0", "package tiny", "ab" * 32),
    Provenance("tiny words", "CC-BY-SA-4.0", "package words"),
)


class TinyStudent(nn.Module):
    """The interface of a student: pixels in [0, 1] in, logits out, normalisation of its own."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.preprocess = PREPROCESS
        self.provenance = PROVENANCE
        self.register_buffer("mean", torch.tensor(PREPROCESS.mean).reshape(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(PREPROCESS.std).reshape(1, 3, 1, 1))
        self.backbone = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6(inplace=True), nn.Flatten()
        )
        self.head = nn.Linear(8 * (SIZE // 2) ** 2, classes)

    def forward(self, x_N3HW: Tensor) -> Tensor:
        return self.head(self.backbone((x_N3HW - self.mean) / self.std))


def new_student(classes: int = 3) -> TinyStudent:
    """The same weights at each call."""
    student = TinyStudent(classes)
    generator = generator_for("tiny student")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return student


def content(student: TinyStudent) -> BundleContent:
    """A whole bundle's content."""
    description = Description(LABELS, student.preprocess, student.provenance, info={"seed": 0})
    return BundleContent(student, torch.eye(3, 4), description)


def describe(facts: ExportFacts) -> dict[str, str]:
    """Stands for the texts of the report part."""
    return {"card.md": f"{facts.onnx_bytes} bytes\n", "LICENCES.md": "Apache-2.0\n"}


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of ``new_student``, alone in its folder. Copy it to change it."""

    def make(folder: Path) -> None:
        write_bundle(folder / "bundle", content(new_student()), describe, key="tiny")

    return once(tmp_path_factory, "tiny", make) / "bundle"


def bundle_and_photos(folder: Path) -> Path:
    """A folder with a ``bundle`` without a page, and one of ``photos`` with a red picture a class."""
    write_bundle(folder / "bundle", replace(content(new_student()), page=False), describe)
    for name in LABELS:
        (folder / "photos" / name).mkdir(parents=True)
        Image.new("RGB", (40, 40), "red").save(folder / "photos" / name / "a.png")
    return folder
