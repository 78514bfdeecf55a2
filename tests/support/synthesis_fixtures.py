"""A teacher of a few hundred numbers, for what does not depend on what a teacher knows."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clipstill.core.batchnorm import statistics_gaps
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import generator_for


class TinyTeacher:
    """Two convolutions with BatchNorm, random and frozen; texts are not asked of it."""

    name = "tiny"
    image_size = 32
    dim = 6
    logit_scale = 10.0
    preprocess = Preprocess(32, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    templates = "name"
    multilingual = False
    statistics_networks: tuple[str, ...] = ()
    provenance: Sequence[Provenance] = ()
    weights_sha256 = ""

    def __init__(self) -> None:
        self.network = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.Conv2d(8, 6, 5, stride=2), nn.GELU()
        )
        draw = generator_for("tiny teacher")
        with torch.no_grad():
            for tensor in self.network.parameters():
                tensor.copy_(torch.randn(tensor.shape, generator=draw) * 0.3)
        self.network.eval().requires_grad_(False)
        self.image_parameters = sum(tensor.numel() for tensor in self.network.parameters())

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        return F.normalize(self.network(2 * x_N3HW - 1).mean((2, 3)), dim=-1)

    def encode_image_with_statistics(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        with statistics_gaps(self.network) as gaps:
            feat_ND = self.encode_image(x_N3HW)
        return feat_ND, torch.stack(gaps).mean()

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        raise AssertionError("synthesis asks for no texts")

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        raise AssertionError("synthesis asks for no texts")

    def encode_tokens(self, embeddings_MLE: Tensor, position: Tensor) -> Tensor:
        raise AssertionError("synthesis asks for no texts")


def units(count: int, name: str) -> Tensor:
    return F.normalize(torch.randn(count, TinyTeacher.dim, generator=generator_for(name)), dim=-1)
