"""What unlabelled photos make of class vectors, on features of a made-up domain."""

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.seeds import generator_for
from clipstill.teachers.adaptation import Adapted, adapted_class_vectors, share_of_classes

CLASSES, DIM, SCALE = 6, 48, 20.0


def noise(count: int, name: str) -> Tensor:
    return normalize(torch.randn(count, DIM, generator=generator_for("adaptation", name)), dim=-1)


# Images of a class lie beside its text, and all images far from all texts.
TEXT = normalize(noise(CLASSES, "texts") + noise(1, "texts lie here"), dim=-1)
CENTRES = noise(CLASSES, "texts") + 1.2 * noise(CLASSES, "what texts do not know") + noise(1, "images lie here")
OTHER = noise(20, "other words")


def images(labels: Sequence[int], name: str = "photos", spread: float = 2.2) -> Tensor:
    return normalize(CENTRES[list(labels)] + spread * noise(len(labels), name), dim=-1)


def adapt(feat_ND: Tensor, text_CD: Tensor = TEXT, text_share: float = 1.0) -> Adapted:
    share_N = share_of_classes(feat_ND, text_CD, OTHER, SCALE)
    shares = torch.full((len(text_CD),), text_share)
    return adapted_class_vectors(text_CD, feat_ND, share_N, scale=SCALE, text_share_C=shares)


TEST_LABELS = torch.arange(CLASSES).repeat(60)
TEST = images(TEST_LABELS.tolist(), "test")
BALANCED = images(list(range(CLASSES)) * 20)


def top1(vectors_CD: Tensor) -> float:
    return 100 * float(((TEST @ vectors_CD.T).argmax(1) == TEST_LABELS).float().mean())


def test_photos_of_all_classes_make_the_vectors_better() -> None:
    found = adapt(BALANCED)
    assert top1(found.vectors_CD) > top1(TEXT) + 4
    assert found.is_seen_C.all()
    torch.testing.assert_close(found.vectors_CD.norm(dim=1), torch.ones(CLASSES))


@pytest.mark.parametrize(
    "labels",
    [
        pytest.param([0] * 40, id="one class"),
        pytest.param([1, 4] * 30, id="a third of the classes"),
        pytest.param([0, 3, 5, 2, 2, 1, 4, 0, 5, 3], id="ten photos"),
        pytest.param([c for c in range(CLASSES) for _ in range(round(40 * 10 ** (-c / 5)))], id="long tail"),
    ],
)
def test_an_uneven_pool_costs_at_most_a_point(labels: list[int]) -> None:
    found = adapt(images(labels))
    assert top1(found.vectors_CD) >= top1(TEXT) - 1


def test_photos_of_other_things_move_nothing() -> None:
    foreign = normalize(OTHER.repeat(5, 1) + noise(1, "images lie here") + noise(100, "foreign"), dim=-1)
    found = adapt(foreign)
    assert found.photos < 20
    assert found.strength < 0.05
    assert top1(found.vectors_CD) >= top1(TEXT) - 1


def test_a_class_that_no_photo_shows_is_told_and_moves_least() -> None:
    found = adapt(images([0, 1, 2, 3, 4] * 20, spread=1.4))
    assert found.is_seen_C.tolist() == [True] * 5 + [False]
    moved = (found.vectors_CD - TEXT).norm(dim=1)
    assert moved[5] < moved[:5].min()


def test_order_and_copies_of_photos_do_not_matter() -> None:
    expected = adapt(BALANCED).vectors_CD
    order = torch.randperm(len(BALANCED), generator=generator_for("order"))
    torch.testing.assert_close(adapt(BALANCED[order]).vectors_CD, expected, atol=1e-5, rtol=0)
    copied = torch.cat([BALANCED, BALANCED[:1].expand(200, -1)])
    torch.testing.assert_close(adapt(copied).vectors_CD, expected, atol=1e-5, rtol=0)


def test_how_far_images_and_texts_lie_apart_does_not_matter() -> None:
    """A CLIP's cosines of images and texts lie around 0.2, and its scale makes up for how little they differ."""
    gap = 2.0

    def apart(feat_ND: Tensor, side: float) -> Tensor:
        return torch.cat([feat_ND, torch.full((len(feat_ND), 1), side)], 1) / (1 + gap) ** 0.5

    expected = adapted_class_vectors(
        TEXT, BALANCED, torch.ones(len(BALANCED)), scale=SCALE, text_share_C=torch.ones(CLASSES)
    )
    found = adapted_class_vectors(
        apart(TEXT, -(gap**0.5)),
        apart(BALANCED, gap**0.5),
        torch.ones(len(BALANCED)),
        scale=SCALE * (1 + gap),
        text_share_C=torch.ones(CLASSES),
    )
    torch.testing.assert_close(found.count_C, expected.count_C, atol=1e-3, rtol=0)
    assert found.strength == pytest.approx(expected.strength, abs=1e-4)


def test_labelled_examples_hold_the_vectors_where_they_are() -> None:
    torch.testing.assert_close(adapt(BALANCED, text_share=0.0).vectors_CD, TEXT)


def test_lengths_of_vectors_stay() -> None:
    shorter = TEXT * torch.linspace(0.7, 1, CLASSES)[:, None]
    torch.testing.assert_close(adapt(BALANCED, shorter).vectors_CD.norm(dim=1), shorter.norm(dim=1))


def test_without_other_words_every_photo_counts() -> None:
    assert share_of_classes(BALANCED, TEXT, OTHER[:0], SCALE).tolist() == [1.0] * len(BALANCED)
