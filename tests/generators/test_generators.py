"""What every generator promises. Those with weights are tested with random ones: their shape is what counts here."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import vqgan_fixtures
from clipstill.core.errors import ArtifactError, UnknownNameError
from clipstill.core.protocols import Generator
from clipstill.core.seeds import generator_for
from clipstill.generators import generators, load_generators
from clipstill.generators.embedded import Decoder, EmbeddedGenerator

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> EmbeddedGenerator:
    draw = generator_for("decoder")
    state = {
        name: torch.randn(tensor.shape, generator=draw) / max(1, tensor[0].numel()) ** 0.5
        for name, tensor in Decoder().state_dict().items()
    }
    path = tmp_path_factory.mktemp("weights") / "generator.safetensors"
    save_file({**state, "smoothing": torch.tensor(0.5)}, path, {"licence": "CC0-1.0"})
    return EmbeddedGenerator(CPU, path)


@pytest.fixture(scope="module")
def vqgan(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    path = tmp_path_factory.mktemp("weights") / "vqgan.safetensors"
    save_file(vqgan_fixtures.random_state(vqgan_fixtures.decoder(vqgan_fixtures.TINY)), path)
    return load_generators(f"vqgan:{path}", CPU)[0]


@pytest.fixture(params=["pixels", "embedded", "vqgan"])
def generator(request: pytest.FixtureRequest, embedded: EmbeddedGenerator, vqgan: Generator) -> Generator:
    drawn = {"embedded": embedded, "vqgan": vqgan}
    return drawn[request.param] if request.param in drawn else load_generators(request.param, CPU)[0]


def test_every_generator_keeps_its_protocol(generator: Generator) -> None:
    assert isinstance(generator, Generator)
    assert generator.name in generators.names()


def test_a_latent_comes_from_its_own_seed_alone(generator: Generator) -> None:
    together, alone = generator.init([7, 8, 9], 32), generator.init([8], 32)
    assert all(torch.equal(many[1:2], one) for many, one in zip(together, alone, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(together, generator.init([7, 8, 9], 32), strict=True))
    assert not torch.equal(together[0][0], together[0][1])


def test_images_are_inside_the_range_and_of_the_size(generator: Generator) -> None:
    images = generator.decode(generator.init([1, 2], 64))
    assert images.shape == (2, 3, 64, 64)
    assert float(images.min()) > 0
    assert float(images.max()) < 1


def test_every_latent_moves_its_own_image_and_no_other(generator: Generator) -> None:
    latents = [latent.requires_grad_() for latent in generator.init([1, 2], 32)]
    generator.decode(latents)[0].square().sum().backward()
    for latent in latents:
        assert latent.grad is not None
        assert torch.isfinite(latent.grad).all()
        assert float(latent.grad[0].abs().sum()) > 0
        assert float(latent.grad[1].abs().sum()) == 0


def test_projection_keeps_valid_latents(generator: Generator) -> None:
    latents = generator.init([1, 2], 32)
    before = [latent.clone().clamp(-3, 3) for latent in latents]
    generator.project_(latents)
    assert all(torch.equal(a, b) for a, b in zip(before, latents, strict=True))


def test_pixels_start_with_less_of_the_fine_than_of_the_coarse() -> None:
    [pixels] = load_generators("pixels", CPU)
    image = pixels.decode(pixels.init([0], 64))
    fine = (image[..., 1:] - image[..., :-1]).square().mean()
    coarse = (image[..., 8:] - image[..., :-8]).square().mean()
    assert float(coarse) > float(fine)


def test_embedded_generator_tells_its_licence_and_that_its_weights_are_missing(
    embedded: EmbeddedGenerator, tmp_path: Path
) -> None:
    assert embedded.provenance[0].licence == "CC0-1.0"
    with pytest.raises(ArtifactError, match="python -m tools.weights embedded-generator"):
        EmbeddedGenerator(CPU, tmp_path / "gone.safetensors")


def test_unknown_generator_suggests_the_closest() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'pixels'"):
        load_generators("embedded+pixel", CPU)


def test_joined_names_give_the_generators_in_their_order() -> None:
    assert [generator.name for generator in load_generators("embedded + pixels", CPU)] == ["embedded", "pixels"]
