"""Class vectors from example images, together with the texts of the classes.

Images and texts of a dual encoder lie apart: images of different classes are often nearer to each other than to their
texts. Where only some classes have examples, prototypes and texts are brought together by the mean difference between
the two; without that, the classes with examples would get all images.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize


@dataclass(frozen=True)
class ExampleVectors:
    """Example images of the classes, as vectors."""

    prototypes_CD: Tensor  # Unit vectors; rows of zeros where a class has no example.
    count_C: Tensor  # Number of examples of each class.
    shift_D: Tensor  # Mean difference from the texts to the prototypes.

    @property
    def has_C(self) -> Tensor:
        """Whether each class has examples."""
        return self.count_C > 0


def prototypes(feat_ND: Tensor, class_ids: Sequence[int], text_CD: Tensor) -> ExampleVectors:
    """The mean of each class's example vectors, normalised again; their order does not matter.

    Args:
        feat_ND: Unit vectors of the examples, at least one.
        class_ids: Class of each example.
        text_CD: Unit vectors of the classes' texts.

    Source: Wei et al., ICLR 2025, image-based customisation; the shift is ours.
    """
    class_N = torch.tensor(class_ids, device=feat_ND.device)
    count_C = torch.bincount(class_N, minlength=len(text_CD))
    # In double precision, so that another order of the examples does not show in the sum.
    sums_CD = torch.zeros(text_CD.shape, dtype=torch.float64, device=feat_ND.device)
    sums_CD.index_add_(0, class_N, feat_ND.double())
    prototypes_CD = normalize(sums_CD, dim=-1).float()
    has_C = count_C > 0
    shift_D = (prototypes_CD[has_C] - text_CD[has_C]).mean(0)
    return ExampleVectors(prototypes_CD, count_C, shift_D)


def class_vectors_with_examples(text_CD: Tensor, examples: ExampleVectors, text_count: float) -> Tensor:
    """One vector per class: examples and text together where there are examples, else the text alone.

    Where every class has examples, these are unit vectors on the images' side. Where some have none, the classes with
    examples are their texts, moved by the difference of their own prototype from the mean shift. These vectors are not
    normalised: normalised, a class with examples lost 2 to 4 points in a hundred to its neighbours.

    Args:
        text_CD: Unit vectors of the classes' texts.
        text_count: Number of examples that the text counts for, at least 0. With 0, the prototype alone counts, as
            published.

    Returns:
        Class vectors (C, D), the longest of length 1.
    """
    # At least 1e-6: the share is 0 where there are no examples and the text does not count either.
    share_C1 = (examples.count_C / (examples.count_C + text_count).clamp_min(1e-6))[:, None].float()
    if bool(examples.has_C.all()):
        moved_CD = normalize(text_CD + examples.shift_D, dim=-1)
        return normalize(share_C1 * examples.prototypes_CD + (1 - share_C1) * moved_CD, dim=-1)
    beyond_CD = examples.prototypes_CD - examples.shift_D - text_CD
    vectors_CD = text_CD + share_C1 * beyond_CD  # A share of 0 where there is no example.
    scaled_CD: Tensor = vectors_CD / torch.linalg.vector_norm(vectors_CD, dim=-1).max()
    return scaled_CD


def right_without_themselves(feat_ND: Tensor, class_ids: Sequence[int], text_CD: Tensor, text_count: float) -> int:
    """How many examples the teacher names right by the class vectors of the others.

    One example of every class is left out at a time: left out alone, an example of two is at a disadvantage to the
    classes that keep theirs.
    """
    right, fold_N = 0, [list(class_ids[:place]).count(label) for place, label in enumerate(class_ids)]
    for fold in set(fold_N):
        out = [place for place, own in enumerate(fold_N) if own == fold]
        rest = [place for place, own in enumerate(fold_N) if own != fold]
        vectors_CD = text_CD
        if rest:
            found = prototypes(feat_ND[rest], [class_ids[place] for place in rest], text_CD)
            vectors_CD = class_vectors_with_examples(text_CD, found, text_count)
        answers = (feat_ND[out] @ vectors_CD.T).argmax(1).tolist()
        right += sum(answer == class_ids[place] for place, answer in zip(out, answers, strict=True))
    return right


def text_trust(feat_ND: Tensor, class_ids: Sequence[int], text_CD: Tensor) -> float:
    """How far the texts can be trusted, in [0, 1]: 1 unless they surely name less than half of the examples right.

    Names that the teacher cannot read would draw the prototypes of one or two examples to places that mean nothing.
    """
    class_N = torch.tensor(class_ids, device=feat_ND.device)
    right, chance = int(((feat_ND @ text_CD.T).argmax(1) == class_N).sum()), 1 / len(text_CD)
    # About one standard error above the share that was right: a few wrong answers say little.
    likely = (right + math.sqrt(right) + 1) / len(class_ids)
    return min(1.0, max(0.0, 2 * (likely - chance) / (1 - chance)))


def whitened(vectors_CD: Tensor, feat_ND: Tensor, class_ids: Sequence[int], strength: float) -> Tensor:
    """Class vectors with less weight on the directions in which examples of one class differ from each other.

    The vectors of a Gaussian classifier: ``(I + strength * covariance / e)^-1 v``, where ``covariance`` is that of the
    examples around their class's mean and ``e`` its mean eigenvalue, each weighted by itself. Every class needs
    examples; one a class tells nothing of how they differ, and the vectors stay the same.

    Args:
        vectors_CD: Unit vectors of texts and examples.
        feat_ND: Unit vectors of the examples.
        class_ids: Class of each example.
        strength: 0 changes nothing. It takes the place of the shrinkage of the covariance, which would depend on D.

    Returns:
        Unit vectors (C, D).

    Source: Wang et al., "A Hard-to-Beat Baseline for Training-free CLIP-based Adaptation", ICLR 2024, without its bias,
    which class vectors have no place for; the scale of the shrinkage is ours.
    """
    class_N = torch.tensor(class_ids, device=feat_ND.device)
    sums_CD = torch.zeros_like(vectors_CD).index_add_(0, class_N, feat_ND)
    count_C = torch.bincount(class_N, minlength=len(vectors_CD))
    beyond_ND = feat_ND - (sums_CD / count_C[:, None].clamp_min(1))[class_N]
    # By the small matrix of products (Woodbury's identity): D may be 4,096, and there are few examples.
    products_NN = beyond_ND @ beyond_ND.T
    trace = products_NN.trace()
    if strength == 0 or float(trace) < 1e-6:
        return vectors_CD
    factor = strength * trace / products_NN.square().sum()
    inner_NN = torch.eye(len(feat_ND), device=feat_ND.device) + factor * products_NN
    along_NC = torch.linalg.solve(inner_NN, beyond_ND @ vectors_CD.T)
    return normalize(vectors_CD - factor * (along_NC.T @ beyond_ND), dim=-1)


def targets_with_examples(
    target_ND: Tensor, class_ids: Sequence[int], *, text_CD: Tensor, examples: ExampleVectors, style_share: float
) -> Tensor:
    """Vector that each synthetic image is drawn towards: the prototype of its class, or its text without examples.

    Args:
        target_ND: Unit vectors of the images' own texts.
        class_ids: Class of each image.
        text_CD: Unit vectors of the classes' texts.
        style_share: How far the prototype is moved by the difference of the image's text from its class, in [0, 1]. 0
            is the prototype for every image of a class, as published.

    Returns:
        Unit vectors (N, D).
    """
    class_N = torch.tensor(class_ids, device=target_ND.device)
    beyond_ND = target_ND - text_CD[class_N]
    from_examples_ND = normalize(examples.prototypes_CD[class_N] + style_share * beyond_ND, dim=-1)
    from_text_ND = normalize(target_ND + examples.shift_D, dim=-1)
    return torch.where(examples.has_C[class_N][:, None], from_examples_ND, from_text_ND)
