"""Which pictures calibration asks both models about."""

import torch

from clipstill.assembly.calibration import MOST_PICTURES, some_of
from clipstill.distillation.training_data import TrainingData


def pictures(classes: int, per_class: int) -> TrainingData:
    count = classes * per_class
    pixels_N3HW = torch.zeros(count, 3, 2, 2, dtype=torch.uint8)
    number_N = torch.arange(count)
    return TrainingData(pixels_N3HW, number_N // per_class, number_N % per_class)


def test_of_many_pictures_some_of_every_class_and_style_are_asked_about() -> None:
    found = some_of(pictures(classes=100, per_class=24))
    assert len(found) == MOST_PICTURES
    counts_C = found.class_id_N.bincount()
    assert (len(counts_C), int(counts_C.min()), int(counts_C.max())) == (100, 2, 3)
    assert set(found.style_id_N.tolist()) == set(range(24))


def test_of_few_pictures_none_is_left_out() -> None:
    few = pictures(classes=32, per_class=8)
    assert some_of(few) is few
