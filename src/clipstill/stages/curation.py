"""How diverse the images of each class are, further images where they all look alike, and what is told of it.

Shapes: N images, D teacher dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from clipstill.core.progress import say
from clipstill.distributed.synthesis_work import SynthesisWork
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.surrogate.settings import CurationSettings

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.surrogate.curation import Curation
    from clipstill.text.prompts import PromptRequest


@dataclass(frozen=True)
class Extended:
    """A surrogate set's work with what look-alikes ask for; without any, the work as it was.

    Attributes:
        work: all of it.
        strategy_styles: how many styles the prompt strategy has.
        style_names: one a style id, the further styles after those of the strategy.
        before: class -> effective number of images of a class that gets further ones, as it was without them.
    """

    work: SynthesisWork
    strategy_styles: int
    style_names: tuple[str, ...]
    before: dict[int, float]


def extended(
    work: SynthesisWork,
    made: SurrogateSet,
    section: CurationSettings,
    request: PromptRequest,
    style_names: Sequence[str],
    towards_examples: Callable[[Tensor, Sequence[int]], Tensor],
    beside: SurrogateSet | None = None,
) -> Extended:
    """Ask for further images of the classes that are far less diverse than the others.

    It follows from the images alone, so that whoever goes on with the same images asks for the same.

    Args:
        work: whose images are made.
        made: those images, with features.
        section: how far below the others is far, and how many images are asked for.
        request: that the prompt strategy got.
        style_names: of the prompt strategy.
        towards_examples: moves targets of texts to where example images say.
        beside: images of other classes, with features, which were made before.
    """
    from clipstill.surrogate.diversity import look_alikes
    from clipstill.text.further import further_prompts

    without = Extended(work, len(style_names), tuple(style_names), {})
    if section.least_diversity == 0:
        return without
    names = request.task.names
    drawn = _drawn(work, names, beside)
    numbers = _numbers(made, drawn, beside)
    classes = list(numbers)
    below = [classes[place] for place in look_alikes(list(numbers.values()), section.least_diversity)]
    alike = [class_id for class_id in below if class_id in drawn]
    if not alike:
        return without
    further = further_prompts(request, style_names, alike, section.top_up)
    told = ", ".join(f"{names[class_id]} ({numbers[class_id]:.1f})" for class_id in alike[:8])
    more = f" and {len(alike) - 8} more" if len(alike) > 8 else ""
    say(
        f"surrogate: too much alike beside the median class ({median(numbers.values()):.1f} different images): "
        f"{told}{more}; "
        + (f"{section.top_up} further images each" if further.prompts else "no style is left for further images")
    )
    if not further.prompts:
        return without
    targets_ND = towards_examples(further.targets_ND, [prompt.class_id for prompt in further.prompts])
    return Extended(
        work.with_further(further.prompts, targets_ND.to(work.targets_ND)),
        len(style_names),
        further.style_names,
        {class_id: numbers[class_id] for class_id in alike},
    )


def curation_facts(
    made: SurrogateSet, asked: Extended, names: Sequence[str], beside: SurrogateSet | None = None
) -> dict[str, Any]:
    """What is to be known of a finished set, class by class, as plain values.

    Args:
        made: with features.
        asked: what was to be made.
        names: of the classes.
        beside: images of other classes, with features, which were made before.

    Returns:
        ``styles``: one name a style id; ``median_effective_number``; ``classes``: ``name``, ``made``, ``not_made``,
        ``topped_up`` (how many of them were made as further images), ``mean_score`` (None without an image),
        ``effective_number``, and ``effective_number_before`` the further images (None where there are none).
    """
    drawn = _drawn(asked.work, names, beside)
    numbers = _numbers(made, drawn, beside)
    wanted = Counter(prompt.class_id for prompt in asked.work.prompts)
    found = Counter(record.class_id for record in made.records)
    further = Counter(record.class_id for record in made.records if record.style_id >= asked.strategy_styles)
    scores: dict[int, list[float]] = defaultdict(list)
    for record in made.records:
        scores[record.class_id].append(record.score)
    return {
        "styles": list(asked.style_names),
        "median_effective_number": round(median(numbers.values()), 3),
        "classes": [
            {
                "name": name,
                "made": found[class_id],
                "not_made": wanted[class_id] - found[class_id],
                "topped_up": further[class_id],
                "mean_score": round(fmean(scores[class_id]), 4) if class_id in scores else None,
                "effective_number": round(numbers[class_id], 3),
                "effective_number_before": round(asked.before[class_id], 3) if class_id in asked.before else None,
            }
            for class_id, name in enumerate(names)
            if class_id in drawn
        ],
    }


def _drawn(work: SynthesisWork, names: Sequence[str], beside: SurrogateSet | None) -> list[int]:
    """The classes that a set has images of: all, where none have images beside it."""
    return list(range(len(names))) if beside is None else sorted({prompt.class_id for prompt in work.prompts})


def _numbers(made: SurrogateSet, drawn: Sequence[int], beside: SurrogateSet | None) -> dict[int, float]:
    """Class -> its effective number of images, for the classes of a set, and for those beside it."""
    import torch

    from clipstill.surrogate.diversity import effective_numbers

    sets = [made] if beside is None else [made, beside.keep(~torch.isin(beside.class_id_N, made.class_id_N))]
    features_ND, class_id_N = (
        torch.cat([each.features_ND for each in sets]),
        torch.cat([each.class_id_N for each in sets]),
    )
    classes = sorted({*drawn, *class_id_N.tolist()})
    found = effective_numbers(features_ND, class_id_N, max(classes) + 1)
    return {class_id: found[class_id] for class_id in classes}


def curation_line(facts: Mapping[str, Any]) -> str:
    """The same for people, in one line."""
    classes = sorted(facts["classes"], key=lambda each: float(each["effective_number"]))
    least, most = classes[0], classes[-1]
    return (
        f"{sum(each['made'] for each in classes)} images; as many different ones a class as "
        f"{least['effective_number']:.1f} ({least['name']}) to {most['effective_number']:.1f} ({most['name']}), "
        f"median {facts['median_effective_number']:.1f}"
    )


def kept_facts(made: SurrogateSet, curation: Curation, classes: int) -> list[dict[str, int]]:
    """What was left out, class by class: ``kept``, ``low_score``, ``duplicates``, ``duplicate_pairs``."""

    def count(mask_N: Tensor) -> list[int]:
        return [int(number) for number in made.class_id_N[mask_N].bincount(minlength=classes)]

    parts = zip(count(curation.keep_N), count(curation.low_score_N), count(curation.duplicate_N), strict=True)
    return [
        {"kept": kept, "low_score": low, "duplicates": same, "duplicate_pairs": curation.pairs.get(class_id, 0)}
        for class_id, (kept, low, same) in enumerate(parts)
    ]
