"""Generators: frozen differentiable maps from latents to images, found by name.

Every factory has the same call: ``factory(rest, device) -> Generator``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from clipstill.core.protocols import Generator
from clipstill.core.registry import Registry

if TYPE_CHECKING:
    import torch

generators = Registry(
    "generator",
    {
        "pixels": "clipstill.generators.pixels:load_pixels",
        "embedded": "clipstill.generators.embedded:load_embedded",
    },
)


def load_generator(name: str, device: torch.device) -> Generator:
    """Load a generator, frozen.

    Raises:
        UnknownNameError: no such generator.
    """
    factory, rest = generators.resolve(name)
    generator: Generator = factory(rest, device)
    return generator
