"""Generators: frozen differentiable maps from latents to images, found by name.

Every factory has the same call: ``factory(rest, device)``; one with a parameter ``settings`` gets ``GeneratorSettings``
too. It returns a ``Generator``, or a ``Sampler`` where a model draws from texts by itself. Generators whose names are
joined by ``+`` take turns.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from clipstill.core.protocols import Generator, Sampler
from clipstill.core.registry import Part, Registry
from clipstill.generators.settings import GeneratorSettings

if TYPE_CHECKING:
    import torch

generators = Registry(
    "generator",
    {
        "pixels": Part(
            "clipstill.generators.pixels:load_pixels", "no decoder is wanted: pixels are optimised themselves"
        ),
        "embedded": Part(
            "clipstill.generators.embedded:load_embedded", "you begin: half of the default, embedded+pixels"
        ),
        "vqgan": Part(
            "clipstill.generators.vqgan:load_vqgan",
            "you repeat the published systems; see clipstill weights import --help",
            "",
            "of the checkpoint",
        ),
        "tiny-autoencoder": Part(
            "clipstill.generators.tiny_autoencoder:load_tiny_autoencoder",
            "diffusers is installed and a hub can be reached",
            "5 MB",
            "MIT",
        ),
        "dead-leaves": Part(
            "clipstill.generators.procedural:load_dead_leaves", "you need a control: random overlapping discs"
        ),
        "noise": Part("clipstill.generators.procedural:load_noise", "you need a control: random pixels"),
    },
    prefixes={
        "vqgan": Part("clipstill.generators.vqgan:load_vqgan", "you imported several", "", "of the checkpoint"),
        "tiny-autoencoder": Part(
            "clipstill.generators.tiny_autoencoder:load_tiny_autoencoder", "you have the decoder on disk", "5 MB", "MIT"
        ),
        "text-to-image": Part(
            "clipstill.generators.text_to_image:load_text_to_image",
            "you have a GPU and a diffusion model",
            "of the model",
            "of the model",
        ),
    },
)


def resolve_generators(names: str) -> list[tuple[Callable[..., Any], str]]:
    """Factory of each generator of a name, which may join several by ``+``, and the rest of its name."""
    return [generators.resolve(name) for name in generators.split(names)]


def load_generators(
    names: str, device: torch.device, settings: GeneratorSettings | None = None
) -> list[Generator | Sampler]:
    """Load generators, frozen, in the order of their names; ``settings`` are those of text-to-image models.

    Raises:
        UnknownNameError: There is no such generator.
    """
    found = []
    for factory, rest in resolve_generators(names):
        takes_settings = settings is not None and "settings" in inspect.signature(factory).parameters
        found.append(factory(rest, device, **({"settings": settings} if takes_settings else {})))
    return found
