"""Prompted teachers: where prompts stand in the towers, what they replace, what stays, and their file."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from open_clip.transformer import VisionTransformer
from torch import Tensor
from torch.nn.functional import normalize

from clipstill.core.errors import ArtifactError, ConfigError
from clipstill.core.protocols import Teacher
from clipstill.teachers import load_teacher
from clipstill.teachers.deep_prompts import VisualPrompts
from clipstill.teachers.embedded import EmbeddedTeacher
from clipstill.teachers.prompted import (
    PromptedEmbedded,
    PromptedOpenClip,
    PromptedTeacher,
    import_prompts,
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


def test_a_checkpoint_of_the_authors_code_gives_its_prompts_and_leaves_its_classes(tmp_path: Path) -> None:
    teacher = clip(tmp_path)
    draw = torch.Generator().manual_seed(3)
    visual_KPE, text_KPE = (torch.randn(2, 4, width, generator=draw).half() for width in (32, 16))
    state = {
        "prompt_learner.ctx": text_KPE[0],
        "text_encoder.transformer.resblocks.1.VPT_shallow": text_KPE[1],
        "image_encoder.VPT": visual_KPE[0],
        "image_encoder.transformer.resblocks.1.VPT_shallow": visual_KPE[1],
        # Of its own classes, and CLIP's weights: neither may matter.
        "prompt_learner.token_prefix": torch.zeros(51, 1, 16),
        "prompt_learner.token_suffix2": torch.zeros(50, 72, 16),
        "image_encoder.proj": torch.zeros(32, 24),
        "logit_scale": torch.zeros(()),
    }
    path = tmp_path / "model.pth.tar"
    torch.save({"state_dict": state, "epoch": 20, "val_result": 98.7}, path)  # noqa: TID251
    again = import_prompts(teacher.base, path)
    assert isinstance(again, PromptedOpenClip)
    assert again.visual_prompts is not None
    assert torch.equal(again.visual_prompts.tokens_KPE, visual_KPE.float())
    assert torch.equal(again.text_prompts.tokens_KPE, text_KPE.float())
    assert again.class_vectors(NAMES).shape == (3, 24)
    with pytest.raises(ArtifactError, match="cannot be taken for the prompts of embedded-s"):
        import_prompts(small(), path)
    del state["image_encoder.VPT"]
    torch.save({"state_dict": state}, path)  # noqa: TID251
    without = import_prompts(teacher.base, path)
    assert torch.equal(without.encode_image(pictures()), teacher.base.encode_image(pictures()))


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
