"""What a run will cost on this device: images and steps counted from the settings, times what one of each takes.

GFLOP are counted on the models themselves, two images at a time; seconds follow from a short probe of the same models
on this device, or, without one, from rates that were stored relative to a test of a fraction of a second.

Shapes: N images, C classes, D teacher dimensions, F student features.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from clipstill.workflow.keys import (
    BUNDLE,
    CALIBRATION,
    CLASS_VECTORS,
    EVALUATION,
    NEAR_MISSES,
    PROMPTS,
    REPORT,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
    styles_of,
    templates_of,
)

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from clipstill.core.protocols import Generator, Sampler, Teacher
    from clipstill.students.student import Student
    from clipstill.workflow.settings import Settings

START = "start"
# Forward and backward pass against the forward pass alone.
_WITH_GRADIENT = 3
# Views that the calibration asks about beside the plain image, see ``pipeline.calibrating``.
_CALIBRATION_VIEWS = 2
_NEAR_MISSES_MOST, _NEAR_MISSES_LEAST = 32, 4
# Seconds for which one piece of the probe may last, and the steps of the synthesis that it times.
_PIECE_S, _TIMED_STEPS = 1.5, 2
_LARGEST_BATCH = 64
# What GFLOP of this kind take against those of the test below; by `python benchmarks/difficulty.py --rates --threads 1`
# with the default recipe on a core of a 2.8 GHz Xeon, in seconds of that core.
_SYNTHESIS_SLOWNESS, _FORWARD_SLOWNESS, _TRAINING_SLOWNESS = 4.7, 3.7, 7.5
# Seconds that do not depend on the settings, where one core makes so many GFLOP a second of the test.
_FIXED_S = {START: 8.0, BUNDLE: 10.0, REPORT: 1.0}
_HEAD_STEP_S = 0.0035
_REFERENCE_GFLOPS = 75.0
# A process with its libraries, before any model.
_PROCESS_BYTES = 600_000_000


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        texts: that the teacher reads.
        learned_texts: times steps, where prompts are learned.
        images: synthetic ones of the classes.
        near_images: synthetic ones of near misses.
        steps: of an image.
        pictures: that the student is taught on.
        student_passes: pictures that both models see without gradient, to teach and to calibrate.
        calibration_passes: those of them that calibrate.
        head_steps: of the head alone.
        all_steps: of all weights.
        minutes: for teaching, where steps are not what is given.
        examples: labelled photos that the teacher sees, and how often it learns from each.
        photos: to measure on.
    """

    texts: int
    learned_texts: int
    images: int
    near_images: int
    steps: int
    pictures: int
    student_passes: int
    calibration_passes: int
    head_steps: int
    all_steps: int
    minutes: float
    examples: int
    example_passes: int
    photos: int

    @property
    def image_steps(self) -> int:
        """Steps of all synthetic images."""
        return (self.images + self.near_images) * self.steps

    @classmethod
    def of(cls, config: Settings, classes: int, photos: int, examples: int, unlabelled: int, templates: int) -> Work:
        """Count.

        Args:
            config: of the run.
            classes: C.
            photos: real ones to measure on.
            examples: labelled ones to learn from.
            unlabelled: others to learn from.
            templates: sentences a class.
        """
        prompts, settings = config.prompts, config.distillation
        images = classes * prompts.images_per_class
        near = _near_misses(config, classes)
        learns = prompts.strategy in ("sdd", "contrastive") and prompts.bank is None
        with_examples = round((images + unlabelled) * config.examples.teach_share / (1 - config.examples.teach_share))
        pictures = images + unlabelled + (max(examples, with_examples) if examples else 0)
        steps = settings.steps
        if settings.epochs:
            steps = settings.epochs * math.ceil(pictures / settings.batch)
        frozen = settings.freeze == "backbone"
        held = pictures // 8 if settings.held_out_styles else 0
        passes = pictures * settings.views if frozen or settings.head_steps else 0
        calibration = (1 + _CALIBRATION_VIEWS) * (images + min(unlabelled, 512) + near * config.refusal.images)
        learned = config.prompt_teacher.method != "none" and config.prompt_teacher.weights is None
        return cls(
            texts=classes * templates + images + (near and 300),
            learned_texts=images * prompts.steps if learns else 0,
            images=images,
            near_images=near * config.refusal.images,
            steps=config.synthesis.steps,
            pictures=pictures,
            student_passes=passes + held,
            calibration_passes=calibration,
            head_steps=steps if frozen else settings.head_steps,
            all_steps=0 if frozen else steps,
            minutes=settings.minutes,
            examples=examples,
            example_passes=examples * config.prompt_teacher.epochs if learned else 0,
            photos=photos,
        )


