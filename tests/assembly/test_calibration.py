"""Which pictures calibration asks both models about."""

import pytest
import torch

from clipstill.assembly.calibration import MOST_PICTURES, some_of


@pytest.mark.parametrize(("classes", "per_class"), [(100, 24), (64, 8), (256, 8)])
def test_of_many_pictures_some_of_every_class_and_style_are_asked_about(classes: int, per_class: int) -> None:
    some_N = some_of(classes * per_class, seed=0)
    assert 0.9 * MOST_PICTURES < int(some_N.sum()) <= MOST_PICTURES
    number_N = torch.arange(classes * per_class)[some_N]
    assert len(torch.unique(number_N // per_class)) > 0.9 * classes
    # The styles take turns within each class.
    assert set((number_N % per_class).tolist()) == set(range(per_class))


def test_of_few_pictures_none_is_left_out() -> None:
    assert bool(some_of(MOST_PICTURES, seed=0).all())
