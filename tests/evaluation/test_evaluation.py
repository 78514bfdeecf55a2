"""Metrics against counting by hand, and evaluation over real files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from clipstill.core.errors import DataError
from clipstill.core.image_folder import ImageFolder
from clipstill.core.protocols import Preprocess
from clipstill.evaluation import metrics
from clipstill.evaluation.evaluate import Calibration, Evaluation, evaluate, student_predictor, teacher_predictor

COLOURS = {"red": (250, 10, 10), "green": (10, 250, 10), "blue": (10, 10, 250)}
PREPROCESS = Preprocess(32, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def colour_logits(images_NHW3: np.ndarray) -> np.ndarray:
    """Mean of each channel: right on pictures of one colour."""
    return images_NHW3.astype(np.float32).mean(axis=(1, 2)) / 25


@pytest.fixture
def folder(tmp_path: Path) -> ImageFolder:
    for name, colour in COLOURS.items():
        (tmp_path / name).mkdir()
        for number in range(3):
            Image.new("RGB", (50, 40), colour).save(tmp_path / name / f"{number}.png")
    return ImageFolder.open(tmp_path, list(COLOURS))


def test_metrics_agree_with_counting_by_hand() -> None:
    rng = np.random.default_rng(3)
    logits, labels = rng.normal(size=(200, 7)), rng.integers(0, 7, 200)
    ranks = [
        sorted(range(7), key=lambda c, row=row: -row[c]).index(label) for row, label in zip(logits, labels, strict=True)
    ]
    assert metrics.top1(logits, labels) == pytest.approx(sum(rank == 0 for rank in ranks) / 200)
    assert metrics.top5(logits, labels) == pytest.approx(sum(rank < 5 for rank in ranks) / 200)
    counts, pairs = metrics.confusion(logits, labels), list(zip(logits, labels, strict=True))
    for true in range(7):
        for predicted in range(7):
            by_hand = sum(label == true and max(range(7), key=row.__getitem__) == predicted for row, label in pairs)
            assert counts[true, predicted] == by_hand


def test_per_class_is_the_diagonal_share_and_none_without_images() -> None:
    logits = np.array([[2.0, 1, 0], [0, 1, 0], [3, 1, 0]])
    assert metrics.per_class(logits, np.array([0, 0, 0])) == [pytest.approx(2 / 3), None, None]


def test_top5_says_nothing_about_five_classes() -> None:
    assert metrics.top5(np.zeros((4, 5)), np.zeros(4, dtype=int)) is None


def test_equal_logits_count_the_same_in_top1_and_confusion() -> None:
    logits, labels = np.zeros((6, 3)), np.array([0, 0, 1, 1, 2, 2])
    assert metrics.top1(logits, labels) == pytest.approx(np.trace(metrics.confusion(logits, labels)) / 6)


def test_ece_of_a_hand_made_case() -> None:
    # Two images at 0.75, one of them right; one image at 0.9, right: (2 * |0.5 - 0.75| + |1 - 0.9|) / 3.
    probabilities = np.array([[0.75, 0.25], [0.75, 0.25], [0.1, 0.9]])
    assert metrics.ece(np.log(probabilities), np.array([0, 1, 1])) == pytest.approx((2 * 0.25 + 0.1) / 3)


def test_ece_vanishes_when_labels_are_drawn_from_the_prediction() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20_000, 4)) * 2
    probabilities = metrics.softmax(logits)
    labels = (probabilities.cumsum(axis=1) < rng.random((20_000, 1))).sum(axis=1).clip(0, 3)
    calibrated, overconfident = metrics.ece(logits, labels), metrics.ece(logits * 4, labels)
    assert calibrated < 0.02
    assert overconfident > 0.1


def test_right_classifier_gets_one_hundred_percent(folder: ImageFolder) -> None:
    result = evaluate(colour_logits, folder, PREPROCESS)
    assert (result.n, result.top1, result.top5) == (9, 1.0, None)
    assert result.confusion == [[3, 0, 0], [0, 3, 0], [0, 0, 3]]
    json.dumps(result.to_json())


def test_truncated_image_is_skipped_named_and_counted(folder: ImageFolder) -> None:
    broken = folder.path / "red" / "1.png"
    broken.write_bytes(broken.read_bytes()[:60])
    result = evaluate(colour_logits, folder, PREPROCESS)
    assert result.n == 8
    assert result.top1 == 1.0
    assert [each.file for each in result.skipped] == [str(broken)]


def test_folder_of_unreadable_images_is_an_error(folder: ImageFolder) -> None:
    for path, _ in folder.items:
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of the 9 images"):
        evaluate(colour_logits, folder, PREPROCESS)


def test_a_right_photo_that_is_refused_does_not_count_and_mistakes_are_named(folder: ImageFolder) -> None:
    (folder.path / "red" / "0.png").unlink()
    Image.new("RGB", (50, 40), (130, 125, 120)).save(folder.path / "red" / "0.png")  # Hardly red: refused.
    (folder.path / "blue" / "1.png").unlink()
    Image.new("RGB", (50, 40), COLOURS["green"]).save(folder.path / "blue" / "1.png")
    result = evaluate(colour_logits, folder, PREPROCESS, calibration=Calibration(threshold=0.9))
    assert (result.top1, result.right_and_answered, result.accepted) == (8 / 9, 7 / 9, 8 / 9)
    wrong = [(Path(one.file).parent.name, one.label, one.said) for one in result.mistakes]
    assert wrong == [("blue", "blue", "green"), ("red", "red", "none of these")]
    assert "answers" not in result.to_json()  # A bundle holds no name of a photo.


class ColourTeacher:
    """Sees the mean colour."""

    preprocess = PREPROCESS
    logit_scale = 10.0

    def encode_image(self, x_N3HW: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x_N3HW.mean((2, 3)), dim=1)


class SwappedStudent(torch.nn.Module):
    """Takes green for blue and blue for green."""

    preprocess = PREPROCESS

    def forward(self, x_N3HW: torch.Tensor) -> torch.Tensor:
        return x_N3HW.mean((2, 3))[:, [0, 2, 1]]


def test_teacher_and_student_are_measured_side_by_side(folder: ImageFolder) -> None:
    predictors = (student_predictor(SwappedStudent()), teacher_predictor(ColourTeacher(), torch.eye(3)))
    found = Evaluation(*(evaluate(predict, folder, PREPROCESS) for predict in predictors))
    result = json.loads(json.dumps(found.to_json()))
    assert Evaluation.from_json(result) == found
    assert result["n"] == 9
    assert result["teacher_top1"] == 1.0
    assert result["student_top1"] == pytest.approx(1 / 3)
    assert result["chance"] == pytest.approx(1 / 3)
    assert result["student"]["per_class"] == [1.0, 0.0, 0.0]


def test_student_sees_channels_in_rgb_order_between_zero_and_one() -> None:
    images = np.zeros((1, 32, 32, 3), dtype=np.uint8)
    images[..., 0] = 255
    np.testing.assert_allclose(student_predictor(SwappedStudent())(images), [[1.0, 0.0, 0.0]])
