"""The VQGAN generator against an independent forward pass, brute force, finite differences and diffusers."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import vqgan_fixtures as published
from clipstill.core.errors import ArtifactError, ConfigError, DataError, ResourceError, UnknownNameError
from clipstill.core.files import sha256_file
from clipstill.core.seeds import generator_for
from clipstill.generators import load_generators
from clipstill.generators.vqgan import Vqgan, nearest_codes
from clipstill.generators.vqgan_checkpoint import (
    build_model,
    checkpoint_shapes,
    import_vqgan,
    select_tensors,
    shape_of,
)

CPU = torch.device("cpu")
TINY = published.TINY
STATE = published.random_state(published.decoder(TINY))


def tiny(dtype: torch.dtype = torch.float32) -> Vqgan:
    shape = shape_of(STATE, "tiny")
    return Vqgan.of_model(build_model(shape, select_tensors(STATE, shape, "tiny")).to(dtype))


def near_codes(generator: Vqgan, seeds: list[int], size: int = 8) -> Tensor:
    """Latents that are no codes: somewhat beside them."""
    [z] = generator.init(seeds, size)
    return z + 0.3 * torch.randn(z.shape, generator=generator_for("beside", *seeds))


def expected(quantised: Tensor) -> Tensor:
    state = {name: tensor.to(quantised.dtype) for name, tensor in STATE.items()}
    return ((published.forward(state, TINY, quantised) + 1) / 2).clamp(0, 1)


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CLIPSTILL_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


@pytest.mark.parametrize(
    ("config", "label", "stride", "attention"),
    [
        (published.IMAGENET_1024, "f16-1024", 16, (4,)),
        (published.IMAGENET_16384, "f16-16384", 16, (4,)),
        (published.LDM_F8, "f8-16384-d4", 8, (3,)),
        (published.LDM_F4_NO_ATTENTION, "f4-8192-d3", 4, ()),
    ],
)
def test_published_state_dicts_have_the_names_and_shapes_of_the_network(
    config: published.Published, label: str, stride: int, attention: tuple[int, ...]
) -> None:
    whole = published.encoder(config) | published.decoder(config) | published.loss()
    state = {name: torch.empty(shape, device="meta") for name, shape in whole.items()}
    shape = shape_of(state, "full size")
    assert (shape.label, shape.stride, shape.attention) == (label, stride, attention)
    assert (shape.codes, shape.code_channels, shape.latent_channels) == (
        config.n_embed,
        config.embed_dim,
        config.z_channels,
    )
    assert shape.widths == tuple(config.ch * multiplier for multiplier in config.ch_mult)
    assert shape.middle_attention == config.mid_attention
    assert checkpoint_shapes(shape) == published.encoder(config) | published.decoder(config)
    # The same sizes without the encoder, as clipstill stores them.
    assert shape_of({name: state[name] for name in published.decoder(config)}, "stored") == shape


def test_decode_equals_a_forward_pass_written_from_the_key_names() -> None:
    generator = tiny()
    [z] = generator.init([1, 2], 16)
    assert z.shape == (2, 5, 8, 8)
    image = generator.decode([z])
    assert image.shape == (2, 3, 16, 16)
    assert image.std() > 0.05
    assert torch.allclose(image, expected(z), atol=1e-5)


def test_post_quant_conv_is_not_skipped() -> None:
    moved = {**STATE, "post_quant_conv.bias": STATE["post_quant_conv.bias"] + 1}
    shape = shape_of(moved, "moved")
    latents = tiny().init([1], 8)
    image = Vqgan.of_model(build_model(shape, moved)).decode(latents)
    assert not torch.allclose(image, tiny().decode(latents), atol=1e-3)


@pytest.mark.parametrize(("codes", "channels", "side"), [(24, 5, 4), (2**14, 2, 56)])
def test_quantiser_forward_is_the_nearest_code(codes: int, channels: int, side: int) -> None:
    """The larger codebook has more distances than are held at once."""
    draw = generator_for("codebook")
    codebook = torch.randn(codes, channels, generator=draw)
    z = torch.randn(1, channels, side, side, generator=draw)
    found = nearest_codes(z, codebook, codebook.square().sum(1))
    cells = z.permute(0, 2, 3, 1).reshape(-1, channels).double()
    expected = torch.cat([torch.cdist(part, codebook.double()).argmin(1) for part in cells.split(512)])
    assert torch.equal(found.flatten(), expected)


def test_quantiser_backward_is_identity() -> None:
    codebook = 0.8 * torch.rand(16, 3, generator=generator_for("inside"))
    generator = Vqgan(nn.Identity(), codebook, 1, ())
    z = torch.rand(2, 3, 4, 4, generator=generator_for("z")).requires_grad_()
    weight = torch.randn(2, 3, 4, 4, generator=generator_for("weight"))
    image = generator.decode([z])
    assert torch.equal(image, (generator.embed(generator.codes([z])) + 1) / 2)
    (image * weight).sum().backward()
    # (x + 1) / 2 halves it; nothing else is between image and latent.
    assert torch.equal(z.grad, weight / 2)  # type: ignore[arg-type]


def test_gradient_at_the_latent_is_that_of_the_decoder_at_the_codes_by_finite_differences() -> None:
    generator = tiny(torch.float64)
    z = near_codes(generator, [3]).double().requires_grad_()
    weight = torch.randn(1, 3, 8, 8, generator=generator_for("loss"), dtype=torch.float64)
    (generator.decode([z]) * weight).sum().backward()
    assert z.grad is not None
    quantised = generator.embed(generator.codes([z]))
    image = expected(quantised)
    assert 0 < float(image.min()) < float(image.max()) < 1  # the clamp plays no part here
    for number in range(4):
        direction = torch.randn(z.shape, generator=generator_for("direction", number), dtype=torch.float64)
        ahead, behind = (((expected(quantised + step * direction)) * weight).sum() for step in (1e-5, -1e-5))
        assert float((z.grad * direction).sum()) == pytest.approx(float(ahead - behind) / 2e-5, rel=1e-6)


def test_projection_clips_each_channel_to_the_box_of_the_codebook() -> None:
    generator = tiny()
    codebook = STATE["quantize.embedding.weight"]
    [z] = generator.init([1, 2], 8)
    inside = z.clone()
    generator.project_([z])
    assert torch.equal(z, inside)
    wild = (10 * z).requires_grad_()
    before = wild.detach().clone()
    generator.project_([wild])
    for channel in range(5):
        low, high = codebook[:, channel].min(), codebook[:, channel].max()
        assert torch.equal(wild.detach()[:, channel], before[:, channel].clamp(low, high))
    assert not torch.equal(wild.detach(), before)


def test_a_latent_depends_on_its_own_seed_alone() -> None:
    generator = tiny()
    [together], [alone] = generator.init([7, 8, 9], 32), generator.init([8], 32)
    assert torch.equal(together[1:2], alone)
    assert not torch.equal(together[0], together[1])
    images, image = generator.decode([together]), generator.decode([alone])
    assert torch.allclose(images[1:2], image, atol=1e-5)


def test_first_latents_are_codes_and_the_codes_are_all_the_image_is() -> None:
    generator = tiny()
    [z] = generator.init([1, 2], 9)
    assert z.shape == (2, 5, 5, 5)  # nine pixels are rounded up to five cells of two
    cells = z.permute(0, 2, 3, 1).reshape(-1, 5)
    assert all(bool((STATE["quantize.embedding.weight"] == cell).all(1).any()) for cell in cells)
    beside = near_codes(generator, [1, 2])
    codes = generator.codes([beside])
    assert codes.shape == (2, 4, 4)
    assert codes.dtype == torch.int64
    assert torch.equal(generator.decode([generator.embed(codes)]), generator.decode([beside]))


def test_resize_repeats_cells() -> None:
    generator = tiny()
    [z] = generator.init([1], 8)
    [larger] = generator.resize([z], 16)
    codes = generator.codes([z])
    assert torch.equal(generator.codes([larger]), codes.repeat_interleave(2, 1).repeat_interleave(2, 2))
    [back] = generator.resize([larger], 8)
    assert torch.equal(back, z)


def test_weights_stay_frozen_while_gradients_pass() -> None:
    shape = shape_of(STATE, "tiny")
    model = build_model(shape, STATE)
    generator = Vqgan.of_model(model)
    [z] = generator.init([1], 8)
    generator.decode([z.requires_grad_()]).sum().backward()
    assert not model.training
    assert all(not weight.requires_grad and weight.grad is None for weight in model.parameters())
    assert z.grad is not None
    assert float(z.grad.abs().sum()) > 0


def test_autocast_chooses_the_same_codes_and_nearly_the_same_image() -> None:
    generator = tiny()
    z = near_codes(generator, [1, 2]).requires_grad_()
    exact = generator.decode([z]).detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(generator.codes([z]), tiny().codes([z.float()]))
        image = generator.decode([z])
        image.square().sum().backward()
    assert image.dtype == torch.float32
    assert not torch.equal(image, exact)
    assert torch.allclose(image, exact, atol=0.02)
    assert z.grad is not None
    assert bool(z.grad.isfinite().all())
    assert float(z.grad.abs().sum()) > 0


def test_channels_last_gives_the_same_image() -> None:
    shape = shape_of(STATE, "tiny")
    generator = Vqgan.of_model(build_model(shape, STATE).to(memory_format=torch.channels_last))
    [z] = tiny().init([1, 2], 8)
    image = generator.decode([z.to(memory_format=torch.channels_last)])
    assert torch.allclose(image, tiny().decode([z]), atol=1e-5)


def checkpoint(path: Path, seed: int = 0) -> Path:
    save_file(published.random_state(published.decoder(TINY), seed), path)
    return path


def test_vqgan_alone_is_the_only_one_or_the_usual_one(tmp_path: Path, store: Path) -> None:
    with pytest.raises(ResourceError, match="clipstill weights import FILE"):
        load_generators("vqgan", CPU)
    first = import_vqgan(checkpoint(tmp_path / "a.safetensors"), licence="MIT", source="a test")
    assert first.name == "vqgan-f2-24-d5"
    [generator] = load_generators("vqgan", CPU)
    [z] = generator.init([1], 8)
    assert torch.allclose(generator.decode([z]), expected(z), atol=1e-5)
    import_vqgan(checkpoint(tmp_path / "b.safetensors", 1), name="other")
    with pytest.raises(ConfigError, match="several VQGANs are imported: other, vqgan-f2-24-d5"):
        load_generators("vqgan", CPU)
    usual = import_vqgan(checkpoint(tmp_path / "c.safetensors", 2), name="vqgan-f16-16384")
    assert load_generators("vqgan", CPU)[0].provenance[0].sha256 == usual.facts.sha256
    with pytest.raises(UnknownNameError, match="Did you mean 'other'"):
        load_generators("vqgan:othr", CPU)


def test_folder_file_and_name_give_the_same_generator_and_tell_what_is_known(tmp_path: Path, store: Path) -> None:
    given = checkpoint(tmp_path / "given.safetensors")
    stored = import_vqgan(given, "mine", licence="CC-BY-4.0", source="trained by us")
    images = []
    for name in ("mine", str(store / "mine"), str(store / "mine" / "model.safetensors"), str(given)):
        [generator] = load_generators(f"vqgan:{name}", CPU)
        assert generator.name == "vqgan"
        images.append(generator.decode(generator.init([5], 8)))
        [part] = generator.provenance
        known = name != str(given)
        assert part.licence == ("CC-BY-4.0" if known else "unknown")
        assert part.source == ("trained by us" if known else str(given))
        assert part.sha256 == (stored.facts.sha256 if known else sha256_file(given))
    assert all(torch.equal(image, images[0]) for image in images)


def test_altered_weights_and_foreign_folders_are_refused(tmp_path: Path, store: Path) -> None:
    import_vqgan(checkpoint(tmp_path / "given.safetensors"), "mine")
    checkpoint(store / "mine" / "model.safetensors", 1)
    with pytest.raises(ArtifactError, match="clipstill weights import FILE --name mine"):
        load_generators("vqgan:mine", CPU)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match="config.json is missing"):
        load_generators(f"vqgan:{tmp_path / 'empty'}", CPU)
    (tmp_path / "raw.ckpt").write_bytes(b"x")
    with pytest.raises(ConfigError, match="clipstill weights import"):
        load_generators(f"vqgan:{tmp_path / 'raw.ckpt'}", CPU)


def test_published_weights_carry_their_licence_and_their_pictures(tmp_path: Path) -> None:
    # The sizes decide, so the full network is described, but a tiny one is stored under that description's label.
    config = published.Published(16384, 256, 8, 32, (1, 1, 1, 1, 1), 1, (16,), 256)
    save_file(published.random_state(published.decoder(config)), tmp_path / "full.safetensors")
    silent = import_vqgan(tmp_path / "full.safetensors", "silent")
    assert (silent.facts.licence, silent.facts.trained_on) == ("unknown", "unknown")
    import_vqgan(tmp_path / "full.safetensors", "told", source="github CompVis/taming-transformers, vqgan_imagenet")
    [part] = load_generators("vqgan:told", CPU)[0].provenance
    assert part.licence == "MIT"
    assert "ImageNet" in part.name


def test_missing_diffusers_names_the_pip_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ResourceError, match=r"pip install 'clipstill\[diffusers\]'"):
        load_generators("vqgan:hub:someone/something", CPU)


def diffusers_model(norm_type: str, seed: int = 0) -> Any:
    diffusers = pytest.importorskip("diffusers")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        model = diffusers.VQModel(
            block_out_channels=(32, 64),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=1,
            latent_channels=6,
            # With spatial normalisation diffusers takes both numbers to be one.
            vq_embed_dim=5 if norm_type == "group" else 6,
            num_vq_embeddings=24,
            norm_num_groups=32,
            norm_type=norm_type,
        ).eval()
        model.quantize.embedding.weight.data.normal_()
    return model


@pytest.mark.parametrize("norm_type", ["group", "spatial"])
def test_a_diffusers_model_decodes_as_diffusers_does(tmp_path: Path, norm_type: str) -> None:
    model = diffusers_model(norm_type)
    model.save_pretrained(tmp_path / "model", safe_serialization=True)
    (tmp_path / "model" / "README.md").write_text("---\nlicense: cc-by-4.0\n---\n")
    [generator] = load_generators(f"vqgan:hub:{tmp_path / 'model'}", CPU)
    z = near_codes(generator, [1, 2]).requires_grad_()  # type: ignore[arg-type]
    image = generator.decode([z])
    with torch.no_grad():
        theirs = ((model.decode(z).sample + 1) / 2).clamp(0, 1)
    assert image.shape == (2, 3, 8, 8)
    assert torch.allclose(image, theirs, atol=1e-5)
    image.sum().backward()
    assert z.grad is not None
    assert float(z.grad.abs().sum()) > 0
    [part] = generator.provenance
    assert part.licence == "cc-by-4.0"
    assert part.sha256 == sha256_file(tmp_path / "model" / "diffusion_pytorch_model.safetensors")


def test_a_published_checkpoint_with_diffusers_weights_decodes_as_diffusers_does() -> None:
    model = diffusers_model("group")
    theirs = model.state_dict()
    names = published.decoder(published.Published(24, 5, 6, 32, (1, 2), 1, (), 16))
    state = {}
    for name, shape in names.items():
        parts = name.replace("decoder.mid.block_1", "decoder.mid_block.resnets.0")
        parts = parts.replace("decoder.mid.block_2", "decoder.mid_block.resnets.1")
        parts = parts.replace("decoder.mid.attn_1.norm", "decoder.mid_block.attentions.0.group_norm")
        for ours, other in (("q", "to_q"), ("k", "to_k"), ("v", "to_v"), ("proj_out", "to_out.0")):
            parts = parts.replace(f"decoder.mid.attn_1.{ours}.", f"decoder.mid_block.attentions.0.{other}.")
        for level in (0, 1):
            parts = parts.replace(f"decoder.up.{level}.block", f"decoder.up_blocks.{1 - level}.resnets")
            parts = parts.replace(f"decoder.up.{level}.upsample", f"decoder.up_blocks.{1 - level}.upsamplers.0")
        parts = parts.replace("nin_shortcut", "conv_shortcut").replace("decoder.norm_out", "decoder.conv_norm_out")
        state[name] = theirs[parts].reshape(shape)
    built = build_model(shape_of(state, "diffusers"), state)
    z = torch.randn(2, 5, 4, 4, generator=generator_for("codes"))
    with torch.no_grad():
        ours, diffusers = (one.decode(z, force_not_quantize=True).sample for one in (built, model))
    assert torch.allclose(ours, diffusers, atol=1e-5)


def test_folders_without_a_whole_vq_model_are_refused(tmp_path: Path) -> None:
    model = diffusers_model("group")
    folder = tmp_path / "model"
    model.save_pretrained(folder, safe_serialization=True)
    with pytest.raises(ConfigError, match="vqgan:hub:"):
        load_generators(f"vqgan:{folder}", CPU)
    with pytest.raises(DataError, match="no file or folder alone/ .*vqgan:hub:OWNER/REPO"):
        load_generators("vqgan:hub:alone", CPU)
    state = {name: tensor for name, tensor in model.state_dict().items() if name != "decoder.conv_in.bias"}
    save_file(state, folder / "diffusion_pytorch_model.safetensors", {"format": "pt"})
    with pytest.raises(DataError, match="decoder.conv_in.bias"):
        load_generators(f"vqgan:hub:{folder}", CPU)
    (folder / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(DataError, match="diffusion_pytorch_model.safetensors") as caught:
        load_generators(f"vqgan:hub:{folder}", CPU)
    assert "\n" not in str(caught.value)
    config = json.loads((folder / "config.json").read_text())
    assert config["_class_name"] == "VQModel"


def test_a_remote_model_is_asked_for_by_its_repository_and_failures_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = diffusers_model("group")
    snapshot = tmp_path / "snapshot"
    model.save_pretrained(snapshot / "vqvae", safe_serialization=True)
    (snapshot / "README.md").write_text("---\nlicense: mit\n---\n")
    asked: list[tuple[str, list[str]]] = []

    def fetched(repository: str, allow_patterns: list[str], **_: object) -> str:
        asked.append((repository, allow_patterns))
        return str(snapshot)

    monkeypatch.setattr("huggingface_hub.snapshot_download", fetched)
    [generator] = load_generators("vqgan:hub:someone/something/vqvae", CPU)
    [(repository, patterns)] = asked
    assert repository == "someone/something"
    # Nothing but safetensors is fetched: code in weight files is never run.
    assert patterns[:2] == ["vqvae/config.json", "vqvae/diffusion_pytorch_model.safetensors"]
    assert set(patterns[2:]) == {"README.md", "LICENSE"}
    [part] = generator.provenance
    assert (part.licence, part.source) == ("mit", "hub model someone/something/vqvae")
    assert part.sha256 == sha256_file(snapshot / "vqvae" / "diffusion_pytorch_model.safetensors")

    def offline(*_: Any, **__: Any) -> Any:
        raise OSError("no route to host\nand a long story")

    monkeypatch.setattr("huggingface_hub.snapshot_download", offline)
    monkeypatch.setattr("clipstill.core.hub.check_reachable", lambda: None)
    with pytest.raises(ResourceError, match="no route to host") as caught:
        load_generators("vqgan:hub:someone/something", CPU)
    assert "\n" not in str(caught.value)