def _near_misses(config: Settings, classes: int) -> int:
    wanted = config.refusal.near_misses
    if not config.refusal.wanted:
        return 0
    if isinstance(wanted, list):
        return len(wanted)
    return min(_NEAR_MISSES_MOST, max(_NEAR_MISSES_LEAST, classes)) if wanted == "auto" else int(wanted)


def text_count(config: Settings, teacher: Teacher) -> int:
    """Sentences whose mean is a class vector."""
    return len(templates_of(config, teacher.templates)) if styles_of(config) else 0


@dataclass(frozen=True)
class Models:
    """What a run works with, loaded.

    Attributes:
        teacher: on ``device``.
        generators: on ``device``; they take turns.
        student: on ``device``, in evaluation mode.
        device: where they are.
        threads: of the CPU.
    """

    teacher: Teacher
    generators: Sequence[Generator | Sampler]
    student: Student
    device: torch.device
    threads: int

    @classmethod
    def load(cls, config: Settings, classes: int, device: torch.device, threads: int) -> Models:
        """As a run loads them.

        Raises:
            ClipstillError: a model cannot be loaded.
        """
        from clipstill.generators import load_generators
        from clipstill.teachers import load_teacher

        teacher = load_teacher(config.teacher.name, device, config.teacher.precision)
        generators = load_generators(config.generator.name, device) if config.prompts.images_per_class else []
        return cls.around(config, classes, teacher, generators, device, threads)

    @classmethod
    def around(
        cls,
        config: Settings,
        classes: int,
        teacher: Teacher,
        generators: Sequence[Generator | Sampler],
        device: torch.device,
        threads: int,
    ) -> Models:
        """With a teacher and generators that are loaded already."""
        from clipstill.assembly.students import new_student

        student = new_student(config.student, classes, config.student.init, config.seed).to(device).eval()
        return cls(teacher, generators, student, device, threads)


@dataclass(frozen=True)
class Flops:
    """GFLOP of one unit of each kind of work, and the memory that it holds.

    Attributes:
        image_step: one step of one image; the mean over the generators, None where one of them draws by itself.
        student: one picture through the student.
        teacher: the same through the teacher, at the student's size.
        measuring: one photo through both, each at its own size.
        head_step: one step of the head.
        step_bytes: kept for the gradient of one image.
        weight_bytes: of all models.
    """

    image_step: float | None
    student: float
    teacher: float
    measuring: float
    head_step: float
    step_bytes: float
    weight_bytes: int


@dataclass(frozen=True)
class Rates:
    """Seconds on this device.

    Attributes:
        synthesis: a GFLOP of the synthesis; of an image instead, where a generator draws by itself.
        forward: a GFLOP without gradient.
        training: a GFLOP with it.
        text: a text.
        slowness: of everything else, against the machine that the stored seconds are of.
        probed: whether the models themselves were timed.
    """

    synthesis: float
    forward: float
    training: float
    text: float
    slowness: float
    probed: bool


@dataclass(frozen=True)
class Cost:
    """What a run takes.

    Attributes:
        seconds: of the whole.
        stages: of each stage, and of the start.
        images: synthetic images of the classes.
        image_steps: of these and those of near misses.
        gflop: of synthesis and teaching.
        memory_bytes: at the most.
    """

    seconds: float
    stages: dict[str, float]
    images: int
    image_steps: int
    gflop: float
    memory_bytes: int

    def to_json(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "seconds": round(self.seconds, 1),
            "stages": {stage: round(seconds, 2) for stage, seconds in self.stages.items()},
            "images": self.images,
            "image_steps": self.image_steps,
            "gflop": round(self.gflop, 1),
            "memory_bytes": self.memory_bytes,
        }


