"""Seconds and bytes of a few real steps on this device, which a plan multiplies.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from clipstill.text.templates import DICTIONARY_TEMPLATE

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.text.task import Task
    from clipstill.workflow.models import Models
    from clipstill.workflow.settings import Settings

_PROBED_SENTENCES = 32
_LARGEST_BATCH, _TIMED_STEPS = 64, 3
# Images and views of one timing, for each core of a processor: fewer cost up to twice as much each. A GPU is only busy
# with as many as a run has at once.
_IMAGES_PER_CORE, _VIEWS_PER_CORE = 4, 8
# Memory of torch's compiler, which every optimiser of torch imports, and a plan does not.
_COMPILER_BYTES = 170_000_000


@dataclass(frozen=True)
class Timings:
    """Seconds and bytes of one unit of each kind of work on this device."""

    image: float  # Seconds per image outside its synthesis steps; a mean over the generators, as the next.
    image_step: float  # Seconds per synthesis step of an image.
    view: float  # Seconds for teacher and student to encode one view.
    photo: float  # Seconds for teacher and student to encode one photo, each at its own size.
    training_view: float  # Seconds per view in a training step of all weights; 0 where only a head is trained.
    text: float  # Seconds for the teacher to encode one text.
    prompt_step: float  # Seconds of one learning step of a prompt's soft tokens; 0 where none are learned.
    image_bytes: float  # Memory that a synthesis step keeps for the gradient of one image.
    training_bytes: float  # Memory that a training step keeps for the gradient of one view.
    feature_bytes: float  # Memory of one cached view: the student's features and the teacher's vector, and a copy.
    base_bytes: int  # Memory of the process, or of the GPU, with all models loaded.
    image_size: int  # Side of the timed images in pixels.


def measure(
    settings: Settings,
    task: Task,
    models: Models,
    *,
    class_vectors_CD: Tensor,
    trains_all: bool,
) -> Timings:
    """Time a few real steps of the loaded models.

    Args:
        class_vectors_CD: Unit vectors of the task's classes.
        trains_all: Whether the run may train all weights.
    """
    import torch

    probe = _Probe(settings, task, models, class_vectors_CD=class_vectors_CD)
    side = models.teacher.image_size
    with torch.no_grad():
        models.teacher.encode_image(torch.zeros(1, 3, side, side, device=models.device))  # Loads the tower.
    base_bytes = _memory_in_use(models.device)
    image_s, step_s, image_bytes = probe.images()
    view_s, training_s, training_bytes, feature_bytes = probe.views(trains_all)
    larger = max(1.0, models.teacher.image_size / settings.student.image_size)
    return Timings(
        image=image_s,
        image_step=step_s,
        view=view_s,
        photo=view_s * larger**2,
        training_view=training_s,
        text=probe.text(),
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

    def images(self) -> tuple[float, float, float]:
        """Mean over the generators: seconds per image outside its steps, seconds per step, and bytes that a step keeps.

        A whole step is timed for one generator, and of the others what drawing takes more or less.
        """
        from clipstill.core.protocols import Sampler

        generators = self.models.generators
        found = [self._image(number) for number, each in enumerate(generators) if isinstance(each, Sampler)]
        drawing = [number for number, each in enumerate(generators) if not isinstance(each, Sampler)]
        if drawing:
            image_s, step_s, kept = self._image(drawing[0])
            draws = [self._drawing(number) for number in drawing] if len(drawing) > 1 else [(0.0, 0.0)]
            beside_s, beside = step_s - draws[0][0], kept - draws[0][1]
            found += [(image_s, seconds + max(0.0, beside_s), drawn + beside) for seconds, drawn in draws]
        if not found:  # A run that learns from photos alone.
            return 0.0, 0.0, 0.0
        image_s, step_s, kept = (sum(values) / len(found) for values in zip(*found, strict=True))
        return image_s, step_s, kept

    def _drawing(self, number: int) -> tuple[float, float]:
        """Seconds in which a generator draws an image and finds its gradient, and bytes that it keeps."""
        import torch

        generator: Any = self.models.generators[number]
        images = self._items(_IMAGES_PER_CORE, self.settings.synthesis.group_size)
        latents = [each.requires_grad_() for each in generator.init(range(images), self.settings.synthesis.image_size)]

        def draw(images: int) -> None:
            torch.autograd.grad(generator.decode(latents).sum(), latents)

        # The first warms up.
        seconds, kept = min(self._counted(draw, images) for _ in range(_TIMED_STEPS - 1))
        return seconds / images, kept

    def _image(self, number: int) -> tuple[float, float, float]:
        """As ``images``, of one generator."""
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
        images = self._items(_IMAGES_PER_CORE, synthesis.group_size)
        total_s, kept = self._counted(make, images)
        # The first step warms up, and another process may have disturbed one of the others.
        step_s = min(later - earlier for earlier, later in pairwise(times))
        return max(0.0, total_s - _TIMED_STEPS * step_s) / images, step_s / images, kept

    def text(self) -> float:
        """Seconds for the teacher to encode one text."""
        from clipstill.text.near_misses import WORDS

        def encode(texts: int) -> None:
            self.models.teacher.encode_text(WORDS[:texts])

        encode(1)  # Loads the tower.
        return self._time(encode, _PROBED_SENTENCES) / _PROBED_SENTENCES

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

    def views(self, trains_all: bool) -> tuple[float, float, float, float]:
        """Costs of a view; those of training are 0 unless all weights are trained.

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

        numbers = student.head.in_features + self.models.teacher.dim
        see(2)  # Warms up, as does the next. Batch statistics need more than one view.
        seen = self._items(_VIEWS_PER_CORE, _LARGEST_BATCH)
        seen_s = self._time(see, seen) / seen
        if not trains_all:
            return seen_s, 0.0, 0.0, 2 * 4 * numbers
        train(2)
        trained = self._items(_VIEWS_PER_CORE, self.settings.distillation.batch)
        trained_s, kept = self._counted(train, trained)
        return seen_s, trained_s / trained, kept, 2 * 4 * numbers

    def _items(self, per_core: int, most: int) -> int:
        import torch

        return min(most, per_core * torch.get_num_threads()) if self.models.device.type == "cpu" else most

    def _counted(self, work: Callable[[int], None], items: int) -> tuple[float, float]:
        """Seconds of work on some items, and bytes that one item keeps for its gradient."""
        import torch

        kept = _Kept()
        with torch.autograd.graph.saved_tensors_hooks(kept.pack, lambda held: held.tensor):
            seconds = self._time(work, items)
        return seconds, kept.most / items

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
    """Bytes on the GPU, or the most that this process has used so far, with the compiler that training imports."""
    import torch

    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows.
        return 600_000_000  # A typical process with its libraries.
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return used if "torch._dynamo" in sys.modules else used + _COMPILER_BYTES
