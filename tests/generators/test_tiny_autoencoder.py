"""Tiny autoencoders: names of layers, whitened latents, statistics, and what a user is told."""

import logging
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.fft import dctn

pytest.importorskip("diffusers")

from diffusers import AutoencoderTiny

from clipstill.core.errors import ArtifactError, DataError, ResourceError
from clipstill.core.protocols import Generator
from clipstill.core.seeds import generator_for
from clipstill.generators import generators, load_generators
from clipstill.generators.latent_prior import LatentPrior, Probe, from_frequencies, radial_frequency
from clipstill.generators.model_files import DIFFUSERS_FILE, licence_of
from clipstill.generators.tiny_autoencoder import (
    PRIOR,
    PRIOR_FILE,
    AutoencoderFiles,
    TinyAutoencoder,
    diffusers_names,
    find_autoencoder,
    load_part,
)
from tools.weights.latent_prior import encoded, measured, save_prior, to_frequencies

CPU = torch.device("cpu")
DATA = Path(os.environ.get("CLIPSTILL_DATA", Path(__file__).parents[3] / "shared" / "data"))
REAL = DATA.parent / "weights" / "taesd"
needs_real = pytest.mark.skipif(not REAL.is_dir(), reason="TAESD's weights are not here")


def published(network: AutoencoderTiny, part: str) -> dict[str, torch.Tensor]:
    """Weights in the numbers of the published sequential module, which counts the decoder's clamp."""
    shift = 1 if part == "decoder" else 0
    state = getattr(network, part).state_dict()
    names = {name: name.removeprefix("layers.").split(".", 1) for name in state}
    return {f"{int(number) + shift}.{rest}": state[name].clone() for name, (number, rest) in names.items()}


