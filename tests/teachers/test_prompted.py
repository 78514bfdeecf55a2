"""Prompted teachers: where prompts stand in the towers, what they replace, what stays, and their file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import normalize

from authors_fixtures import dassl_file, image_vectors, teacher_state, text_vectors
from clipstill.core.errors import ArtifactError, ConfigError, DataError
from clipstill.core.protocols import Teacher
from clipstill.teachers import load_teacher
from clipstill.teachers.deep_prompts import VisualPrompts
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.prompted import (
    PromptedEmbedded,
    PromptedOpenClip,
    PromptedTeacher,
    load_prompts,
    prompted,
    save_prompts,
)
from openclip_fixtures import CPU, architectures, loaded, pictures  # noqa: F401

NAMES = ["dog", "sea_horse", "grand piano"]


def clip(tmp_path: Path, architecture: str = "tiny-vit", **settings: Any) -> PromptedOpenClip:
    teacher = prompted(loaded(tmp_path, architecture)[1], **{"visual_depth": 2, "text_depth": 2, **settings})
    assert isinstance(teacher, PromptedOpenClip)
    return teacher


@cache
def small() -> EmbeddedTeacher:
    teacher = load_teacher("embedded-s", CPU)
    assert isinstance(teacher, EmbeddedTeacher)
    return teacher


def embedded(**settings: Any) -> PromptedEmbedded:
    teacher = prompted(small(), **{"words": "a", "rank": 8, **settings})
    assert isinstance(teacher, PromptedEmbedded)
    return teacher


@pytest.mark.parametrize("architecture", ["tiny-vit", "tiny-custom"])
def test_with_words_for_a_start_and_one_layer_the_texts_are_the_plain_ones(tmp_path: Path, architecture: str) -> None:
    teacher = clip(tmp_path, architecture, text_depth=1)
    plain = teacher.base.encode_text(["a photo of a dog.", "a photo of a sea horse.", "a photo of a grand piano."])
    assert torch.allclose(teacher.class_vectors(NAMES), plain, atol=1e-6)
    assert not torch.allclose(clip(tmp_path, architecture).class_vectors(NAMES), plain, atol=1e-3)


def by_hand(visual: Any, x_N3HW: Tensor, tokens_KPE: Tensor) -> Tensor:
    """The image tower with its prompts in the plainest words: a list of tokens that is put together for each layer."""
    patches = visual.conv1(x_N3HW).flatten(2).transpose(1, 2)
    start = visual.class_embedding.expand(len(patches), 1, -1)
    own = torch.cat([start, patches], 1) + visual.positional_embedding
    count = own.shape[1]
    everything = visual.ln_pre(torch.cat([own, tokens_KPE[0].expand(len(own), -1, -1)], 1))
    for number, block in enumerate(visual.transformer.resblocks):
        if 0 < number < len(tokens_KPE):
            everything = torch.cat([everything[:, :count], tokens_KPE[number].expand(len(own), -1, -1)], 1)
        everything = block(everything)
    return visual.ln_post(everything)[:, 0] @ visual.proj


@pytest.mark.parametrize("depth", [1, 2])
def test_visual_prompts_stand_after_the_patches_and_replace_those_before(tmp_path: Path, depth: int) -> None:
    teacher = clip(tmp_path, visual_depth=depth)
    x_N3HW = pictures()
    expected = normalize(
        by_hand(teacher.base.image_tower, teacher.base.prepared(x_N3HW), teacher.visual_prompts.tokens_KPE), dim=-1
    )
    assert torch.allclose(teacher.encode_image(x_N3HW), expected, atol=1e-5)
    assert not torch.allclose(teacher.encode_image(x_N3HW), teacher.base.encode_image(x_N3HW), atol=1e-3)


def test_what_a_layer_makes_of_its_prompts_reaches_the_next_only_through_the_images_own_tokens(tmp_path: Path) -> None:
    # With the first layer's attention cut off, a change of the first prompts cannot get past the second ones.
    teacher = clip(tmp_path)
    first = teacher.base.image_tower.transformer.resblocks[0]
    with torch.no_grad():
        first.attn.out_proj.weight.zero_()
    before = teacher.encode_image(pictures())
    with torch.no_grad():
        change_PE = torch.linspace(-1, 1, teacher.visual_prompts.tokens_KPE[0].numel()).view(4, -1)
        teacher.visual_prompts.tokens_KPE[0] += change_PE
        assert torch.allclose(teacher.encode_image(pictures()), before, atol=1e-6)
        teacher.visual_prompts.tokens_KPE[1] += change_PE
        assert not torch.allclose(teacher.encode_image(pictures()), before, atol=1e-3)


def test_memory_can_be_spared_at_the_price_of_time_with_equal_gradients(tmp_path: Path) -> None:
    teacher = clip(tmp_path)
    gradients = []
    for spared in (False, True):
        teacher.base.image_tower.transformer.grad_checkpointing = spared
        teacher.zero_grad()
        teacher.encode_image(pictures())[:, 0].sum().backward()
        assert teacher.visual_prompts.tokens_KPE.grad is not None
        gradients.append(teacher.visual_prompts.tokens_KPE.grad.clone())
    assert torch.allclose(*gradients, atol=1e-7)


@pytest.mark.parametrize("kind", ["clip", "embedded"])
def test_only_the_prompts_learn(tmp_path: Path, kind: str) -> None:
    teacher: PromptedTeacher = clip(tmp_path) if kind == "clip" else embedded()
    assert isinstance(teacher, Teacher)
    if isinstance(teacher, PromptedEmbedded):
        # At its start the projection's way out is zero, and so is the way in's gradient.
        with torch.no_grad():
            teacher.image_out_DR.normal_(generator=torch.Generator().manual_seed(0))
    loss = (teacher.encode_image(pictures(height=64, width=64)) @ teacher.class_vectors(NAMES).T).square().sum()
    loss.backward()
    assert all(value.grad is not None and bool(value.grad.any()) for value in teacher.parameters())
    names = {name.split(".")[0] for name, _ in teacher.named_parameters()}
    expected = {"clip": {"visual_prompts", "text_prompts"}}
    assert names == expected.get(kind, {"text_tokens_PE", "image_into_RD", "image_out_DR"})


def test_published_sizes() -> None:
    vit_b_16 = VisionTransformer(224, 16, width=768, layers=12, heads=12, mlp_ratio=4.0, output_dim=512)
    prompts = VisualPrompts(vit_b_16, count=4, depth=9, seed=0)
    assert sum(value.numel() for value in prompts.parameters()) == 27_648


def test_an_embedded_teachers_projection_starts_as_no_change() -> None:
    teacher = embedded()
    x_N3HW = pictures(height=64, width=64)
    assert torch.allclose(teacher.encode_image(x_N3HW), small().encode_image(x_N3HW), atol=1e-6)


def test_an_embedded_teachers_soft_tokens_start_as_their_words() -> None:
    assert torch.allclose(
        embedded(words="a photo of a").class_vectors(NAMES),
        small().encode_text(["a photo of a dog", "a photo of a sea horse", "a photo of a grand piano"]),
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", ["clip", "embedded"])
def test_prompts_go_through_a_file_and_serve_other_classes(tmp_path: Path, kind: str) -> None:
    teacher: PromptedTeacher = clip(tmp_path) if kind == "clip" else embedded()
    with torch.no_grad():
        for value in teacher.parameters():
            value.add_(torch.randn(value.shape, generator=torch.Generator().manual_seed(1)) * 0.1)
    start = (clip(tmp_path) if kind == "clip" else embedded()).weights_sha256
    save_prompts(teacher, tmp_path / "prompts.safetensors")
    again = load_prompts(teacher.base, tmp_path / "prompts.safetensors")
    x_N3HW = pictures(height=64, width=64)
    assert torch.equal(again.encode_image(x_N3HW), teacher.encode_image(x_N3HW))
    assert torch.allclose(again.class_vectors(["owl", *NAMES])[1:], teacher.class_vectors(NAMES), atol=1e-5)
    assert again.weights_sha256 == teacher.weights_sha256 != start


def test_prompts_of_another_teacher_are_refused(tmp_path: Path) -> None:
    save_prompts(embedded(), tmp_path / "prompts.safetensors")
    with pytest.raises(ArtifactError, match="prompts of the teacher embedded-s, whose weights are not those"):
        load_prompts(loaded(tmp_path)[1], tmp_path / "prompts.safetensors")
    (tmp_path / "broken.safetensors").write_bytes(b"x" * 40)
    with pytest.raises(ArtifactError, match="holds no prompts"):
        load_prompts(small(), tmp_path / "broken.safetensors")


@pytest.mark.parametrize("form", ["file", "old file", "folder", "safetensors"])
def test_a_checkpoint_of_the_authors_code_answers_as_its_equations_say(tmp_path: Path, form: str) -> None:
    base, state = loaded(tmp_path)[1], teacher_state()
    path = tmp_path / "teacher_model/DTD/VLPromptLearner/model-best.pth.tar"
    dassl_file(path, state, old_format=form == "old file")
    # The error message of a file that is no plain state dict gives this advice.
    save_file(state, tmp_path / "state.safetensors")
    teacher = load_prompts(
        base, {"folder": tmp_path / "teacher_model/DTD", "safetensors": tmp_path / "state.safetensors"}.get(form, path)
    )
    assert isinstance(teacher, PromptedOpenClip)
    assert teacher.visual_prompts is not None
    assert (teacher.visual_prompts.tokens_KPE.shape, teacher.text_prompts.tokens_KPE.shape) == ((2, 2, 32), (2, 4, 16))
    embedded_MLE, position_M = base.embed_tokens(["x x x x dog.", "x x x x sea horse.", "x x x x grand piano."])
    expected = normalize(text_vectors(state, embedded_MLE, position_M.tolist()), dim=-1)
    # The file's half precision is all that differs.
    assert torch.allclose(teacher.class_vectors(NAMES).double(), expected, atol=1e-3)
    x_N3HW = pictures()
    images = normalize(image_vectors(state, base.prepared(x_N3HW)), dim=-1)
    assert torch.allclose(teacher.encode_image(x_N3HW).double(), images, atol=1e-3)
    assert not torch.allclose(base.encode_image(x_N3HW).double(), images, atol=0.05)
    save_prompts(teacher, tmp_path / "prompts.safetensors")
    assert load_prompts(base, tmp_path / "prompts.safetensors").weights_sha256 == teacher.weights_sha256


def test_a_checkpoint_for_something_else_is_refused(tmp_path: Path) -> None:
    path = dassl_file(tmp_path / "model.pth.tar-20", teacher_state())
    with pytest.raises(ArtifactError, match="cannot be taken for the prompts of embedded-s"):
        load_prompts(small(), path)
    wide = {**teacher_state(), "image_encoder.VPT": torch.zeros(2, 48)}
    with pytest.raises(DataError, match="not of one shape"):
        load_prompts(loaded(tmp_path)[1], dassl_file(path, wide))
    wide["image_encoder.transformer.resblocks.1.VPT_shallow"] = torch.zeros(2, 48)
    with pytest.raises(ArtifactError, match="Name their teacher"):
        load_prompts(loaded(tmp_path)[1], dassl_file(path, wide))
    per_class = {"prompt_learner.ctx": torch.zeros(51, 4, 16)}  # CoOp's contexts of each class
    with pytest.raises(DataError, match="not of one shape"):
        load_prompts(loaded(tmp_path)[1], dassl_file(path, per_class))


def test_a_checkpoint_may_have_text_prompts_alone(tmp_path: Path) -> None:
    base = loaded(tmp_path)[1]
    state = {name: value for name, value in teacher_state().items() if "image_encoder" not in name}
    without = load_prompts(base, dassl_file(tmp_path / "model.pth.tar-20", state))
    assert torch.equal(without.encode_image(pictures()), base.encode_image(pictures()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"visual_depth": 3}, "depth 3 do not fit the 2 layers of the image tower"),
        ({"text_depth": 0}, "depth 0 do not fit the 2 layers of the text tower"),
        ({"architecture": "tiny-rn"}, "need an image tower that is a vision transformer"),
    ],
)
def test_towers_that_take_no_such_prompts_say_so(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        clip(tmp_path, **settings)
