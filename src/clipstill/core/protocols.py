"""Interfaces between the parts.

Shapes: N images, M texts, C classes, D teacher dimensions, L tokens, H x W pixels. Images are RGB float in [0, 1];
every model normalises by itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol, get_args, runtime_checkable

from clipstill.core.errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Provenance:
    """Source and licence of weights."""

    name: str  # Name of the part, such as ``"EfficientNet-Lite0 image tower"``.
    licence: str  # SPDX identifier or a plain name.
    source: str  # Package, file or model name.
    sha256: str = ""  # Hash of the weights; empty for parts without weights.


Size = int | tuple[int, int]  # Side of a square, or height and width.
Interpolation = Literal["bicubic", "bilinear"]
ResizeMode = Literal["shortest", "longest", "squash"]
INTERPOLATIONS: tuple[Interpolation, ...] = get_args(Interpolation)
RESIZE_MODES: tuple[ResizeMode, ...] = get_args(ResizeMode)


@dataclass(frozen=True)
class Preprocess:
    """Preprocessing of image files for a model.

    Resize with antialias to ``size``, scale to [0, 1], then ``(x - mean) / std`` per channel. Resize modes:

    - ``shortest``: Scale the short side to ``round(size / crop_fraction)`` and cut the centre.
    - ``longest``: Scale the long side and pad the other with grey of level ``fill``.
    - ``squash``: Scale both sides, whatever the shape of the photo.
    """

    size: Size
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    crop_fraction: float = 1.0
    interpolation: Interpolation = "bicubic"
    resize_mode: ResizeMode = "shortest"
    fill: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the model's input in pixels."""
        return height_and_width(self.size)

    @property
    def whole(self) -> Preprocess:
        """The same without the crop of ``crop_fraction``."""
        return replace(self, crop_fraction=1.0)

    @property
    def side(self) -> int:
        """Side of a square input in pixels.

        Raises:
            ConfigError: The input is no square.
        """
        height, width = self.shape
        if height != width:
            raise ConfigError(
                f"the image tower takes {height} x {width} pixels, and only square ones can be trained. Use it as a "
                f"teacher, or ship it as it is: clipstill zero-shot."
            )
        return height


def height_and_width(size: Size) -> tuple[int, int]:
    """Height and width in pixels."""
    return (size, size) if isinstance(size, int) else size


@runtime_checkable
class Teacher(Protocol):
    """A CLIP-like dual encoder."""

    name: str  # Name as the user wrote it.
    image_size: int  # Side in pixels that the image tower was trained for.
    dim: int  # D.
    logit_scale: float  # Factor of cosines before a softmax.
    preprocess: Preprocess  # Preprocessing of image files.
    templates: str  # Set of templates in ``clipstill.text.templates`` that suits the text tower.
    multilingual: bool  # Whether the text tower reads other languages than English.
    image_parameters: int  # Number of parameters of the image tower, as a bundle of it ships them.
    provenance: Sequence[Provenance]  # Source of all weights.

    @property
    def weights_sha256(self) -> str:
        """Hash of all weights."""

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Unit vectors (N, D), float32, of images of any size, differentiable to the pixels."""

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Unit vectors (M, D), float32, without gradient."""

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Token embeddings (M, L, E), and the mask or end-of-text position that ``encode_tokens`` needs."""

    def encode_tokens(self, embeddings_MLE: Tensor, position: Tensor) -> Tensor:
        """Unit vectors (M, D) of token embeddings, differentiable to the embeddings."""


@runtime_checkable
class BatchNormTeacher(Teacher, Protocol):
    """A teacher whose image tower has BatchNorm statistics."""

    statistics_networks: tuple[str, ...]  # Networks in ``core.packaged_weights.LITE`` with these statistics, if any.

    def encode_image_with_statistics(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D), and the mean of the layers' ``core.batchnorm.statistics_gaps``, which couples images."""


@runtime_checkable
class HeadTeacher(Teacher, Protocol):
    """A teacher that shares networks with students, and tells how their heads may begin."""

    def linear_head(self, network: str, class_vectors_CD: Tensor) -> tuple[Tensor, Tensor] | None:
        """Weights (C, F) and biases (C,) on the features of a pretrained network; None where it has no such network."""


@runtime_checkable
class PromptedTeacher(Teacher, Protocol):
    """A teacher with learnable prompts, which are its only parameters."""

    learns_after_towers: bool  # Whether the prompts act after the frozen image tower, whose output can be cached.

    def class_vectors(self, names: Sequence[str]) -> Tensor:
        """Unit vectors (C, D), float32, differentiable to the prompts."""

    def plain_class_vectors(self, names: Sequence[str]) -> Tensor:
        """Unit vectors (C, D), float32, of the teacher without prompts."""

    def plain_image(self, x_N3HW: Tensor) -> Tensor:
        """Unit vectors (N, D), float32, of the teacher without prompts."""

    def prompted_image(self, x_N3HW: Tensor, plain_ND: Tensor) -> Tensor:
        """As ``encode_image``, given ``plain_image``; ``x_N3HW`` is not read if ``learns_after_towers``."""

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """The prompts."""


@runtime_checkable
class Generator(Protocol):
    """A frozen differentiable map from a latent to an image."""

    name: str  # Name in the registry.
    provenance: Sequence[Provenance]  # Source of the weights.
    lr_factor: float  # Learning rate of the latents, as a multiple of that of pixels.
    tv_factor: float  # Factor in [0, 1] of the weight of total variation; small for generators that make little noise.
    stride: int  # Pixels per latent cell; sides of images are multiples of it.

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """One latent per seed, in tensors with first dimension N; ``size`` is rounded up to whole latent cells."""

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Images (N, 3, H, W) in [0, 1], differentiable to the latents."""

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip the latents to their valid box in place, without gradient."""

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """Latents of the same images with another side in pixels, to continue a coarse image at a finer size."""

    def codes(self, latents: Sequence[Tensor]) -> Tensor | None:
        """Codebook indices (N, h, w) of each image; None without a codebook."""


@runtime_checkable
class NetworkGenerator(Generator, Protocol):
    """A generator with a frozen network, whose weights may be held in half precision."""

    network: Any  # Module; ``decode`` computes in the precision of its weights, from and to float32.


@runtime_checkable
class Sampler(Protocol):
    """A text-to-image model, the alternative to inversion; registered as a generator."""

    name: str  # Name in the registry.
    provenance: Sequence[Provenance]  # Source of the weights.

    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] per text and seed, each from its own seed alone."""
