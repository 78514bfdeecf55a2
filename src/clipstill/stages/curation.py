"""How diverse the images of each class are, and further images of classes whose images look alike.

Shapes: N images, D teacher dimensions.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import TYPE_CHECKING, Any

from clipstill.core.progress import say
from clipstill.stages import class_vectors, prompts
from clipstill.workflow.run import Run

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.distributed.work import SynthesisWork
    from clipstill.surrogate.curation import Curation
    from clipstill.surrogate.dataset import SurrogateSet


@dataclass(frozen=True)
class ExtendedWork:
    """The images of a cohort with the further images of classes whose first ones look alike.

    Attributes:
        work: All of them.
        strategy_styles: Number of styles that the prompt strategy has.
        style_names: Name of each style id, the further styles last.
        before: Class id -> effective number of images without the further ones, for the classes that get some.
    """

    work: SynthesisWork
    strategy_styles: int
    style_names: tuple[str, ...]
    before: dict[int, float]


def extended(run: Run, work: SynthesisWork, images: SurrogateSet, beside: SurrogateSet | None) -> ExtendedWork:
    """Ask for further images of the classes that are far less diverse than the others.

    It follows from the images alone, so that whoever goes on with the same images asks for the same.

    Args:
        run: The run.
        work: Images that were asked for so far.
        images: Those images, with features.
        beside: Images of other classes that were made before, with features.
    """
    from clipstill.surrogate.diversity import look_alikes
    from clipstill.text.further import further_prompts

    section, names = run.settings.curation, run.task.names
    style_names = prompts.read_style_names(run)
    unchanged = ExtendedWork(work, len(style_names), style_names, {})
    if section.least_diversity == 0:
        return unchanged
    drawn = _drawn(work, names, beside)
    numbers = _effective_numbers(images, drawn, beside)
    classes = list(numbers)
    below = [classes[place] for place in look_alikes(list(numbers.values()), section.least_diversity)]
    alike = [class_id for class_id in below if class_id in drawn]
    if not alike:
        return unchanged
    further = further_prompts(prompts.prompt_request(run), style_names, alike, section.top_up)
    listed = ", ".join(f"{names[class_id]} ({numbers[class_id]:.1f})" for class_id in alike[:8])
    more = f" and {len(alike) - 8} more" if len(alike) > 8 else ""
    what = f"{section.top_up} further images each" if further.prompts else "no style is left for further images"
    say(
        f"surrogate: too much alike beside the median class ({median(numbers.values()):.1f} different images): "
        f"{listed}{more}; {what}"
    )
    if not further.prompts:
        return unchanged
    target_ND = class_vectors.read_class_vectors(run).targets(
        further.targets_ND, [prompt.class_id for prompt in further.prompts]
    )
    return ExtendedWork(
        work.with_further(further.prompts, target_ND.to(work.targets_ND)),
        len(style_names),
        further.style_names,
        {class_id: numbers[class_id] for class_id in alike},
    )


def curation_facts(
    images: SurrogateSet, asked: ExtendedWork, names: Sequence[str], beside: SurrogateSet | None = None
) -> dict[str, Any]:
    """What came out, class by class, as JSON values.

    Args:
        images: The finished images, with features.
        asked: The images that were asked for.
        names: Class names of the run.
        beside: Images of other classes that were made before, with features.

    Returns:
        ``styles``: one name a style id; ``median_effective_number``; ``classes``: ``name``, ``made``, ``not_made``,
        ``topped_up`` (how many of them were made as further images), ``mean_score`` (None without an image),
        ``effective_number``, and ``effective_number_before`` the further images (None where there are none).
    """
    drawn = _drawn(asked.work, names, beside)
    numbers = _effective_numbers(images, drawn, beside)
    wanted = Counter(prompt.class_id for prompt in asked.work.prompts)
    found = Counter(record.class_id for record in images.records)
    further = Counter(record.class_id for record in images.records if record.style_id >= asked.strategy_styles)
    scores: dict[int, list[float]] = defaultdict(list)
    for record in images.records:
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
    """Ids of the classes that a cohort draws: all of them, where no other cohort has images."""
    return list(range(len(names))) if beside is None else sorted({prompt.class_id for prompt in work.prompts})


def _effective_numbers(images: SurrogateSet, drawn: Sequence[int], beside: SurrogateSet | None) -> dict[int, float]:
    """Class id -> effective number of images, also of the classes beside."""
    import torch

    from clipstill.surrogate.diversity import effective_numbers

    sets = [images] if beside is None else [images, beside.keep(~torch.isin(beside.class_id_N, images.class_id_N))]
    features_ND, class_id_N = (
        torch.cat([each.features_ND for each in sets]),
        torch.cat([each.class_id_N for each in sets]),
    )
    classes = sorted({*drawn, *class_id_N.tolist()})
    found = effective_numbers(features_ND, class_id_N, max(classes) + 1)
    return {class_id: found[class_id] for class_id in classes}


def curation_line(facts: Mapping[str, Any]) -> str:
    """The facts for people, in one line."""
    classes = sorted(facts["classes"], key=lambda each: float(each["effective_number"]))
    least, most = classes[0], classes[-1]
    return (
        f"{sum(each['made'] for each in classes)} images; as many different ones a class as "
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
