"""Time and memory of a run on this device: a few real steps are timed, and multiplied by counts from the settings.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipstill.assembly.adaptation import MOST_PHOTOS
from clipstill.planning.timings import Timings
from clipstill.stages import (
    adaptation,
    bundle,
    calibration,
    class_vectors,
    evaluation,
    images,
    near_misses,
    prompts,
    report,
    student,
    teacher_prompts,
    zero_shot,
)

if TYPE_CHECKING:
    from clipstill.workflow.settings import Settings

# Time of a step that trains all weights, relative to one without meta distillation (docs/distillation.md).
_META_PASSES = {"none": 1.0, "first_order": 1.0, "exact": 3.3, "reptile": 1.2}
# Seconds on one core of a 2.8 GHz Xeon, where they hardly depend on the settings.
_START_S, _HEAD_STEP_S, _BUNDLE_S, _REPORT_S = 8.0, 0.0035, 5.0, 1.0
# Cost of a forward and backward pass, as a multiple of the forward pass.
_WITH_GRADIENT = 3
# Texts that the teacher encodes to find near misses.
_NEAR_MISS_TEXTS = 300


@dataclass(frozen=True)
class Cost:
    """Time and memory of a run."""

    seconds: float
    stages: dict[str, float]  # Seconds of each stage, and of the start.
    images: int  # Synthetic images of the classes.
    image_steps: int  # Synthesis steps, of near misses too.
    memory_bytes: int  # Most memory of the process, or of the GPU.


def cost_of(
    settings: Settings,
    timings: Timings,
    *,
    classes: int,
    templates: int,
    photos: int = 0,
    examples: int = 0,
    unlabelled: int = 0,
) -> Cost:
    """Count the work that the settings ask for, and multiply by the timings.

    Args:
        timings: Seconds and bytes on this device; those of an image grow with its pixels.
        templates: Sentences per class whose mean is its class vector.
        photos: Photos to measure on.
        examples: Labelled photos to learn from.
        unlabelled: Photos without labels to learn from.
    """
    from clipstill.assembly.calibration import MOST_PICTURES, VIEWS
    from clipstill.assembly.foresight import MOST_LOOKED_AT

    made = classes * settings.prompts.images_per_class
    near = near_misses.wanted_number(settings, classes) * settings.refusal.images
    learned = made + unlabelled
    if examples:
        share = settings.examples.teach_share
        learned += max(examples, round(learned * share / (1 - share)))
    pixels = (settings.synthesis.image_size / timings.image_size) ** 2
    image_s = pixels * (timings.image + settings.synthesis.steps * timings.image_step)
    calibration_views = (1 + VIEWS) * (min(made + unlabelled, MOST_PICTURES) + near)
    stages = {
        "start": _START_S,
        zero_shot.NAME: _BUNDLE_S if zero_shot.is_wanted(settings) else 0.0,
        teacher_prompts.NAME: examples * _passes_per_example(settings) * timings.photo,
        class_vectors.NAME: classes * templates * timings.text + examples * timings.photo,
        **_adaptation_seconds(settings, timings, unlabelled),
        prompts.NAME: made * timings.text + _learned_prompts(settings, classes) * timings.prompt_step,
        images.NAME: made * image_s,
        student.NAME: settings.distillation.minutes * 60 or _training_seconds(settings, timings, learned),
        near_misses.NAME: near * image_s + (_NEAR_MISS_TEXTS * timings.text if near else 0),
        calibration.NAME: calibration_views * timings.view + min(examples + unlabelled, MOST_LOOKED_AT) * timings.photo,
        evaluation.NAME: photos * timings.photo,
        bundle.NAME: _BUNDLE_S,
        report.NAME: _REPORT_S,
    }
    stages = {stage: round(seconds, 2) for stage, seconds in stages.items() if seconds > 0}
    kept = pixels * timings.image_bytes * min(settings.synthesis.group_size, max(1, made))
    if settings.distillation.freeze != "backbone":
        kept = max(kept, timings.training_bytes * settings.distillation.batch)
    stored = made * 3 * settings.synthesis.image_size**2 + _photo_bytes(settings, examples + unlabelled)
    stored += int(_cached_views(settings, learned) * timings.feature_bytes)
    return Cost(
        seconds=round(sum(stages.values()), 1),
        stages=stages,
        images=made,
        image_steps=(made + near) * settings.synthesis.steps,
        memory_bytes=timings.base_bytes + int(kept) + stored,
    )


def _adaptation_seconds(settings: Settings, timings: Timings, unlabelled: int) -> dict[str, float]:
    """Seconds of the stages that adapt class vectors; the vectors themselves take one or two."""
    if not unlabelled or not settings.unlabelled.adapt or settings.has_prompts:
        return {}
    return {
        adaptation.FEATURES_NAME: min(unlabelled, MOST_PHOTOS) * timings.photo,
        adaptation.NAME: _NEAR_MISS_TEXTS * timings.text,
    }


def _photo_bytes(settings: Settings, photos: int) -> int:
    """Decoded photos that stay in memory: at about twice the student's size, 3:2, in four bytes a pixel."""
    return min(photos * 24 * settings.student.image_size**2, settings.reading.cache_mb * 1_000_000)


def _cached_views(settings: Settings, images_and_photos: int) -> int:
    """Views whose features are kept to train a head on."""
    section = settings.distillation
    return images_and_photos * section.views if section.freeze == "backbone" or section.head_steps else 0


def _passes_per_example(settings: Settings) -> int:
    """Passes of the teacher over each example while it learns prompts; 0 where it does not."""
    section = settings.prompt_teacher
    return _WITH_GRADIENT * section.epochs if section.method != "none" and section.weights is None else 0


def _learned_prompts(settings: Settings, classes: int) -> int:
    """Sets of soft tokens, times the steps that each takes to learn."""
    section = settings.prompts
    per_class = section.images_per_class
    if section.strategy == "contrastive":
        per_class = min(section.pseudo_styles, per_class)
    return classes * per_class * section.steps


def _training_seconds(settings: Settings, timings: Timings, images_and_photos: int) -> float:
    section = settings.distillation
    steps = section.epochs * math.ceil(images_and_photos / section.batch) or section.steps
    head_steps, all_steps = (steps, 0) if section.freeze == "backbone" else (section.head_steps, steps)
    return (
        _cached_views(settings, images_and_photos) * timings.view
        + head_steps * _HEAD_STEP_S
        + all_steps * section.batch * timings.training_view * _META_PASSES[section.meta]
    )
