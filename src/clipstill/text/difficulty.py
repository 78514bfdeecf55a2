"""How well a teacher may tell classes apart by their names alone, without a photo.

An image is simulated in the space of the classes: as near to its own class's text as the teacher is likely to know that
class, plus noise as the teacher's vectors of common words vary. Whether the simulated image is nearest to its own class
then depends on which other classes there are, and how many.

How near, is a formula of few terms, fitted on Caltech-101's 100 classes with ``embedded-m`` and checked on PACS
(``benchmarks/difficulty.py``). It is an estimate, and is called one wherever it is shown.

Shapes: C classes, W words, K ImageNet classes, S simulated images a class, D teacher dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipstill.core.names import spoken
from clipstill.core.seeds import generator_for
from clipstill.text.linter import Known, Linter

if TYPE_CHECKING:
    from torch import Tensor

_SIMULATED = 256
# Terms of how near an image lies to its own class, as the logarithm of a multiple of the noise.
_IMAGENET_TERMS = {"one": -0.92, "covered": 0.64, "kinship": 0.50, "gloss": 1.04, "known": 1.22, "strange": -0.40}
_TEXT_TERMS = {"one": 0.97, "gloss": 0.70, "strange": -0.53, "common": -1.65}
_MOST_TERMS = 3.0
# What a class that WordNet does not know is taken for: neither near nor far.
_NO_KINSHIP = 0.5
# For people, beside each estimate; `python benchmarks/difficulty.py --photos caltech=DIR --tasks 20` with embedded-m.
ERROR = "an estimate for photos, off by 5 points on average where it was measured; drawings are harder"


@dataclass(frozen=True)
class Difficulty:
    """Shares of photos that the teacher is expected to name right.

    Attributes:
        top1: mean over the classes, in [0, 1].
        per_class: one a class.
    """

    top1: float
    per_class: tuple[float, ...]


def estimate(linter: Linter, imagenet_vectors_KD: Tensor | None) -> Difficulty:
    """Estimate the teacher's top-1 on photos of the classes, given their names.

    Args:
        linter: of the task, in the teacher's space.
        imagenet_vectors_KD: of the names of ImageNet's classes, where the image tower knows these and little else; None
            for a teacher that learned from captions.
    """
    known, nouns, vectors_CD = linter.known, linter.nouns, linter.vectors_CD
    places = range(len(linter.meanings))
    terms = {
        "one": [1.0 for _ in places],
        "gloss": gloss_margins(linter),
        "strange": [linter.strangeness(place) for place in places],
    }
    if imagenet_vectors_KD is None:
        weights = _TEXT_TERMS
        middle_D = vectors_CD.mean(0)
        terms["common"] = (vectors_CD @ middle_D / middle_D.norm()).tolist()
    else:
        weights = _IMAGENET_TERMS
        words_C = (vectors_CD @ known.vectors_WD.T).amax(1)
        nearest_C = (vectors_CD @ imagenet_vectors_KD.float().T).amax(1).maximum(words_C)
        senses = [of_name[0].sense.number if of_name else None for of_name in linter.meanings]
        terms |= {
            "covered": [float(sense is not None and nouns.imagenet_distance(sense) == 0) for sense in senses],
            "kinship": [_NO_KINSHIP if sense is None else nouns.imagenet_kinship(sense) for sense in senses],
            "known": known.share(nearest_C).tolist(),
        }
    logarithm = [sum(weights[name] * terms[name][place] for name in weights) for place in places]
    per_class = simulated_accuracy(vectors_CD, known, logarithm)
    return Difficulty(sum(per_class) / len(per_class), tuple(per_class))


def gloss_margins(linter: Linter) -> list[float]:
    """How much nearer what WordNet says of a class lies to its name than to any other, as a difference of shares.

    A text about the thing that does not name it is the nearest to a photo that words come.
    """
    texts = [
        of_name[0].sense.gloss if of_name else description or spoken(name)
        for of_name, name, description in zip(linter.meanings, linter.task.names, linter.task.descriptions, strict=True)
    ]
    share_CC = linter.known.share(linter.encode(texts) @ linter.vectors_CD.T)
    own_C = share_CC.diagonal().clone()
    share_CC.fill_diagonal_(-1.0)
    return [float(value) for value in own_C - share_CC.amax(1)]


def simulated_accuracy(vectors_CD: Tensor, known: Known, logarithm: Sequence[float]) -> list[float]:
    """How often a simulated image of each class is nearest to its own.

    Args:
        vectors_CD: unit vectors of the classes.
        known: whose spread is the noise's.
        logarithm: of how far an image of each class is drawn to its class, in standard deviations of the noise.
    """
    import torch

    words_WD = known.vectors_WD - known.vectors_WD.mean(0)
    draws_SW = torch.randn(_SIMULATED, len(words_WD), generator=generator_for("difficulty"))
    noise_SC = draws_SW @ (words_WD @ vectors_CD.T)
    noise_SC = noise_SC / noise_SC.std().clamp_min(1e-6)
    share_CC = known.share(vectors_CD @ vectors_CD.T)
    found = []
    for place, value in enumerate(logarithm):
        strength = float(torch.tensor(value).clamp(-_MOST_TERMS, _MOST_TERMS).exp())
        answers_S = (strength * share_CC[place] + noise_SC).argmax(1)
        found.append(float((answers_S == place).float().mean()))
    return found
