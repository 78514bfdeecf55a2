"""Estimates, without a photo, how well a teacher tells classes apart.

Image vectors are simulated: each lies near the text of its class, the nearer the better the teacher is likely to know
the class, plus noise with the spread of common words. An image is right if it is nearest to its own class. How near it
lies is a formula that was fitted on the 100 classes of Caltech-101 with ``embedded-m`` and checked on PACS
(``benchmarks/foresight.py``). ``core.foresight`` makes an interval of it.

Shapes: C classes, W words, K ImageNet classes, S simulated images per class, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from clipstill.core.names import spoken
from clipstill.core.seeds import generator_for
from clipstill.text.linter import Known, Linter

if TYPE_CHECKING:
    from torch import Tensor

_SIMULATED = 256
# Weights of the terms, whose sum is the logarithm of an image's pull to its class, in standard deviations of the noise.
_TERMS = {"one": -0.92, "covered": 0.64, "kinship": 0.50, "gloss": 1.04, "known": 1.22, "strange": -0.40}
_MOST_TERMS = 3.0
_NO_KINSHIP = 0.5  # Kinship of a class that is not in WordNet.
# Mean kinship of the classes, and share of them that ImageNet has pictures of, from which on a task is familiar. All
# but one of 40 tasks of Caltech-101's classes have as much, and none of flowers or of fabrics.
_FAMILIAR_KINSHIP, _FAMILIAR_COVERED = 0.7, 0.2


def is_familiar(linter: Linter) -> bool:
    """Whether the classes are such as a teacher knows that learned from ImageNet; beyond, the estimate misleads."""
    covered_C, kinship_C = _imagenet_terms(linter)
    count = len(kinship_C)
    return sum(kinship_C) >= _FAMILIAR_KINSHIP * count and sum(covered_C) >= _FAMILIAR_COVERED * count


def _imagenet_terms(linter: Linter) -> tuple[list[float], list[float]]:
    """Whether each class is one of ImageNet or the kind of one, and how near the nearest one is in WordNet."""
    nouns, senses = linter.nouns, [meanings[0].sense.number if meanings else None for meanings in linter.meanings]
    covered = [float(sense is not None and nouns.covers_imagenet(sense)) for sense in senses]
    return covered, [_NO_KINSHIP if sense is None else nouns.imagenet_kinship(sense) for sense in senses]


def estimate(linter: Linter, imagenet_vectors_KD: Tensor) -> list[float]:
    """Estimate the teacher's accuracy on photos of each class, in [0, 1], given the names.

    Args:
        linter: Linter of the task in the teacher's space.
        imagenet_vectors_KD: Vectors of the names of ImageNet's classes, which the teacher's image tower knows best.
    """
    known, vectors_CD = linter.known, linter.vectors_CD
    places = range(len(linter.meanings))
    words_C = (vectors_CD @ known.vectors_WD.T).amax(1)
    nearest_C = (vectors_CD @ imagenet_vectors_KD.float().T).amax(1).maximum(words_C)
    covered, kinship = _imagenet_terms(linter)
    terms = {
        "one": [1.0 for _ in places],
        "covered": covered,
        "kinship": kinship,
        "gloss": _gloss_margins(linter),
        "known": known.share(nearest_C).tolist(),
        "strange": [linter.strangeness(place) for place in places],
    }
    logarithms = [sum(_TERMS[name] * terms[name][place] for name in _TERMS) for place in places]
    return simulated_accuracy(vectors_CD, known, logarithms)


def _gloss_margins(linter: Linter) -> list[float]:
    """How much nearer the definition of a class lies to its name than to any other, as a difference of shares.

    The definition stands for a photo, since it describes the thing without its name.
    """
    classes = zip(linter.meanings, linter.read.names, linter.read.descriptions, strict=True)
    texts = [
        meanings[0].sense.gloss if meanings else description or spoken(name) for meanings, name, description in classes
    ]
    share_CC = linter.known.share(linter.encode(texts) @ linter.vectors_CD.T)
    own_C = share_CC.diagonal().clone()
    share_CC.fill_diagonal_(-1.0)
    return [float(value) for value in own_C - share_CC.amax(1)]


def simulated_accuracy(vectors_CD: Tensor, known: Known, logarithms: Sequence[float]) -> list[float]:
    """Share of each class's simulated images that are nearest to it, given the logarithms of their pulls."""
    import torch

    words_WD = known.vectors_WD - known.vectors_WD.mean(0)
    draws_SW = torch.randn(_SIMULATED, len(words_WD), generator=generator_for("difficulty"))
    noise_SC = draws_SW @ (words_WD @ vectors_CD.T)
    noise_SC = noise_SC / noise_SC.std().clamp_min(1e-6)
    share_CC = known.share(vectors_CD @ vectors_CD.T)
    found = []
    for place, value in enumerate(logarithms):
        strength = float(torch.tensor(value).clamp(-_MOST_TERMS, _MOST_TERMS).exp())
        answers_S = (strength * share_CC[place] + noise_SC).argmax(1)
        found.append(float((answers_S == place).float().mean()))
    return found
