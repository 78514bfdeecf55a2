"""What examples make of class vectors and targets."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.seeds import generator_for
from clipstill.teachers.prototypes import (
    class_vectors_with_examples,
    prototypes,
    right_without_themselves,
    targets_with_examples,
    text_trust,
    whitened,
)

DIM = 12


def units(count: int, name: str) -> Tensor:
    return normalize(torch.randn(count, DIM, generator=generator_for(name)), dim=-1)


TEXT, FEATURES, CLASSES = units(4, "texts"), units(5, "examples"), [0, 0, 2, 2, 2]


def test_a_prototype_is_the_direction_of_the_mean() -> None:
    found = prototypes(FEATURES, CLASSES, TEXT)
    torch.testing.assert_close(found.prototypes_CD[0], normalize(FEATURES[:2].mean(0), dim=0))
    torch.testing.assert_close(found.prototypes_CD[2], normalize(FEATURES[2:].mean(0), dim=0))
    assert found.count_C.tolist() == [2, 0, 3, 0]


def test_prototypes_ignore_the_order_of_the_examples() -> None:
    order = [4, 1, 3, 0, 2]
    shuffled = prototypes(FEATURES[order], [CLASSES[i] for i in order], TEXT)
    found = prototypes(FEATURES, CLASSES, TEXT)
    torch.testing.assert_close(shuffled.prototypes_CD, found.prototypes_CD, rtol=0, atol=1e-7)


def test_one_example_a_class_is_its_own_prototype() -> None:
    found = prototypes(FEATURES[:4], [0, 1, 2, 3], TEXT)
    torch.testing.assert_close(class_vectors_with_examples(TEXT, found, 0.0), FEATURES[:4])


def test_classes_without_examples_fall_back_to_their_text() -> None:
    found = prototypes(FEATURES, CLASSES, TEXT)
    vectors = class_vectors_with_examples(TEXT, found, 3.0)
    longest = vectors.norm(dim=-1).max()
    torch.testing.assert_close(longest, torch.tensor(1.0))
    directions = normalize(vectors[[1, 3]], dim=-1)
    torch.testing.assert_close(directions, TEXT[[1, 3]])
    torch.testing.assert_close(vectors[1].norm(), vectors[3].norm())


def test_the_more_examples_the_less_the_text_says() -> None:
    def share(examples: int) -> Tensor:
        found = prototypes(FEATURES[:1].expand(examples, -1), [0] * examples, TEXT[:1])
        # One class: its moved text is its prototype, so the text is put back where it was.
        found = replace(found, shift_D=torch.zeros(DIM))
        return class_vectors_with_examples(TEXT[:1], found, 3.0)[0]

    torch.testing.assert_close(share(1), normalize(0.25 * FEATURES[0] + 0.75 * TEXT[0], dim=0))
    torch.testing.assert_close(share(3), normalize(FEATURES[0] + TEXT[0], dim=0))


def test_where_images_lie_where_their_texts_lie_nothing_moves() -> None:
    found = prototypes(TEXT, [0, 1, 2, 3], TEXT)
    torch.testing.assert_close(class_vectors_with_examples(TEXT, found, 1.0), TEXT)
    targets = targets_with_examples(TEXT, [0, 1, 2, 3], text_CD=TEXT, examples=found, style_share=1.0)
    torch.testing.assert_close(targets, TEXT)


@pytest.mark.parametrize("style_share", [0.0, 1.0])
def test_targets_are_prototypes_moved_by_their_style(style_share: float) -> None:
    found = prototypes(FEATURES, CLASSES, TEXT)
    styled, class_ids = units(3, "styled"), [0, 2, 1]
    targets = targets_with_examples(styled, class_ids, text_CD=TEXT, examples=found, style_share=style_share)
    beyond = styled - TEXT[class_ids]
    expected = normalize(found.prototypes_CD[class_ids] + style_share * beyond, dim=-1)
    torch.testing.assert_close(targets[:2], expected[:2])
    torch.testing.assert_close(targets[2], normalize(styled[2] + found.shift_D, dim=0))


def test_a_gap_between_images_and_texts_does_not_decide_between_classes() -> None:
    """All images lie far from all texts; only some classes have examples."""
    gap = 3 * units(1, "gap")
    class_centres = units(4, "centres")
    text = normalize(class_centres - gap, dim=-1)
    images = normalize(class_centres + gap, dim=-1)
    found = prototypes(images[:2], [0, 1], text)
    mixed = class_vectors_with_examples(text, found, 0.0)
    assert (images @ mixed.T).argmax(1).tolist() == [0, 1, 2, 3]
    unmoved = torch.cat([images[:2], text[2:]])
    assert (images @ unmoved.T).argmax(1).tolist() != [0, 1, 2, 3]  # what the shift is for


def test_whitened_vectors_are_those_of_the_covariance_in_full() -> None:
    classes = [0, 0, 1, 2, 3]
    beyond = FEATURES.clone()
    beyond[:2] -= FEATURES[:2].mean(0)
    beyond[2:] = 0
    covariance = (beyond.T @ beyond / len(FEATURES)).double()
    eigenvalues = torch.linalg.eigvalsh(covariance)
    mean = (eigenvalues**2).sum() / eigenvalues.sum()
    expected = normalize(torch.linalg.solve(torch.eye(DIM) + 3 * covariance / mean, TEXT.double().T).T, dim=-1)
    torch.testing.assert_close(whitened(TEXT, FEATURES, classes, 3.0), expected.float())
    assert torch.equal(whitened(TEXT, FEATURES, classes, 0.0), TEXT)


def test_one_example_a_class_whitens_nothing() -> None:
    assert torch.equal(whitened(TEXT, FEATURES[:4], [0, 1, 2, 3], 3.0), TEXT)


def test_whitening_ignores_what_varies_within_classes() -> None:
    """All classes vary much along one direction, along which their vectors differ by chance."""
    along, labels = units(1, "along"), [0, 1, 2, 3] * 6
    feat = normalize(TEXT[labels] + 2 * torch.linspace(-1, 1, 24)[:, None] * along, dim=-1)
    vectors = normalize(TEXT + torch.tensor([[0.8], [-0.5], [0.3], [-0.9]]) * along, dim=-1)
    plain, white = ((feat @ made.T).argmax(1) for made in (vectors, whitened(vectors, feat, labels, 3.0)))
    right = torch.tensor(labels)
    assert (white == right).float().mean() > (plain == right).float().mean() + 0.1


def test_texts_are_trusted_until_examples_surely_contradict_them() -> None:
    labels = [0, 1, 2, 3] * 10
    assert text_trust(TEXT[labels], labels, TEXT) == 1.0
    wrong = [(label + 1) % 4 for label in labels]
    assert text_trust(TEXT[labels], wrong, TEXT) == 0.0
    # Three of four wrong answers may be chance; thirty of forty are worth what guesses are.
    some = [0, 2, 3, 1] * 10
    assert text_trust(TEXT[some[:4]], labels[:4], TEXT) == 1.0
    assert text_trust(TEXT[some], labels, TEXT) < 0.3


def test_texts_that_are_wrong_do_not_draw_prototypes_away() -> None:
    from clipstill.assembly.class_vectors import with_examples
    from clipstill.workflow.settings import ExamplesSettings

    labels = [0, 1, 2, 3] * 10
    images = normalize(units(4, "centres")[labels] + 0.5 * units(40, "spread"), dim=-1)
    readable = with_examples(units(4, "centres"), images, labels, ExamplesSettings())
    unreadable = with_examples(units(4, "centres")[[1, 2, 3, 0]], images, labels, ExamplesSettings())
    assert readable.text_count == 2.0
    assert unreadable.text_count == 0.0
    assert unreadable.text_share_C.tolist() == [0.0] * 4


def test_an_example_is_not_recognised_by_itself() -> None:
    # Alone in their classes and far from any text, only their own vectors would name them.
    alone, places = units(4, "alone"), list(range(4))
    assert right_without_themselves(alone, places, TEXT, 0.0) == int(
        ((alone @ TEXT.T).argmax(1) == torch.arange(4)).sum()
    )
    vectors_CD = class_vectors_with_examples(TEXT, prototypes(alone, places, TEXT), 0.0)
    assert ((alone @ vectors_CD.T).argmax(1) == torch.arange(4)).all()


def test_examples_that_resemble_each_other_are_recognised_by_the_others() -> None:
    middles, labels = units(4, "middles"), [place for place in range(4) for _ in range(3)]
    near = normalize(middles[labels] + 0.05 * units(12, "noise"), dim=-1)
    assert right_without_themselves(near, labels, TEXT, 0.0) == 12
