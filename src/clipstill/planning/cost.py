"""Time and memory of a run on this device: a few real steps are timed, and multiplied by counts from the settings.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from clipstill.assembly.adaptation import MOST_PHOTOS
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
)
from clipstill.text.templates import DICTIONARY_TEMPLATE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.text.task import Task
    from clipstill.workflow.models import Models
    from clipstill.workflow.settings import Settings

# Time of a step that trains all weights, relative to one without meta distillation (docs/distillation.md).
_META_PASSES = {"none": 1.0, "first_order": 1.0, "exact": 3.3, "reptile": 1.2}
# Seconds on one core of a 2.8 GHz Xeon, where they hardly depend on the settings.
_START_S, _HEAD_STEP_S, _BUNDLE_S, _REPORT_S = 8.0, 0.0035, 10.0, 1.0
# Cost of a forward and backward pass, as a multiple of the forward pass.
_WITH_GRADIENT = 3
_PROBED_SENTENCES = 32
# Texts that the teacher encodes to find near misses.
_NEAR_MISS_TEXTS = 300
_SECONDS_PER_TIMING, _LARGEST_BATCH, _TIMED_STEPS = 1.5, 64, 2


@dataclass(frozen=True)
class Timings:
    """Seconds and bytes of one unit of each kind of work on this device."""

    image: float  # Seconds per image outside its synthesis steps; a mean over the generators, as the next.
    image_step: float  # Seconds per synthesis step of an image.
    view: float  # Seconds for teacher and student to encode one view.
    photo: float  # Seconds for teacher and student to encode one photo, each at its own size.
    training_view: float  # Seconds per view in a training step of all weights.
    text: float  # Seconds for the teacher to encode one text.
    prompt_step: float  # Seconds of one learning step of a prompt's soft tokens; 0 where none are learned.
    image_bytes: float  # Memory that a synthesis step keeps for the gradient of one image.
    training_bytes: float  # Memory that a training step keeps for the gradient of one view.
    feature_bytes: float  # Memory of one cached view: the student's features and the teacher's vector, and a copy.
    base_bytes: int  # Memory of the process, or of the GPU, with all models loaded.
    image_size: int  # Side of the timed images in pixels.


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
    from clipstill.assembly.foresight import MOST_PHOTOS

    made = classes * settings.prompts.images_per_class
    near = near_misses.wanted_number(settings, classes) * settings.refusal.images
    learned = made + unlabelled
    if examples:
        share = settings.examples.teach_share
        learned += max(examples, round(learned * share / (1 - share)))
    pixels = (settings.synthesis.image_size / timings.image_size) ** 2
    image_s = pixels * (timings.image + settings.synthesis.steps * timings.image_step)
    calibration_views = (1 + VIEWS) * (made + min(unlabelled, MOST_PICTURES) + near)
    stages = {
        "start": _START_S,
        teacher_prompts.NAME: examples * _passes_per_example(settings) * timings.photo,
        class_vectors.NAME: classes * templates * timings.text + examples * timings.photo,
        **_adaptation_seconds(settings, timings, unlabelled),
        prompts.NAME: made * timings.text + _learned_prompts(settings, classes) * timings.prompt_step,
        images.NAME: made * image_s,
        student.NAME: settings.distillation.minutes * 60 or _training_seconds(settings, timings, learned),
        near_misses.NAME: near * image_s + (_NEAR_MISS_TEXTS * timings.text if near else 0),
        calibration.NAME: calibration_views * timings.view + min(examples + unlabelled, MOST_PHOTOS) * timings.photo,
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


def measure(
    settings: Settings,
    task: Task,
    models: Models,
    *,
    class_vectors_CD: Tensor,
    seconds_per_text: float,
    quick: bool = False,
) -> Timings:
    """Time a few real steps of the loaded models.

    Args:
        class_vectors_CD: Unit vectors of the task's classes.
        quick: Whether to time the smallest batches; otherwise each kind of work takes a second or two.
    """
    seconds = 0.0 if quick else _SECONDS_PER_TIMING
    probe = _Probe(settings, task, models, class_vectors_CD=class_vectors_CD, seconds=seconds)
    base_bytes = _memory_in_use(models.device)
    # A run that learns from photos alone has no generator.
    images = [probe.image(number) for number in range(len(models.generators))] or [(0.0, 0.0, 0.0)]
    image_s, step_s, image_bytes = (sum(values) / len(images) for values in zip(*images, strict=True))
    view_s, training_s, training_bytes, feature_bytes = probe.views()
    larger = max(1.0, models.teacher.image_size / settings.student.image_size)
    return Timings(
        image=image_s,
        image_step=step_s,
        view=view_s,
        photo=view_s * larger**2,
        training_view=training_s,
        text=seconds_per_text,
        prompt_step=probe.prompt_step(),
        image_bytes=image_bytes,
        training_bytes=training_bytes,
        feature_bytes=feature_bytes,
        base_bytes=base_bytes,
        image_size=settings.synthesis.image_size,
    )


@dataclass(frozen=True)
class _Probe:
    settings: Settings
    task: Task
    models: Models
    class_vectors_CD: Tensor
    seconds: float

    def image(self, number: int) -> tuple[float, float, float]:
        """Time one generator: seconds per image outside its steps, seconds per step, and bytes that a step keeps."""
        from clipstill.core.protocols import Sampler
        from clipstill.synthesis.engine import GroupSpec, Synthesiser

        synthesis = self.settings.synthesis.model_copy(update={"steps": _TIMED_STEPS, "coarse_share": 0.0})
        synthesiser = Synthesiser(
            self.models.teacher,
            self.models.generators,
            class_vectors_CD=self.class_vectors_CD,
            settings=synthesis,
            device=self.models.device,
        )
        times: list[float] = []

        def watch(x_N3HW: Tensor) -> None:
            self._wait()
            times.append(time.monotonic())

        def make(images: int) -> None:
            times.clear()
            class_ids = [image % len(self.class_vectors_CD) for image in range(images)]
            spec = GroupSpec(
                number=number,
                seeds=list(range(images)),
                class_ids=class_ids,
                targets_ND=self.class_vectors_CD[class_ids].cpu(),
                texts=["a thing"] * images,
            )
            synthesiser.group(spec, watch)

        if isinstance(self.models.generators[number], Sampler):
            return self._time(make, 1), 0.0, 0.0
        images, total_s, kept = self._measure(make, synthesis.group_size)
        step_s = times[-1] - times[-2]
        return max(0.0, total_s - _TIMED_STEPS * step_s) / images, step_s / images, kept

    def prompt_step(self) -> float:
        """Seconds of one learning step of one prompt's soft tokens, and of its view; 0 where none are learned."""
        import torch

        from clipstill.text.soft_tokens import SoftSentences, class_sentences

        section = self.settings.prompts
        if section.strategy not in ("sdd", "contrastive") or not section.images_per_class * section.steps:
            return 0.0
        sentences = class_sentences(self.task, DICTIONARY_TEMPLATE, styles=section.styles[:1])[:_PROBED_SENTENCES]
        soft = SoftSentences(self.models.teacher, sentences, section.tokens)
        tokens_MLE = torch.zeros(
            len(sentences), section.tokens, soft.embeddings_MTE.shape[2], device=self.models.device
        )

        def step(times: int) -> None:
            for _ in range(times):
                leaf = tokens_MLE.detach().requires_grad_()
                torch.autograd.grad(soft.encode(leaf).sum(), leaf)

        step(1)  # Warms up.
        return 2 * self._time(step, _TIMED_STEPS) / _TIMED_STEPS / len(sentences)

    def views(self) -> tuple[float, float, float, float]:
        """Costs of a view.

        Returns:
            Seconds for both models to encode it, seconds of a training step, bytes that the step keeps, and bytes of
            its cached features.
        """
        import torch

        from clipstill.assembly.students import student_of
        from clipstill.distillation.views import to_unit, views_of

        section, device = self.settings.student, self.models.device
        student = student_of(self.models, len(self.class_vectors_CD), section.init).to(device).eval()
        draw = views_of(self.settings.distillation, section.image_size)
        weights = [weight for weight in student.parameters() if weight.requires_grad]

        @torch.no_grad()
        def views(count: int) -> Tensor:
            pixels_N3HW = torch.randint(0, 256, (count, 3, section.image_size, section.image_size), dtype=torch.uint8)
            x_N3HW = draw(to_unit(pixels_N3HW, device), self.settings.seed, "probe")
            self.models.teacher.encode_image(x_N3HW)
            return x_N3HW

        @torch.no_grad()
        def see(count: int) -> None:
            student.features(views(count))

        def train(count: int) -> None:
            torch.autograd.grad(student(views(count)).sum(), weights, allow_unused=True)

        seen, seen_s, _ = self._measure(see, _LARGEST_BATCH)
        trained, trained_s, kept = self._measure(train, self.settings.distillation.batch)
        numbers = student.head.in_features + self.models.teacher.dim
        return seen_s / seen, trained_s / trained, kept, 2 * 4 * numbers

    def _measure(self, work: Callable[[int], None], most: int) -> tuple[int, float, float]:
        """Do work on two items, then on as many as the time allows.

        Returns:
            Number of items last worked on, seconds they took, and bytes that one keeps for its gradient.
        """
        import torch

        kept = _Kept()
        # The first call warms up caches and is not timed.
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.tensor):
            work(2)
        items, seconds = 2, self._time(work, 2)  # Two, since batch statistics need more than one item.
        more = min(most, int(self.seconds / (seconds / 2)))
        if more > 2:
            items, seconds = more, self._time(work, more)
        return items, seconds, kept.most / 2

    def _time(self, work: Callable[[int], None], items: int) -> float:
        self._wait()
        start = time.monotonic()
        work(items)
        self._wait()
        return time.monotonic() - start

    def _wait(self) -> None:
        """Wait until the device has finished its queue."""
        import torch

        if self.models.device.type != "cpu":
            torch.accelerator.synchronize(self.models.device)


