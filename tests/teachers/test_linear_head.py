"""The head that begins a student: it answers as the alignment does, and holds for either teacher of the same tower."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from clipstill.core.protocols import HeadTeacher
from clipstill.teachers import class_vectors, load_teacher
from clipstill.teachers.embedded import ASSETS, DRAWINGS_FILE, EmbeddedTeacher, read_weights
from clipstill.teachers.linear_head import linear_head

NAMES = ("dog", "guitar", "giraffe", "house", "person")
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def large() -> EmbeddedTeacher:
    loaded = load_teacher("embedded-m", CPU)
    assert isinstance(loaded, EmbeddedTeacher)
    return loaded


def drawings(network: str) -> torch.Tensor:
    stored, _ = read_weights(ASSETS / DRAWINGS_FILE)
    return stored[f"{network}_levels"] * stored[f"{network}_step"]


@pytest.mark.parametrize("network", ["lite0", "lite2"])
def test_it_answers_about_drawings_as_the_alignment_of_its_tower(large: EmbeddedTeacher, network: str) -> None:
    vectors_CD = class_vectors(large, [[name] for name in NAMES])
    found = large.linear_head(network, vectors_CD)
    assert found is not None
    tower = large.towers[large.statistics_networks.index(network)]
    text_CD = tower.alignment.encode_text(large._text.encode(NAMES))
    feat_BF = drawings(network)
    with torch.no_grad():
        whole_BC = tower.alignment.encode_image(feat_BF, tower.network.classifier(feat_BF)) @ text_CD.T
    answers_BC = feat_BF @ found[0].T + found[1]
    agreement = (answers_BC.argmax(1) == whole_BC.argmax(1)).float().mean()
    assert agreement > 0.85
    # Classes in another order give the answers in that order.
    order = torch.tensor([3, 0, 4, 1, 2])
    again = large.linear_head(network, vectors_CD[order])
    assert again is not None
    same_BC = (feat_BF @ again[0].T + again[1]).softmax(1)
    assert (same_BC - answers_BC[:, order].softmax(1)).abs().mean() < 0.01


def test_both_teachers_begin_the_same_student_alike(large: EmbeddedTeacher) -> None:
    small = load_teacher("embedded-s", CPU)
    assert isinstance(small, HeadTeacher)
    heads = [one.linear_head("lite0", class_vectors(one, [[name] for name in NAMES])) for one in (small, large)]
    assert heads[0] is not None
    assert heads[1] is not None
    feat_BF = drawings("lite0")
    logits = [feat_BF @ weight_CF.T + bias_C for weight_CF, bias_C in heads if weight_CF is not None]
    assert (logits[0].softmax(1) - logits[1].softmax(1)).abs().mean() < 0.01


def test_a_network_that_is_no_tower_has_no_head(large: EmbeddedTeacher) -> None:
    small = load_teacher("embedded-s", CPU)
    assert isinstance(small, HeadTeacher)
    assert small.linear_head("lite2", torch.eye(small.dim)[:2]) is None
    assert large.linear_head("resnet18", torch.eye(large.dim)[:2]) is None
    assert not isinstance(load_teacher("embedded-s+embedded-m", CPU), HeadTeacher)


def test_it_is_the_minimum_of_what_is_told(large: EmbeddedTeacher) -> None:
    """The gradient of the written loss is next to zero there, beside that of the start."""
    tower, feat_BF = large.towers[1], drawings("lite0")[::8]
    imagenet_BK = tower.network.classifier(feat_BF)
    vectors_CD = tower.alignment.encode_text(large._text.encode(NAMES[:3]))
    weight_CF, bias_C = linear_head(tower.alignment, feat_BF, imagenet_BK, vectors_CD)
    mean_F, scale_F = feat_BF.mean(0), (feat_BF.std(0) + 0.05) * 1280**0.5
    drawing_BD = tower.alignment.encode_image(feat_BF, imagenet_BK)
    target_BC = (tower.alignment.logit_scale * drawing_BD @ vectors_CD.T / 2).softmax(1)
    rows_CF = 2.5 * tower.alignment.logit_scale * vectors_CD[:, 384:1664] * (2 / 4.5) ** 0.5
    rows_CF = rows_CF / (feat_BF - tower.alignment.feature_mean_F).norm(dim=1).mean()

    def gradient(weight_CF: torch.Tensor, bias_C: torch.Tensor) -> torch.Tensor:
        weight_CF = weight_CF.clone().requires_grad_()
        logits_BC = (feat_BF @ weight_CF.T + bias_C) / 2
        change = ((weight_CF - rows_CF) * scale_F).square().sum() / 1280
        (4 * functional.cross_entropy(logits_BC, target_BC) + 0.01 * change).backward()
        assert weight_CF.grad is not None
        return weight_CF.grad / scale_F

    start = gradient(rows_CF, -(rows_CF @ tower.alignment.feature_mean_F))
    assert gradient(weight_CF, bias_C).norm() < 0.03 * start.norm()
    assert mean_F.shape == (1280,)
