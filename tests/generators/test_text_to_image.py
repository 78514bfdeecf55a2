"""Text-to-image pipelines as samplers, on a tiny Stable Diffusion with random weights."""

import json
import shutil
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("diffusers")

from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from clipstill.core.errors import ConfigError, DataError, ResourceError
from clipstill.core.protocols import Sampler
from clipstill.core.seeds import generator_for
from clipstill.generators import generators, load_generators
from clipstill.generators.settings import GeneratorSettings
from clipstill.generators.text_to_image import TextToImage, call_arguments, load_text_to_image, native_side

CPU = torch.device("cpu")
LETTERS = "abcdefghijklmnopqrstuvwxyz"


def tokenizer(folder: Path) -> CLIPTokenizer:
    """One token a letter, inside a word and at its end."""
    tokens = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: number for number, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)


def randomise(module: torch.nn.Module, name: str) -> Any:
    """Weights from a seed, whatever was drawn before; larger than usual, so that a text shows after two steps."""
    draw = generator_for(name)
    with torch.no_grad():
        for weights in module.parameters():
            if weights.ndim > 1:
                weights.copy_(torch.randn(weights.shape, generator=draw) / max(1, weights[0].numel()) ** 0.5)
    return module.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = tokenizer(tmp_path_factory.mktemp("words"))
    text = CLIPTextConfig(
        vocab_size=len(words),
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=16,
        bos_token_id=52,
        eos_token_id=53,
        pad_token_id=53,
    )
    unet = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=16,
        attention_head_dim=4,
    )
    coder = AutoencoderKL(
        block_out_channels=(8, 8),
        norm_num_groups=4,
        latent_channels=4,
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
    )
    pipeline = StableDiffusionPipeline(
        vae=randomise(coder, "vae"),
        text_encoder=randomise(CLIPTextModel(text), "text"),
        tokenizer=words,
        unet=randomise(unet, "unet"),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    path = tmp_path_factory.mktemp("pipeline")
    pipeline.save_pretrained(path, safe_serialization=True)
    (path / "README.md").write_text("---\nlicense: creativeml-openrail-m\n---\n")
    return path


@pytest.fixture(scope="module")
def sampler(folder: Path) -> TextToImage:
    return TextToImage(folder, CPU, settings=GeneratorSettings(steps=2))


def test_a_name_leads_to_a_sampler(folder: Path) -> None:
    factory, rest = generators.resolve(f"text-to-image:{folder}")
    assert factory is load_text_to_image
    assert isinstance(factory(rest, CPU), Sampler)


@pytest.mark.parametrize("size", [24, 33, 64])
def test_images_are_inside_the_range_and_of_the_size(sampler: TextToImage, size: int) -> None:
    images = sampler.sample(["a dog", "a cat"], [1, 2], size)
    assert images.shape == (2, 3, size, size)
    assert images.dtype == torch.float32
    assert float(images.min()) >= 0
    assert float(images.max()) <= 1
    assert float(images.std()) > 0.01


def test_an_image_comes_from_its_own_seed_whatever_is_drawn_beside_it(sampler: TextToImage) -> None:
    texts, seeds = ["a dog", "a house", "a guitar"], [1, 2, 3]
    together = sampler.sample(texts, seeds, 32)
    turned = sampler.sample(texts[::-1], seeds[::-1], 32).flip(0)
    alone = torch.cat([sampler.sample([text], [seed], 32) for text, seed in zip(texts, seeds, strict=True)])
    assert torch.allclose(together, turned, atol=1e-3)
    assert torch.allclose(together, alone, atol=1e-3)
    other = sampler.sample(["a dog"], [9], 32)
    assert float((other - together[:1]).abs().mean()) > 0.01


def test_more_texts_than_a_batch_are_all_drawn(sampler: TextToImage) -> None:
    images = sampler.sample([f"a {letter}" for letter in LETTERS[:9]], list(range(9)), 16)
    assert images.shape == (9, 3, 16, 16)
    assert torch.allclose(images[8:], sampler.sample(["a i"], [8], 16), atol=1e-3)
    assert sampler.sample([], [], 16).shape == (0, 3, 16, 16)


def test_the_text_changes_the_image(sampler: TextToImage) -> None:
    dog, cat = sampler.sample(["dog"], [1], 32), sampler.sample(["cat"], [1], 32)
    assert float((dog - cat).abs().mean()) > 1e-3


def test_it_draws_at_the_side_that_the_network_was_trained_at(
    sampler: TextToImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = []
    call = StableDiffusionPipeline.__call__

    def spy(self: Any, *args: Any, **settings: Any) -> Any:
        sides.append(settings["height"])
        return call(self, *args, **settings)

    monkeypatch.setattr(StableDiffusionPipeline, "__call__", spy)
    sampler.sample(["dog"], [1], 16)
    assert sides == [32]  # 16 cells of 2 pixels


def flux(guidance_embeds: bool) -> FluxPipeline:
    """Flux's classes, without text encoders: schnell has no embedding of the guidance, dev has one."""
    transformer = FluxTransformer2DModel(
        in_channels=4,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=1,
        joint_attention_dim=8,
        pooled_projection_dim=8,
        axes_dims_rope=(2, 2, 4),
        guidance_embeds=guidance_embeds,
    )
    missing = dict.fromkeys(("vae", "text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2"))
    return FluxPipeline(transformer=transformer, scheduler=FlowMatchEulerDiscreteScheduler(), **missing)


def test_flux_draws_at_the_side_of_its_pipeline() -> None:
    assert native_side(flux(guidance_embeds=False), 8) == 1024


def test_distilled_models_are_known_by_network_scheduler_pipeline_or_name(folder: Path) -> None:
    usual = StableDiffusionPipeline.from_pretrained(folder)
    few = {"num_inference_steps": 4, "guidance_scale": 0.0}
    assert call_arguments(usual, GeneratorSettings(), "someone/sdxl-base") == {"num_inference_steps": 20}
    assert call_arguments(usual, GeneratorSettings(), "someone/perturbed") == {"num_inference_steps": 20}
    assert call_arguments(flux(guidance_embeds=True), GeneratorSettings(), "dev") == {"num_inference_steps": 20}
    assert call_arguments(flux(guidance_embeds=False), GeneratorSettings(), "mine") == few
    for name in ("stabilityai/sdxl-turbo", "SDXL-Lightning", "lcm_dreamshaper", "Hyper-SD"):
        assert call_arguments(usual, GeneratorSettings(), name) == few
    # The pipeline of consistency models has its own few steps, and a guidance that its network was told.
    consistent = LatentConsistencyModelPipeline.from_pipe(usual, scheduler=LCMScheduler())
    assert call_arguments(consistent, GeneratorSettings(), "mine") == {"num_inference_steps": 4}
    usual.scheduler = LCMScheduler()
    assert call_arguments(usual, GeneratorSettings(), "mine") == few
    chosen = GeneratorSettings(steps=1, guidance=1.5)
    assert call_arguments(usual, chosen, "turbo") == {"num_inference_steps": 1, "guidance_scale": 1.5}


def test_settings_change_the_image(folder: Path, sampler: TextToImage) -> None:
    plain = sampler.sample(["dog"], [1], 32)
    for changed in (
        GeneratorSettings(steps=3),
        GeneratorSettings(steps=2, guidance=1.0),
        GeneratorSettings(steps=2, negative_prompt="blur"),
        GeneratorSettings(steps=2, scheduler="LCMScheduler", guidance=7.5),
        GeneratorSettings(steps=2, side=64),
    ):
        [other] = load_generators(f"text-to-image:{folder}", CPU, changed)
        assert isinstance(other, Sampler)
        assert float((other.sample(["dog"], [1], 32) - plain).abs().mean()) > 1e-3, changed


def test_a_variant_of_the_weight_files_is_read(folder: Path, tmp_path: Path) -> None:
    StableDiffusionPipeline.from_pretrained(folder).to(torch.float16).save_pretrained(tmp_path, variant="fp16")
    with pytest.raises(DataError, match="cannot be loaded"):
        TextToImage(tmp_path, CPU)
    half = TextToImage(tmp_path, CPU, settings=GeneratorSettings(steps=1, variant="fp16"))
    whole = TextToImage(folder, CPU, settings=GeneratorSettings(steps=1))
    assert torch.allclose(half.sample(["dog"], [1], 32), whole.sample(["dog"], [1], 32), atol=0.05)


def test_settings_that_a_pipeline_does_not_take_are_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"generator.scheduler is 'Eulr'.*It takes .*DDIMScheduler"):
        TextToImage(folder, CPU, settings=GeneratorSettings(scheduler="Eulr"))
    consistent = LatentConsistencyModelPipeline.from_pipe(
        StableDiffusionPipeline.from_pretrained(folder), scheduler=LCMScheduler()
    )
    with pytest.raises(ConfigError, match="generator.negative_prompt is set, and LatentConsistency"):
        call_arguments(consistent, GeneratorSettings(negative_prompt="blur"), "mine")


def test_licence_and_hash_are_those_of_the_folder(folder: Path, sampler: TextToImage, tmp_path: Path) -> None:
    [stated] = sampler.provenance
    assert (stated.name, stated.licence) == ("StableDiffusionPipeline", "creativeml-openrail-m")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "README.md").unlink()
    [moved] = TextToImage(copy, CPU).provenance
    assert (moved.licence, moved.sha256) == ("unknown", stated.sha256)
    weights = copy / "vae" / "diffusion_pytorch_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(bytes(data))
    assert TextToImage(copy, CPU).provenance[0].sha256 != stated.sha256


