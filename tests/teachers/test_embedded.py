"""The embedded teachers: what a dual encoder promises, and that joining heads and towers is a mean of cosines."""

from functools import cache
from pathlib import Path

import pytest
import torch
import transformers
from torch import Tensor
from torch.nn import functional as F

from clipstill.assembly.zero_shot import zero_shot_student
from clipstill.core.errors import ArtifactError
from clipstill.core.lite_network import FEATURES
from clipstill.core.packaged_weights import TOWERS, lite_classifier
from clipstill.core.protocols import BatchNormTeacher, Teacher
from clipstill.core.seeds import generator_for
from clipstill.synthesis.natural import NaturalNetwork
from clipstill.teachers import load_teacher, minilm
from clipstill.teachers.embedded import DIM, SHARES, EmbeddedTeacher, read_weights

CPU = torch.device("cpu")
NAMES = ["dog", "guitar", "giraffe", "house"]
TEACHERS = ("embedded-s", "embedded-m")


@cache
def teacher(name: str = "embedded-s") -> EmbeddedTeacher:
    loaded = load_teacher(name, CPU)
    assert isinstance(loaded, EmbeddedTeacher)
    return loaded


def pictures(count: int = 2, side: int = 64) -> Tensor:
    coarse = torch.rand(count, 3, 8, 8, generator=generator_for("pictures", count))
    return F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)


@pytest.mark.parametrize("name", TEACHERS)
def test_it_keeps_the_protocols_and_its_facts(name: str) -> None:
    one = teacher(name)
    assert isinstance(one, Teacher)
    assert isinstance(one, BatchNormTeacher)
    assert one.templates == "name"
    assert len(one.weights_sha256) == 64
    assert one.image_parameters > 4_000_000
    # The same number as the bundle of this tower says.
    shipped = zero_shot_student(one, one.encode_text(["dog", "cat"]))
    assert one.image_parameters == sum(each.numel() for each in shipped.parameters())
    assert all(part.licence and len(part.sha256) == 64 for part in one.provenance)


def test_building_the_image_network_draws_no_random_numbers() -> None:
    one = load_teacher("embedded-s", CPU)
    before = torch.get_rng_state()
    one.encode_image(pictures())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("size", TOWERS["embedded-m"])
def test_the_classifier_without_its_network_is_the_same_in_the_same_order(size: str) -> None:
    weight_KF, _ = lite_classifier(size)
    tower = teacher("embedded-m").towers[TOWERS["embedded-m"].index(size)]
    assert torch.equal(weight_KF, tower.network.classifier.weight)
    # In columns its sums round otherwise, and every class vector with them.
    assert weight_KF.is_contiguous()


def test_the_larger_teacher_is_larger() -> None:
    small, large = teacher("embedded-s"), teacher("embedded-m")
    assert large.image_parameters > 2 * small.image_parameters
    assert large.image_size >= small.image_size
    assert large.weights_sha256 != small.weights_sha256


@pytest.mark.parametrize("name", TEACHERS)
def test_vectors_are_unit_float32_of_the_told_dimension(name: str) -> None:
    with torch.no_grad():
        vectors = torch.cat([teacher(name).encode_image(pictures()), teacher(name).encode_text(NAMES)])
    assert vectors.dtype == torch.float32
    assert vectors.shape == (6, teacher(name).dim)
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(6), rtol=0, atol=1e-5)


def test_texts_differ_by_class_and_not_by_case_or_company() -> None:
    vectors = teacher().encode_text(NAMES)
    cosines = vectors @ vectors.T
    assert float((cosines - torch.eye(4)).max()) < 0.9
    assert torch.equal(cosines.argmax(1), torch.arange(4))
    torch.testing.assert_close(teacher().encode_text(["Guitar"])[0], vectors[1], rtol=0, atol=1e-5)
    sentence = teacher().encode_text(["a drawing of a guitar"])[0]
    assert int((vectors @ sentence).argmax()) == 1