def cost_of(work: Work, flops: Flops, rates: Rates, config: Settings) -> Cost:
    """Counts times rates.

    Args:
        work: of the run.
        flops: at the settings' image size.
        rates: of this device.
        config: of the run, for its batches.
    """
    batch = config.distillation.batch * config.distillation.accumulate
    student_step = _WITH_GRADIENT * flops.student * batch
    synthesis = flops.image_step
    # What a model takes that draws by itself is only known where it was timed.
    step_s = rates.synthesis * (float(rates.probed) if synthesis is None else synthesis)
    image_steps = work.image_steps if synthesis is not None else work.images + work.near_images
    near_steps = image_steps * work.near_images // max(1, work.images + work.near_images)
    seeing = flops.student + flops.teacher
    teaching = (
        work.student_passes * seeing * rates.forward
        + work.head_steps * (_HEAD_STEP_S * rates.slowness + flops.head_step * rates.training)
        + work.all_steps * (student_step * rates.training + batch * flops.teacher * rates.forward)
    )
    stages = {
        START: _FIXED_S[START] * rates.slowness,
        TEACHER_PROMPTS: work.example_passes * _WITH_GRADIENT * flops.teacher * rates.training,
        CLASS_VECTORS: (work.texts - work.images) * rates.text + work.examples * flops.teacher * rates.forward,
        PROMPTS: (work.images + 2 * _WITH_GRADIENT * work.learned_texts) * rates.text,
        SURROGATE: (image_steps - near_steps) * step_s,
        STUDENT: work.minutes * 60 if work.minutes else teaching,
        NEAR_MISSES: near_steps * step_s,
        CALIBRATION: work.calibration_passes * seeing * rates.forward,
        EVALUATION: work.photos * flops.measuring * rates.forward,
        BUNDLE: _FIXED_S[BUNDLE] * rates.slowness,
        REPORT: _FIXED_S[REPORT] * rates.slowness,
    }
    stages = {stage: seconds for stage, seconds in stages.items() if seconds > 0}
    gflop = (
        image_steps * (synthesis or 0.0)
        + (work.student_passes + work.calibration_passes) * seeing
        + work.head_steps * flops.head_step
        + work.all_steps * (student_step + batch * flops.teacher)
    )
    at_once = min(config.synthesis.group_size, max(1, work.images))
    side = max(config.synthesis.image_size, config.student.image_size)
    # A step of all weights keeps about as much a picture as a step of an image does.
    kept = max(at_once * config.synthesis.views, batch if work.all_steps else 0)
    memory = _PROCESS_BYTES + flops.weight_bytes + int(kept * flops.step_bytes) + work.pictures * 3 * side * side
    return Cost(sum(stages.values()), stages, work.images, work.image_steps, gflop, memory)


def count_flops(config: Settings, models: Models, class_vectors_CD: Tensor) -> Flops:
    """Count on the models, two images at a time."""
    import torch

    turns = range(len(models.generators))
    # No generator is there where photos stand for all images.
    found = [_of_image_step(config, models, class_vectors_CD, turn) for turn in turns] or [(0.0, 0.0)]
    steps = [step for step, _ in found if step is not None]
    side, own = config.student.image_size, models.teacher.image_size
    x_23SS, x_23OO = (torch.rand(2, 3, size, size, device=models.device) for size in (side, own))
    with torch.no_grad():
        student = _counted(lambda: models.student(x_23SS)) / 2
        teacher = _counted(lambda: models.teacher.encode_image(x_23SS)) / 2
        at_own_size = teacher if own == side else _counted(lambda: models.teacher.encode_image(x_23OO)) / 2
    head = _WITH_GRADIENT * config.distillation.batch * _head_flops(config, models) / 1e9
    parts = (models.teacher, models.student, *models.generators)
    return Flops(
        image_step=sum(steps) / len(steps) if len(steps) == len(found) else None,
        student=student,
        teacher=teacher,
        measuring=student + at_own_size,
        head_step=head,
        step_bytes=max(kept for _, kept in found),
        weight_bytes=sum(_weight_bytes(part) for part in parts),
    )


