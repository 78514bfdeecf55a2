"""Several teachers at once: ``embedded-m+openclip:ViT-B-32/openai``.

The vectors of all teachers are concatenated, so that every cosine is the mean of theirs: inversion, class vectors and
soft labels use all of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from clipstill.core.errors import ConfigError
from clipstill.core.files import sha256_json
from clipstill.core.progress import warn
from clipstill.core.protocols import BatchNormTeacher, Provenance, Teacher


def join(vectors: Sequence[Tensor], shares: Sequence[float]) -> Tensor:
    """Concatenate unit vectors to one unit vector, whose cosines are the weighted means of the parts' cosines.

    Args:
        vectors: Unit vectors (N, D1), (N, D2) and so on.
        shares: Weight of each part; they sum to 1.

    Returns:
        Unit vectors (N, D1 + D2 + ...).
    """
    parts = [math.sqrt(share) * vector for vector, share in zip(vectors, shares, strict=True)]
    return torch.cat(parts, dim=-1)


class Ensemble:
    """Teachers with equal shares, on one device.

    Class names are put into the sentences that suit the first one, and the largest preprocessing size counts.
    """

    def __init__(self, teachers: Sequence[Teacher]) -> None:
        self._teachers = list(teachers)
        self._shares = [1 / len(teachers)] * len(teachers)
        self.name = "+".join(teacher.name for teacher in teachers)
        self.image_size = max(teacher.image_size for teacher in teachers)
        self.dim = sum(teacher.dim for teacher in teachers)
        self.logit_scale = sum(teacher.logit_scale for teacher in teachers) / len(teachers)
        self.preprocess = max((teacher.preprocess for teacher in teachers), key=lambda preprocess: preprocess.size)
        modes = {teacher.name: teacher.preprocess.resize_mode for teacher in teachers}
        if len(set(modes.values())) > 1:
            told = ", ".join(f"{name} by '{mode}'" for name, mode in modes.items())
            warn(f"the teachers fit photos otherwise ({told}); all see them by '{self.preprocess.resize_mode}'.")
        self.templates = teachers[0].templates
        self.multilingual = all(teacher.multilingual for teacher in teachers)
        self.image_parameters = sum(teacher.image_parameters for teacher in teachers)
        parts = [part for teacher in teachers for part in teacher.provenance]
        self.provenance: Sequence[Provenance] = list(dict.fromkeys(parts))
        self.weights_sha256 = sha256_json([teacher.weights_sha256 for teacher in teachers])

    def encode_image(self, x_N3HW: Tensor) -> Tensor:
        """Images in [0, 1] -> unit vectors (N, D), differentiable to the pixels; each teacher normalises by itself."""
        return join([teacher.encode_image(x_N3HW) for teacher in self._teachers], self._shares)

    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors (M, D), float32."""
        return join([teacher.encode_text(texts) for teacher in self._teachers], self._shares)

    def embed_tokens(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Not available, since each text tower has tokens of its own."""
        raise ConfigError(
            f"the teachers of {self.name} have no common tokens, so that prompts cannot be learned. Name one teacher, "
            "or choose a prompt strategy of plain words: styles, mix or plain."
        )

    def encode_tokens(self, embeddings_MLE: Tensor, position: Tensor) -> Tensor:
        """Not available, as ``embed_tokens``."""
        raise ConfigError(f"the teachers of {self.name} have no common tokens. Name one teacher.")


class BatchNormEnsemble(Ensemble):
    """Teachers of which some carry BatchNorm statistics."""

    @property
    def statistics_networks(self) -> tuple[str, ...]:
        """Packaged networks of all teachers whose statistics these are."""
        carriers = [teacher for teacher in self._teachers if isinstance(teacher, BatchNormTeacher)]
        return tuple(dict.fromkeys(name for teacher in carriers for name in teacher.statistics_networks))

    def encode_image_with_statistics(self, x_N3HW: Tensor) -> tuple[Tensor, Tensor]:
        """Unit vectors (N, D), and the mean distance from stored statistics over the teachers that have some."""
        vectors, gaps = [], []
        for teacher in self._teachers:
            if isinstance(teacher, BatchNormTeacher):
                vector_ND, gap = teacher.encode_image_with_statistics(x_N3HW)
                gaps.append(gap)
            else:
                vector_ND = teacher.encode_image(x_N3HW)
            vectors.append(vector_ND)
        return join(vectors, self._shares), torch.stack(gaps).mean()


def ensemble(teachers: Sequence[Teacher]) -> Ensemble:
    """Combine teachers, with statistics where one of them has some."""
    kind = BatchNormEnsemble if any(isinstance(teacher, BatchNormTeacher) for teacher in teachers) else Ensemble
    return kind(teachers)