def test_cosine_of_the_whole_is_that_of_the_heads_by_their_shares() -> None:
    with torch.no_grad():
        image, text = teacher().encode_image(pictures())[0], teacher().encode_text(["dog"])[0]
    widths = [DIM, FEATURES, teacher().dim - DIM - FEATURES]
    heads = [F.cosine_similarity(a, b, dim=0) for a, b in zip(image.split(widths), text.split(widths), strict=True)]
    whole = sum(share * float(head) for share, head in zip(SHARES, heads, strict=True))
    assert sum(SHARES) == pytest.approx(1.0)
    assert float(image @ text) == pytest.approx(whole, abs=1e-5)


def test_cosine_of_two_towers_is_the_mean_of_theirs() -> None:
    large, small = teacher("embedded-m"), teacher("embedded-s")
    with torch.no_grad():
        image, text = large.encode_image(pictures())[0], large.encode_text(["dog"])[0]
        other = small.encode_image(pictures())[0] @ small.encode_text(["dog"])[0]
    first = large.dim - small.dim
    lite2 = F.cosine_similarity(image[:first], text[:first], dim=0)
    assert float(image @ text) == pytest.approx(float(lite2 + other) / 2, abs=1e-5)


def test_token_embeddings_give_the_vectors_of_their_texts_with_gradient() -> None:
    texts = ["dog", "a very large Elephant on a hill"]
    embeddings, position = teacher().embed_tokens(texts)
    embeddings.requires_grad_()
    vectors = teacher().encode_tokens(embeddings, position)
    torch.testing.assert_close(vectors.detach(), teacher().encode_text(texts), rtol=0, atol=1e-5)
    vectors[0, 0].backward()
    assert embeddings.grad is not None
    assert float(embeddings.grad[0].abs().sum()) > 0
    assert float(embeddings.grad[1].abs().sum()) == 0


def test_gradient_reaches_every_pixel_and_stays_finite() -> None:
    x = pictures().requires_grad_()
    (teacher().encode_image(x)[0] @ teacher().encode_text(["dog"])[0]).backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
    assert float((x.grad[0] != 0).float().mean()) > 0.9
    assert float(x.grad[1].abs().sum()) == 0
    assert not any(tensor.requires_grad for tower in teacher().towers for tensor in tower.network.parameters())


def test_statistics_are_those_of_the_packaged_network() -> None:
    x = pictures(4).requires_grad_()
    features, gap = teacher().encode_image_with_statistics(x)
    torch.testing.assert_close(features, teacher().encode_image(x), rtol=0, atol=1e-5)
    assert gap.shape == ()
    assert float(gap.detach()) == pytest.approx(float(NaturalNetwork(CPU).gap(x).detach()), rel=1e-5)
    gap.backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()


def test_loading_the_text_tower_is_silent(capfd: pytest.CaptureFixture[str]) -> None:
    teacher.cache_clear()
    teacher().encode_text(["dog"])
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ("", "")


def test_missing_and_damaged_weights_say_how_to_make_them_again(tmp_path: Path) -> None:
    (tmp_path / "broken.safetensors").write_bytes(b"not tensors")
    for name in ("gone", "broken"):
        with pytest.raises(ArtifactError, match="python -m tools.weights embedded-teacher"):
            read_weights(tmp_path / f"{name}.safetensors")


def test_texts_have_the_vectors_of_transformers_bert_bit_for_bit() -> None:
    texts = ["dog", "a big grey elephant", "naïve café", "собака", "狗", "[MASK] thing", "", "x " * 100]
    folder = minilm._WEIGHTS.path().parent
    bert = transformers.BertModel.from_pretrained(folder, local_files_only=True, add_pooling_layer=False).eval()
    tokens = transformers.BertTokenizer.from_pretrained(folder, local_files_only=True)
    for batch in (texts, texts[:1]):  # With padding and without.
        ids = tokens(batch, padding=True, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            hidden_MLE = bert(input_ids=ids.input_ids, attention_mask=ids.attention_mask).last_hidden_state
        weight = ids.attention_mask[..., None].float()
        expected = F.normalize((hidden_MLE * weight).sum(1) / weight.sum(1), dim=-1)
        ours = minilm.MiniLM(CPU)
        embeddings_MLE, mask_ML = ours.embed(batch)
        assert torch.equal(mask_ML, ids.attention_mask)
        assert torch.equal(ours.encode_embeddings(embeddings_MLE, mask_ML), expected)