def _head_flops(config: Settings, models: Models) -> float:
    """Of one picture's features through the head."""
    section, width = config.student, int(models.student.head.in_features)
    if section.head == "linear":
        return 2.0 * width * models.student.head.out_features
    hidden = section.projector_width or models.teacher.dim
    return 2.0 * (width * hidden + (section.projector_layers - 1) * hidden * models.teacher.dim)


def _of_image_step(config: Settings, models: Models, class_vectors_CD: Tensor, turn: int) -> tuple[float | None, float]:
    """GFLOP of one step of one image, and the bytes that it keeps for the gradient; None for a sampler."""
    from clipstill.core.protocols import Sampler

    if isinstance(models.generators[turn], Sampler):
        return None, 0.0
    one, kept = _counted_group(config, models, class_vectors_CD, turn, steps=1)
    two, _ = _counted_group(config, models, class_vectors_CD, turn, steps=2)
    return (two - one) / 2, kept / 2


def _counted_group(
    config: Settings, models: Models, class_vectors_CD: Tensor, turn: int, steps: int
) -> tuple[float, float]:
    import torch

    kept: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        flops = _counted(lambda: _make_group(config, models, class_vectors_CD, turn, 2, steps, None))
    return flops, float(sum(kept.values())) / steps


def _make_group(
    config: Settings,
    models: Models,
    class_vectors_CD: Tensor,
    turn: int,
    images: int,
    steps: int,
    watch: Callable[[Tensor], None] | None,
) -> None:
    """Images of the first classes, for a few steps, as a run would make them."""
    from clipstill.synthesis.engine import GroupSpec, Synthesiser

    settings = config.synthesis.changed(steps=steps, coarse_share=0.0, compile=False)
    maker = Synthesiser(models.teacher, models.generators, class_vectors_CD, settings, models.device)
    ids = [number % len(class_vectors_CD) for number in range(images)]
    texts = ["a thing"] * images
    maker.group(GroupSpec(turn, list(range(images)), ids, class_vectors_CD[ids].cpu(), texts), watch)


def _counted(work: Callable[[], Any]) -> float:
    """GFLOP of a piece of work."""
    from torch.utils.flop_counter import FlopCounterMode

    # Any: its tracker is of another type.
    counter: Any = FlopCounterMode(display=False)
    # Its table by modules hangs hooks into the graph, which do not go with torch.autograd.grad.
    counter.mod_tracker = _NoModules()
    with counter:
        work()
    return float(counter.get_total_flops()) / 1e9


class _NoModules:
    """Stands where the counter would follow the modules at work."""

    parents = ("Global",)

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        pass


def _weight_bytes(part: Any) -> int:
    """Of a model, as far as it says: its modules are found among its attributes."""
    from torch import nn

    seen: dict[int, int] = {}

    def look(value: Any, depth: int) -> None:
        if isinstance(value, nn.Module):
            tensors = [*value.parameters(), *value.buffers()]
            seen.update({tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in tensors})
        elif depth > 0 and isinstance(value, list | tuple):
            for each in value:
                look(each, depth - 1)
        elif depth > 0 and hasattr(value, "__dict__"):
            for each in vars(value).values():
                look(each, depth - 1)

    look(part, 3)
    return sum(seen.values())


# --- rates ------------------------------------------------------------------------------------------------------------


def stored_rates(models: Models, text_seconds: float) -> Rates:
    """Rates without a probe: a short test of this device, and how slow each kind of work was against it elsewhere."""
    test = test_gflops(str(models.device), models.threads)
    second = 1 / test
    return Rates(
        synthesis=_SYNTHESIS_SLOWNESS * second,
        forward=_FORWARD_SLOWNESS * second,
        training=_TRAINING_SLOWNESS * second,
        text=text_seconds,
        # Loading and exporting is one thread's work.
        slowness=_REFERENCE_GFLOPS * models.threads / test if models.device.type == "cpu" else 1.0,
        probed=False,
    )


