"""What the parts promise each other.

Shapes: N images, M texts, C classes, D teacher dimensions, L tokens, H x W pixels. Images are RGB float in [0, 1];
every model normalises by itself, so that nobody passes normalised tensors around.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Provenance:
    """Where weights came from and under which licence they may be used.

    Attributes:
        name: what it is, such as ``"EfficientNet-Lite0 image tower"``.
        licence: SPDX identifier, or a plain name where there is none.
        source: package, file or model name.
        sha256: hash of the weights; empty for parts without weights.
    """

    name: str
    licence: str
    source: str
    sha256: str = ""


@dataclass(frozen=True)
class Preprocess:
    """What happens to an image file before a model sees it; travels with the model.

    Resize so that the short side is ``round(size / crop_fraction)`` (bicubic with antialias), cut the ``size`` x
    ``size`` centre, scale to [0, 1], then ``(x - mean) / std`` per channel.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    crop_fraction: float = 1.0


@runtime_checkable
class Teacher(Protocol):
    """A CLIP-like dual encoder.

    Attributes:
        name: as the user wrote it.
        image_size: side in pixels that the image tower was trained for.
        dim: D.
        logit_scale: what cosines are multiplied by before a softmax.
        preprocess: of image files.
        templates: the set of sentences around a class name that suits its text tower, see ``clipstill.text.templates``.
        image_parameters: numbers in the image tower.
        provenance: of all its weights.
    """

    name: str
    image_size: int
    dim: int
    logit_scale: float
    preprocess: Preprocess
    templates: str
    image_parameters: int
    provenance: Sequence[Provenance]

    @property
    def weights_sha256(self) -> str:
        """Of all its weights together."""
        ...

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] of any size -> unit vectors (N, D), float32, differentiable to the pixels."""
        ...

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (M, D), float32, no gradient."""
        ...

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Texts -> token embeddings (M, L, E) and the mask or end-of-text position that ``encode_tokens`` needs."""
        ...

    def encode_tokens(self, embeddings_MLE: Tensor, position: Tensor) -> Tensor:
        """Token embeddings, learned ones among them -> unit vectors (M, D), differentiable to the embeddings."""
        ...


@runtime_checkable
class BatchNormTeacher(Teacher, Protocol):
    """A teacher whose image tower carries BatchNorm statistics.

    Attributes:
        statistics_networks: the packaged ImageNet networks (``core.packaged_weights``) whose statistics these are;
            empty where they are of other networks or images.
    """

    statistics_networks: tuple[str, ...]

    def encode_image_with_statistics(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D), and the batch's distance from the stored statistics.

        The distance is a scalar, the mean over layers of the relative gap of means and of standard deviations. It
        couples the images of the batch.
        """
        ...


@runtime_checkable
class PromptedTeacher(Teacher, Protocol):
    """A teacher with prompts to learn, which are its parameters; the weights of its towers are none of them.

    Attributes:
        learns_after_towers: whether images pass through the frozen tower first and meet what is learned then, so that
            the tower's part can be computed once.
    """

    learns_after_towers: bool

    def class_vectors(self, names: Sequence[str]) -> Tensor:
        """Unit vectors (C, D), float32, differentiable to the prompts."""
        ...

    def plain_class_vectors(self, names: Sequence[str]) -> Tensor:
        """Unit vectors (C, D), float32, without any prompt: what the teacher knew before."""
        ...

    def plain_image(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D), float32, without any prompt."""
        ...

    def prompted_image(self, x_N3HW: Tensor, plain_ND: Tensor) -> Tensor:
        """As ``encode_image``, where the same images' ``plain_image`` is known already.

        ``x_N3HW`` is not looked at where the teacher learns after its towers.
        """
        ...

    def named_parameters(self) -> Iterator[tuple[str, Any]]:
        """What is learned."""
        ...


@runtime_checkable
class Generator(Protocol):
    """A frozen differentiable map from a latent to an image.

    Attributes:
        name: as registered.
        provenance: of its weights.
        lr_factor: how large a step its latents need, as a multiple of what plain pixels need.
        tv_factor: how much of the total variation's weight it needs, in [0, 1]; less where it cannot make noise anyway.
        stride: pixels a latent cell; sides of images are multiples of it.
    """

    name: str
    provenance: Sequence[Provenance]
    lr_factor: float
    tv_factor: float
    stride: int

    def init(self, seeds: Sequence[int], size: int) -> list[Tensor]:
        """One latent an image from one seed an image: tensors whose first dimension is N.

        ``size`` is rounded up to a multiple of ``stride``.
        """
        ...

    def decode(self, latents: Sequence[Tensor]) -> Tensor:
        """Latents -> images (N, 3, H, W) in [0, 1], differentiable."""
        ...

    def project_(self, latents: Sequence[Tensor]) -> None:
        """Clip the latents to their valid box, in place, without gradient."""
        ...

    def prior(self, latents: Sequence[Tensor]) -> Tensor:
        """How unlikely each latent is: loss_N >= 0 (zeros where the generator has no prior)."""
        ...

    def resize(self, latents: Sequence[Tensor], size: int) -> list[Tensor]:
        """The same images at another side in pixels, as latents: how a coarse image is gone on from at a finer size."""
        ...

    def codes(self, latents: Sequence[Tensor]) -> Tensor | None:
        """Codebook indices of each image, integers (N, h, w); None where the generator has no codebook."""
        ...


@runtime_checkable
class Sampler(Protocol):
    """A model that draws images from texts by itself: what inversion is compared with. Registered as a generator.

    Attributes:
        name: as registered.
        provenance: of its weights.
    """

    name: str
    provenance: Sequence[Provenance]

    def sample(self, texts: Sequence[str], seeds: Sequence[int], size: int) -> Tensor:
        """One image (N, 3, size, size) in [0, 1] for each text and seed; each from its own seed alone."""
        ...