@pytest.fixture(scope="module")
def network() -> AutoencoderTiny:
    made = AutoencoderTiny(encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4)
    draw = generator_for("tiny autoencoder")
    with torch.no_grad():
        for weights in made.parameters():
            fan = max(1, weights[0].numel())
            weights.copy_(torch.randn(weights.shape, generator=draw) / fan**0.5)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folder(network: AutoencoderTiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What diffusers saves."""
    path = tmp_path_factory.mktemp("saved")
    network.save_pretrained(path)
    (path / "README.md").write_text("---\nlicense: mit\n---\n# A card\n")
    return path


@pytest.fixture(scope="module")
def generator(folder: Path) -> TinyAutoencoder:
    [made] = load_generators(f"tiny-autoencoder:{folder}", CPU)
    assert isinstance(made, TinyAutoencoder)
    return made


def whitened(prior: LatentPrior, latent: torch.Tensor) -> torch.Tensor:
    """Coefficients of a latent, solved for apart from the generator."""
    coloured = to_frequencies(latent - prior.mean_Z[:, None, None]).permute(2, 3, 1, 0)
    return torch.linalg.solve(prior.at(latent.shape[-1]), coloured).permute(3, 2, 0, 1)


def test_it_keeps_the_protocol_of_generators(generator: TinyAutoencoder) -> None:
    assert isinstance(generator, Generator)
    assert generator.name in generators.names()
    assert generator.stride == 8
    assert generator.codes(generator.init([1], 32)) is None


def test_published_numbers_and_names_of_diffusers_are_the_same_network(network: AutoencoderTiny, folder: Path) -> None:
    for part in ("decoder", "encoder"):
        renamed = diffusers_names(published(network, part))
        kept = {name: value for name, value in load_file(folder / DIFFUSERS_FILE).items() if name.startswith(part)}
        assert renamed.keys() == kept.keys()
        assert all(torch.equal(renamed[name], kept[name]) for name in kept)


@needs_real
@pytest.mark.parametrize("part", ["decoder", "encoder"])
def test_every_published_tensor_has_its_place_in_diffusers(part: str) -> None:
    state = diffusers_names(load_file(REAL / f"taesd_{part}.safetensors"))
    place = {name: value.shape for name, value in AutoencoderTiny().state_dict().items() if name.startswith(part)}
    assert {name: value.shape for name, value in state.items()} == place


@needs_real
def test_published_weights_reproduce_a_picture_and_are_known_by_their_prior() -> None:
    files = find_autoencoder(str(REAL))
    encoder, generator = load_part(files, "encoder"), TinyAutoencoder(files, CPU)
    across = torch.linspace(0, 1, 64).expand(64, 64)
    picture = torch.stack([across, across.T, 1 - across])[None]
    picture[:, :, 16:40, 24:48] = torch.tensor([0.9, 0.2, 0.1])[:, None, None]
    again = generator.decode([whitened(LatentPrior.load(PRIOR)[0], encoder(picture * 2 - 1))])
    assert float((again - picture).abs().mean()) < 0.05
    assert [part.name for part in generator.provenance] == ["tiny autoencoder", "latent statistics"]
    assert generator.provenance[0].licence == "MIT"


def test_it_decodes_as_diffusers_does_into_zero_to_one(generator: TinyAutoencoder, network: AutoencoderTiny) -> None:
    latents = generator.init([1, 2], 40)
    images = generator.decode(latents)
    assert images.shape == (2, 3, 40, 40)
    expected = network.decode(generator.latent(latents[0])).sample / 2 + 0.5
    assert torch.allclose(images, expected.clamp(0, 1), atol=1e-5)
    assert float(expected.max()) > 1 or float(expected.min()) < 0


def test_saturated_pixels_still_move_inwards(generator: TinyAutoencoder) -> None:
    [latent] = generator.init([1, 2, 3, 4], 32)
    latent = (latent * 1.5).requires_grad_()
    images = generator.decode([latent])
    dark, bright = images.detach() == 0, images.detach() == 1
    assert bool(dark.any() | bright.any())
    [inwards] = torch.autograd.grad(images[bright].sum() - images[dark].sum(), latent, retain_graph=True)
    [outwards] = torch.autograd.grad(images[dark].sum() - images[bright].sum(), latent)
    assert float(inwards.abs().sum()) > 0
    assert float(outwards.abs().sum()) == 0


def test_a_latent_comes_from_its_own_seed_and_moves_its_own_image(generator: TinyAutoencoder) -> None:
    together, alone = generator.init([7, 8, 9], 32)[0], generator.init([8], 32)[0]
    assert torch.equal(together[1:2], alone)
    together.requires_grad_()
    generator.decode([together])[1].square().sum().backward()
    assert together.grad is not None
    assert together.grad.abs().sum((1, 2, 3)).gt(0).tolist() == [False, True, False]


def test_cosine_coefficients_are_those_of_scipy_and_come_back() -> None:
    z = torch.randn(2, 3, 7, 7, generator=generator_for("cosine"))
    expected = torch.from_numpy(dctn(z.numpy(), axes=(2, 3), norm="ortho"))
    assert torch.allclose(to_frequencies(z), expected, atol=1e-5)
    assert torch.allclose(from_frequencies(to_frequencies(z)), z, atol=1e-5)


def coloured_noise(images: int, side: int) -> torch.Tensor:
    """Latents of two channels that vary together, whose amplitudes fall as 1 / frequency, around (1, -2)."""
    draw = torch.randn(images, 2, side, side, generator=generator_for("noise", side))
    mixed = torch.einsum("cd,ndhw->nchw", torch.tensor([[1.0, 0.0], [0.8, 0.6]]), draw)
    frequency = radial_frequency(side)
    frequency[0, 0] = 1 / side
    return from_frequencies(mixed / frequency) + torch.tensor([1.0, -2.0])[:, None, None]


def test_measured_statistics_are_those_that_latents_were_drawn_with() -> None:
    prior = measured(coloured_noise(3000, 12))
    assert torch.allclose(prior.mean_Z, torch.tensor([1.0, -2.0]), atol=0.1)
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])
    roots = prior.at(12)
    for row, column in ((0, 0), (2, 1), (5, 5), (0, 9)):
        frequency = max(float(radial_frequency(12)[row, column]), 1 / 12)
        found = roots[row, column] @ roots[row, column] * frequency**2
        # The nearest coefficients are smoothed over, and power falls as the square.
        assert torch.allclose(found, covariance, rtol=0.25, atol=0.1)


def test_whitened_latents_of_another_side_are_white_too() -> None:
    """Statistics of 12 cells a side serve 20, because spectra are of cells and not of images."""
    prior, latents = measured(coloured_noise(2000, 12)), coloured_noise(1000, 20)
    coloured = to_frequencies(latents - prior.mean_Z[:, None, None]).permute(2, 3, 1, 0)
    white = torch.linalg.solve(prior.at(20), coloured)[1:, 1:]
    assert float(white.var()) == pytest.approx(1, abs=0.1)
    assert float((white[..., 0, :] * white[..., 1, :]).mean()) == pytest.approx(0, abs=0.05)


def test_a_step_moves_the_coarse_further_than_the_fine(generator: TinyAutoencoder) -> None:
    zero = torch.zeros(1, 4, 12, 12)
    moved = []
    for place in ((0, 1), (0, 4), (11, 11)):
        step = zero.clone()
        step[0, :, *place] = 0.1
        moved.append(float((generator.latent(step) - generator.latent(zero)).norm()))
    assert moved[0] > 1.5 * moved[1] > 1.5 * moved[2]


def test_coefficients_are_the_inverse_of_latents(generator: TinyAutoencoder) -> None:
    [start] = generator.init([3], 48)
    assumed = LatentPrior.assumed(LatentPrior.load(PRIOR)[0], 4)
    assert torch.allclose(whitened(assumed, generator.latent(start)), start, atol=1e-4)


def test_a_resized_latent_is_the_same_picture_and_comes_back(generator: TinyAutoencoder) -> None:
    [small] = generator.init([3, 4], 48)
    [large] = generator.resize([small], 96)
    assert large.shape == (2, 4, 12, 12)
    before, after = generator.latent(small), generator.latent(large)
    assert torch.allclose(before.mean((2, 3)), after.mean((2, 3)), atol=1e-4)
    pooled = torch.nn.functional.avg_pool2d(after, 2)
    assert float((pooled - before).norm() / before.norm()) < 0.3
    assert torch.allclose(generator.resize([large], 48)[0], small, atol=1e-4)


def test_projection_clips(generator: TinyAutoencoder) -> None:
    ones = torch.ones(2, 4, 3, 3) * torch.tensor([1.0, 20.0]).view(2, 1, 1, 1)
    generator.project_([ones])
    assert ones.amax((1, 2, 3)).tolist() == [1.0, 5.0]


def test_a_decoder_without_statistics_gets_assumed_ones_and_says_so(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clipstill")
    made = TinyAutoencoder(AutoencoderFiles(folder / DIFFUSERS_FILE, "a relative"), CPU)
    assert "no statistics of the latents of a relative" in caplog.text
    assert [part.name for part in made.provenance] == ["tiny autoencoder"]
    white = torch.randn(200, 4, 12, 12, generator=generator_for("white"))
    assert float(made.latent(white).std()) == pytest.approx(1, abs=0.1)


def test_statistics_beside_a_decoder_are_used(
    network: AutoencoderTiny, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="clipstill")
    network.save_pretrained(tmp_path)
    latent = torch.randn(2, 4, 3, 3, generator=generator_for("probe"))
    photos = torch.randint(0, 256, (3, 3, 100, 130), generator=generator_for("photos")).to(torch.uint8)
    prior = measured(encoded(network.encoder, photos, 40))
    save_prior(tmp_path / PRIOR_FILE, prior, Probe.take(network.decoder, latent), {"licence": "CC0-1.0"})
    [made] = load_generators(f"tiny-autoencoder:{tmp_path}", CPU)
    assert "no statistics" not in caplog.text
    assert made.provenance[1].licence == "CC0-1.0"
    stored, _ = LatentPrior.load(tmp_path / PRIOR_FILE)
    assert torch.equal(stored.roots_KZZ, prior.roots_KZZ)
    with pytest.raises(ArtifactError, match="python -m tools.weights latent-prior"):
        LatentPrior.load(tmp_path / "gone.safetensors")


def test_stored_statistics_fall_with_frequency_and_tell_their_licence() -> None:
    prior, _ = LatentPrior.load(PRIOR)
    power = prior.roots_KZZ.square().sum((1, 2))
    assert bool((power[:4].diff() < 0).all())
    assert float(power[0]) > 5 * float(power[-1])
    assert prior.provenance[0].licence == "Apache-2.0 AND CC-BY-4.0"
    assert "Aitzol Berasategi" in prior.provenance[0].source


def test_crops_do_not_depend_on_how_many_are_made(network: AutoencoderTiny) -> None:
    photos = torch.randint(0, 256, (3, 3, 100, 130), generator=generator_for("photos")).to(torch.uint8)
    assert torch.allclose(encoded(network.encoder, photos, 3), encoded(network.encoder, photos, 5)[:3], atol=1e-5)


def test_a_decoder_is_found_in_a_folder_of_published_files(network: AutoencoderTiny, tmp_path: Path) -> None:
    for part in ("decoder", "encoder"):
        save_file(published(network, part), tmp_path / f"some_{part}.safetensors")
    files = find_autoencoder(str(tmp_path))
    assert (files.decoder.name, files.encoder.name) == ("some_decoder.safetensors", "some_encoder.safetensors")
    (tmp_path / "other_decoder.safetensors").write_bytes(b"")
    with pytest.raises(DataError, match="cannot choose a decoder.*Name its file"):
        find_autoencoder(str(tmp_path))


def test_what_is_no_decoder_is_named(network: AutoencoderTiny, tmp_path: Path) -> None:
    save_file(published(network, "encoder"), tmp_path / "encoder.safetensors")
    with pytest.raises(DataError, match="holds no decoder of a tiny autoencoder"):
        load_generators(f"tiny-autoencoder:{tmp_path / 'encoder.safetensors'}", CPU)
    (tmp_path / "broken.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match="broken.safetensors cannot be read as the decoder"):
        load_generators(f"tiny-autoencoder:{tmp_path / 'broken.safetensors'}", CPU)
    with pytest.raises(DataError, match="no file or folder"):
        load_generators(f"tiny-autoencoder:{tmp_path / 'gone.safetensors'}", CPU)


def test_without_a_network_a_local_file_is_proposed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def blocked(*_: object, **__: object) -> None:
        raise OSError("sockets are blocked")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", blocked)
    with pytest.raises(ResourceError, match="madebyollin/taesd.*tiny-autoencoder:/path/to/taesd_decoder.safetensors"):
        load_generators("tiny-autoencoder", CPU)


def test_without_diffusers_the_extra_is_named(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    monkeypatch.setitem(sys.modules, "diffusers", None)
    with pytest.raises(ResourceError, match=r"pip install 'clipstill\[diffusers\]'"):
        load_generators(f"tiny-autoencoder:{folder}", CPU)


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("README.md", "---\nlicense: creativeml-openrail-m\ntags: [a]\n---\ntext", "creativeml-openrail-m"),
        ("README.md", "---\nlicense: other\nlicense_name: some-research-only\n---\n", "some-research-only"),
        ("README.md", "---\nlicense: [mit, apache-2.0]\n---\n", "mit AND apache-2.0"),
        ("README.md", "license: mit", "unknown"),
        ("README.md", "---\nlicense: [\n---\n", "unknown"),
        ("LICENSE", "MIT License\n\nCopyright", "MIT"),
        ("LICENSE", "All rights reserved", "unknown"),
    ],
)
def test_the_licence_is_what_the_publisher_states(tmp_path: Path, name: str, text: str, licence: str) -> None:
    (tmp_path / name).write_text(text)
    assert licence_of(tmp_path) == licence