def test_what_is_no_pipeline_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="there is no file or folder"):
        load_text_to_image(str(tmp_path / "gone"), CPU)
    with pytest.raises(DataError, match="model_index.json is missing"):
        load_text_to_image(str(tmp_path), CPU)
    empty = tmp_path / "empty"
    empty.mkdir()
    shutil.copy(folder / "model_index.json", empty)
    with pytest.raises(DataError, match="no weights in safetensors"):
        load_text_to_image(str(empty), CPU)


def test_pickled_weights_are_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    safe = copy / "unet" / "diffusion_pytorch_model.safetensors"
    safe.rename(safe.with_suffix(".bin"))
    with pytest.raises(DataError, match="diffusion_pytorch_model.bin is a pickle.*safe_serialization=True"):
        load_text_to_image(str(copy), CPU)


def test_code_beside_the_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "unet" / "network.py").write_text("raise SystemExit")
    with pytest.raises(ConfigError, match="brings code of its own \\(network.py\\)"):
        load_text_to_image(str(copy), CPU)


def test_a_damaged_component_is_one_line(folder: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    (copy / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="cannot be loaded") as caught:
        load_text_to_image(str(copy), CPU)
    assert "\n" not in str(caught.value)


def test_without_a_network_a_folder_is_proposed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def blocked(*_: object, **__: object) -> None:
        raise OSError("sockets are blocked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", blocked)
    with pytest.raises(ResourceError, match="nobody/nothing.*text-to-image:/path/to/folder"):
        load_text_to_image("nobody/nothing", CPU)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ResourceError, match=r"pip install 'clipstill\[diffusers\]'"):
        load_text_to_image(str(folder), CPU)