@functools.cache
def test_gflops(device: str, threads: int) -> float:
    """GFLOP a second of a plain convolution: the best of a few, so that a busy neighbour counts less."""
    import torch
    from torch.nn import functional as F

    torch.set_num_threads(threads)
    x_N, weight = torch.rand(8, 64, 28, 28, device=device), torch.rand(64, 64, 3, 3, device=device)
    gflop = 2 * 8 * 64 * 64 * 9 * 28 * 28 / 1e9
    best = math.inf
    with torch.no_grad():
        for _ in range(6):
            best = min(best, _timed(lambda: F.conv2d(x_N, weight, padding=1), device))
    return gflop / best


def probe(config: Settings, models: Models, class_vectors_CD: Tensor, flops: Flops, text_seconds: float) -> Rates:
    """Time a few real steps of the loaded models; a few seconds each."""
    guess = stored_rates(models, text_seconds)
    turns = range(len(models.generators))
    synthesis = [_probe_synthesis(config, models, class_vectors_CD, flops, guess, turn) for turn in turns] or [0.0]
    forward = _probe_forward(config, models, flops, guess)
    training = guess.training * forward / guess.forward
    if config.distillation.freeze != "backbone":
        training = _probe_training(config, models, flops, guess)
    return replace(guess, synthesis=sum(synthesis) / len(synthesis), forward=forward, training=training, probed=True)


def _probe_synthesis(
    config: Settings, models: Models, class_vectors_CD: Tensor, flops: Flops, guess: Rates, turn: int
) -> float:
    """Seconds a GFLOP of one generator's steps; of an image, where it draws by itself."""
    times: list[float] = []

    def watch(x_N3HW: Tensor) -> None:
        _finish(str(models.device))
        times.append(time.monotonic())

    if flops.image_step is None:
        start = time.monotonic()
        _make_group(config, models, class_vectors_CD, turn, 1, 1, None)
        return time.monotonic() - start
    most = config.synthesis.group_size
    images = _batch(most, flops.image_step * guess.synthesis)
    _make_group(config, models, class_vectors_CD, turn, images, _TIMED_STEPS + 1, watch)
    # The first step of all finds everything cold.
    return (times[-1] - times[0]) / (len(times) - 1) / images / flops.image_step


def _probe_forward(config: Settings, models: Models, flops: Flops, guess: Rates) -> float:
    """Seconds a GFLOP of both models seeing random views."""
    import torch

    from clipstill.distillation.views import to_unit, views_of

    seeing, side = flops.student + flops.teacher, config.student.image_size
    images = _batch(_LARGEST_BATCH, seeing * guess.forward)
    views = views_of(config.distillation, side)
    pictures = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)

    def see() -> None:
        x_N3SS, _ = views(to_unit(pictures, models.device), config.seed, "probe")
        models.student.features(x_N3SS)
        models.teacher.encode_image(x_N3SS)

    with torch.no_grad():
        _timed(see, str(models.device))
        return _timed(see, str(models.device)) / images / seeing


def _probe_training(config: Settings, models: Models, flops: Flops, guess: Rates) -> float:
    """Seconds a GFLOP of the student's steps with gradient."""
    import torch

    side = config.student.image_size
    images = max(2, _batch(config.distillation.batch, _WITH_GRADIENT * flops.student * guess.training))
    x_N3SS = torch.rand(images, 3, side, side, device=models.device)
    weights = [weight for weight in models.student.parameters() if weight.requires_grad]

    def step() -> None:
        torch.autograd.grad(models.student(x_N3SS).sum(), weights, allow_unused=True)

    _timed(step, str(models.device))
    return _timed(step, str(models.device)) / images / (_WITH_GRADIENT * flops.student)


def _batch(most: int, seconds_each: float) -> int:
    """As many as fit into one piece of the probe; at least two, since common statistics need them."""
    return max(2, min(most, int(_PIECE_S / max(seconds_each, 1e-9))))


def _timed(work: Callable[[], Any], device: str) -> float:
    start = time.monotonic()
    work()
    _finish(device)
    return time.monotonic() - start


def _finish(device: str) -> None:
    """Wait for a device that works on its own."""
    import torch

    if device.startswith("cuda"):
        torch.cuda.synchronize()
    elif device.startswith("mps"):
        torch.mps.synchronize()
