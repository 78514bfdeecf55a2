"""How diverse the images of each class are, and which of them are trained on, as JSON values.

Shapes: N images, D teacher dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.surrogate.curation import Curation
    from clipstill.surrogate.dataset import SurrogateSet
    from clipstill.text.prompts import Prompt


def curation_facts(
    images: SurrogateSet, asked: Sequence[Prompt], names: Sequence[str], beside: SurrogateSet | None
) -> dict[str, Any]:
    """What came out, class by class.

    Args:
        images: The finished images, with features.
        asked: The prompts that were to be made.
        names: Class names of the run.
        beside: Images of other classes made before, with features: one or two classes alone have no centre of their own
            to measure diversity from.

    Returns:
        ``median_effective_number``, and ``classes``: ``name``, ``made``, ``not_made``, ``mean_score`` (None without an
        image) and ``effective_number``.
    """
    wanted, found = Counter(prompt.class_id for prompt in asked), Counter(record.class_id for record in images.records)
    numbers = _effective_numbers(images, range(len(names)) if beside is None else sorted(wanted), beside)
    scores: dict[int, list[float]] = defaultdict(list)
    for record in images.records:
        scores[record.class_id].append(record.score)
    return {
        "median_effective_number": round(median(numbers.values()), 3),
        "classes": [
            {
                "name": name,
                "made": found[class_id],
                "not_made": wanted[class_id] - found[class_id],
                "mean_score": round(fmean(scores[class_id]), 4) if class_id in scores else None,
                "effective_number": round(numbers[class_id], 3),
            }
            for class_id, name in enumerate(names)
            if beside is None or class_id in wanted
        ],
    }


def _effective_numbers(images: SurrogateSet, drawn: Sequence[int], beside: SurrogateSet | None) -> dict[int, float]:
    """Class id -> effective number of images, of the classes that were drawn."""
    import torch

    from clipstill.surrogate.diversity import effective_numbers

    sets = [images] if beside is None else [images, beside.keep(~torch.isin(beside.class_id_N, images.class_id_N))]
    features_ND = torch.cat([each.features_ND for each in sets])
    class_id_N = torch.cat([each.class_id_N for each in sets])
    found = effective_numbers(features_ND, class_id_N)
    return {class_id: found.get(class_id, 0.0) for class_id in drawn}


def curation_line(facts: Mapping[str, Any]) -> str:
    """The facts in one line for people."""
    classes = sorted(facts["classes"], key=lambda each: float(each["effective_number"]))
    least, most = classes[0], classes[-1]
    return (
        f"{sum(each['made'] for each in classes)} images; diversity of a class (Vendi score) "
        f"{least['effective_number']:.1f} ({least['name']}) to {most['effective_number']:.1f} ({most['name']}), "
        f"median {facts['median_effective_number']:.1f}"
    )


def kept_facts(images: SurrogateSet, curation: Curation, classes: int) -> list[dict[str, int]]:
    """How many images of each class are trained on (``kept``) and left out, and why."""

    def count(mask_N: Tensor) -> list[int]:
        return [int(number) for number in images.class_id_N[mask_N].bincount(minlength=classes)]

    parts = zip(count(curation.keep_N), count(curation.low_score_N), count(curation.duplicate_N), strict=True)
    return [
        {"kept": kept, "low_score": low, "duplicates": same, "duplicate_pairs": curation.pairs.get(class_id, 0)}
        for class_id, (kept, low, same) in enumerate(parts)
    ]