class _Kept:
    """Counts the bytes that the graph of a backward pass holds, each storage once; ``most`` is their maximum."""

    def __init__(self) -> None:
        self.most, self._now = 0, 0
        self._uses: dict[int, int] = {}

    def pack(self, tensor: Tensor) -> _Held:
        """Count a tensor that is saved for the backward pass until nothing holds the result any more."""
        return _Held(self, tensor)

    def count(self, tensor: Tensor, change: int) -> None:
        """Add ``change`` to the uses of a tensor's storage."""
        storage = tensor.untyped_storage()
        place = storage.data_ptr()
        before = self._uses.get(place, 0)
        self._uses[place] = before + change
        if 0 in (before, before + change):
            self._now += change * storage.nbytes()
            self.most = max(self.most, self._now)


class _Held:
    """A saved tensor. One without history is a weight, whose memory is counted elsewhere."""

    def __init__(self, kept: _Kept, tensor: Tensor) -> None:
        self.tensor, self._kept = tensor, kept if tensor.grad_fn is not None else None
        if self._kept is not None:
            self._kept.count(tensor, 1)

    def __del__(self) -> None:
        if self._kept is not None:
            self._kept.count(self.tensor, -1)


def _memory_in_use(device: torch.device) -> int:
    """Bytes on the GPU, or the most that this process has used so far."""
    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows.
        return 600_000_000  # A typical process with its libraries.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
