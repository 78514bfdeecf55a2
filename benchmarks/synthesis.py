"""How fast images are made: images a second and share of the device's own matmul rate, against one image at a time.

    python benchmarks/synthesis.py                               # a tiny VQGAN and ViT: what this code itself costs
    python benchmarks/synthesis.py --embedded --batches 1 7 28   # what a laptop runs: embedded-m, both its generators
    python benchmarks/synthesis.py --size full --device cuda --precision bf16 --batches 8 64 --json fast.json

``--size full`` is VQGAN f16-16384 and ViT-B-32, ``tiny`` the same classes with little in them; all weights of both are
random, so nothing is downloaded, and speed does not depend on what weights hold. From a checkout that is not installed,
put ``PYTHONPATH=src`` before it; torch, timm, open_clip, kornia and safetensors are enough. On an H200, each well under
ten minutes (random weights take half a minute):

    export PYTHONPATH=src; full="--size full --device cuda --precision bf16 --image-size 224 --views 8 --steps 12"
    python benchmarks/synthesis.py $full --batches 1 8 32 64 --json eager.json

What is compared, in one run, with the same generator, teacher, number of views and steps, and terms of the loss:

- *the loop*: what public tools do by default: a Python loop over images, batch 1, float32, ``torch.optim.Adam``, pooled
  whole-image views through kornia's affine, perspective, jitter and erasing, and noise. Nothing in it is slow on
  purpose: codes are gathered by index, an image is pooled once and not once a view, nothing is printed or saved, and on
  CUDA the CLIP tower is in half precision, as the public loader gives it.
- *ours*: ``Synthesiser.group`` as a run calls it, each batch a group, every image all steps.

What is measured:

- *step*: time from the first step's end to the last's, over the steps between, median of the repeats after a warm-up,
  device synchronised. *images/s*: at the number of steps that the recipe takes (400 for ``ovc``, 60 for ``default``),
  with what a group costs besides its steps. ``--compiled`` compiles the steps, which a run does after a minute.
- *matmul*: the best rate of square ``torch.matmul`` at this precision on this device. *FLOPs*: of decoder and towers
  for one image and step, forward and backward to the latent, counted by ``torch.utils.flop_counter``; views, losses and
  optimiser count as nothing. *networks*: share of the matmul rate that decoder and towers reach alone; *step*: that of
  the whole step. In fp32 on CUDA a share may pass 100 %: convolutions use TF32 there and matmul does not.
- *memory*: CUDA: peak of the allocator above what is held before, over the batch. CPU: rise of the peak of resident
  memory between the smallest and the largest batch, over the images between. *largest*: CUDA: doubled until the
  memory does not hold it; CPU: reckoned from the memory of an image and the machine's, not tried.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import kornia.augmentation as K
import open_clip
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from clipstill.core import compiled
from clipstill.core.cores import usable_cores
from clipstill.core.device import configure_torch, memory_bytes
from clipstill.core.files import write_json
from clipstill.core.protocols import NetworkGenerator
from clipstill.core.seeds import generator_for, seed_for
from clipstill.generators import load_generators
from clipstill.generators.vqgan_checkpoint import VqganShape, checkpoint_shapes
from clipstill.synthesis.engine import GroupSpec, SynthesisedGroup, Synthesiser
from clipstill.synthesis.settings import SynthesisSettings
from clipstill.teachers import class_vectors, load_teacher

CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")
FULL = VqganShape(16384, 256, 256, (128, 128, 256, 256, 512), 2, (4,))
TINY = VqganShape(512, 32, 32, (32, 32, 32), 1, (2,))
TINY_VIT = {
    "embed_dim": 64,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}
MATMUL_SIDES = {"cuda": (4096, 8192, 16384), "cpu": (512, 1024, 2048)}


@dataclass(frozen=True)
class Setup:
    """What both ways of working share.

    Attributes:
        teacher: ours.
        loop_teacher: the same weights in the loop's precision.
        generators: each is measured by itself.
        vectors_CD: of the classes, which are also the targets.
        settings: of the synthesis; its group size is set for each batch.
        cut_size: side of the loop's views.
        recipe_steps: an image.
        device: where all of it is.
    """

    teacher: Any
    loop_teacher: Any
    generators: list[Any]
    vectors_CD: Tensor
    settings: SynthesisSettings
    cut_size: int
    recipe_steps: int
    device: torch.device

    def group(self, images: int) -> GroupSpec:
        class_ids = [number % len(CLASSES) for number in range(images)]
        seeds = [seed_for("synthesis benchmark", number) for number in range(images)]
        return GroupSpec(0, seeds, class_ids, self.vectors_CD[class_ids])

    def synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def random_clip(full: bool, folder: Path, name: str = "ViT-B-32") -> str:
    """Name of a teacher whose random weights lie in the folder; a tiny one unless ``full``."""
    if not full:
        name = "clipstill-tiny-vit"
        (folder / f"{name}.json").write_text(json.dumps(TINY_VIT))
        open_clip.add_model_config(folder / f"{name}.json")
    with torch.device("meta"):
        shapes = open_clip.create_model(name, device="meta", load_weights=False).state_dict()
    draw = generator_for("synthesis benchmark", "teacher")
    state = {}
    for key, like in shapes.items():
        if key == "logit_scale":
            state[key] = torch.tensor(math.log(100.0))
        elif like.ndim > 1:
            state[key] = torch.randn(like.shape, generator=draw) / like[0].numel() ** 0.5
        else:
            state[key] = torch.ones(like.shape) if key.endswith("weight") else torch.zeros(like.shape)
    save_file(state, folder / f"{name}.safetensors")
    return f"openclip:{name}/{folder / f'{name}.safetensors'}"


def random_vqgan(full: bool, folder: Path) -> str:
    """Name of a generator whose random weights lie in the folder."""
    draw = generator_for("synthesis benchmark", "generator")
    state = {}
    for key, shape in checkpoint_shapes(FULL if full else TINY).items():
        if len(shape) == 4:
            state[key] = torch.randn(shape, generator=draw) / math.prod(shape[1:]) ** 0.5
        elif len(shape) == 2:  # the codebook
            state[key] = torch.randn(shape, generator=draw)
        else:
            state[key] = torch.ones(shape) if key.endswith("weight") else torch.zeros(shape)
    save_file(state, folder / "vqgan.safetensors")
    return f"vqgan:{folder / 'vqgan.safetensors'}"


def build(args: argparse.Namespace, folder: Path) -> Setup:
    device = torch.device(args.device)
    if args.embedded:
        teacher, loop_teacher = load_teacher("embedded-m", device, args.precision), load_teacher("embedded-m", device)
        generators = load_generators("embedded+pixels", device)
        vectors_CD = class_vectors(teacher, [[name] for name in CLASSES])
        # The terms of recipe ``default``.
        settings = SynthesisSettings(natural_weight=0.0)
        size, views, recipe_steps = args.image_size or 96, args.views or 1, 60
    else:
        name = random_clip(args.size == "full", folder)
        teacher = load_teacher(name, device, args.precision)
        loop_teacher = load_teacher(name, device, "fp16" if device.type == "cuda" else "fp32")
        generators = load_generators(random_vqgan(args.size == "full", folder), device)
        draw = generator_for("synthesis benchmark", "classes")
        vectors_CD = F.normalize(torch.randn(len(CLASSES), teacher.dim, generator=draw), dim=1).to(device)
        # The terms of recipe ``ovc``.
        settings = SynthesisSettings(
            bn_weight=0.0, natural_weight=0.0, tv_weight=0.0, degrees=15.0, light=0.1, noise=0.1
        )
        size, views, recipe_steps = args.image_size or (224 if args.size == "full" else 32), args.views or 8, 400
    settings = settings.changed(
        steps=args.steps,
        image_size=size,
        views=views,
        precision=args.precision,
    )
    cut_size = size if args.embedded else teacher.image_size
    return Setup(teacher, loop_teacher, generators, vectors_CD, settings, cut_size, recipe_steps, device)


class Cutouts(nn.Module):
    """Views as public loops make them by default: all of the image, pooled, moved, bent, recoloured, erased, noisy."""

    def __init__(self, size: int, views: int) -> None:
        super().__init__()
        self.size, self.views = size, views
        self.change = nn.Sequential(
            K.RandomAffine(degrees=15, translate=(0.1, 0.1), shear=5, p=0.7, padding_mode="zeros"),
            K.RandomPerspective(0.7, p=0.7),
            K.ColorJitter(hue=0.1, saturation=0.1, p=0.7),
            K.RandomErasing((0.1, 0.4), (0.3, 1 / 0.3), same_on_batch=True, p=0.7),
        )

    def forward(self, x_13HW: Tensor) -> Tensor:
        pooled = (F.adaptive_avg_pool2d(x_13HW, self.size) + F.adaptive_max_pool2d(x_13HW, self.size)) / 2
        x_V3HW = self.change(pooled.repeat(self.views, 1, 1, 1))
        strength_V111 = torch.rand(self.views, 1, 1, 1, device=x_V3HW.device) * 0.1
        noisy_V3HW: Tensor = x_V3HW + strength_V111 * torch.randn_like(x_V3HW)
        return noisy_V3HW


@dataclass(frozen=True)
class Timing:
    """Of some images made together.

    Attributes:
        step: seconds of one step.
        rest: seconds of all that is no step.
        images: made together.
    """

    step: float
    rest: float
    images: int

    def images_a_second(self, steps: int) -> float:
        return self.images / (self.step * steps + self.rest)

    @classmethod
    def of(cls, began: float, marks: Sequence[float], ended: float, steps: int, images: int) -> Timing:
        """From the times of the first step's end and the last's."""
        step = (marks[-1] - marks[0]) / (steps - 1)
        return cls(step, max(0.0, ended - began - steps * step), images)

    @classmethod
    def median(cls, repeats: Sequence[Timing]) -> Timing:
        return cls(
            statistics.median(one.step for one in repeats),
            statistics.median(one.rest for one in repeats),
            repeats[0].images,
        )


def one_at_a_time(setup: Setup, generator: Any, number: int) -> Timing:
    """One image of the loop."""
    settings, teacher = setup.settings, setup.loop_teacher
    order = setup.group(number + 1)
    target_1D = order.targets_ND[number : number + 1]
    cutouts = Cutouts(setup.cut_size, settings.views)
    marks = []
    setup.synchronise()
    began = time.perf_counter()
    latents = [latent.requires_grad_() for latent in generator.init([order.seeds[number]], settings.image_size)]
    optimiser = torch.optim.Adam(latents, lr=settings.lr * generator.lr_factor)
    for step in range(settings.steps):
        optimiser.zero_grad(set_to_none=True)
        views_V3HW = cutouts(generator.decode(latents))
        if settings.bn_weight > 0:
            feat_VD, gap = teacher.encode_image_with_statistics(views_V3HW)
        else:
            feat_VD, gap = teacher.encode_image(views_V3HW), None
        loss = 2 * ((feat_VD - target_1D).norm(dim=1) / 2).arcsin().square().mean()
        if gap is not None:
            loss = loss + settings.bn_weight * gap
        loss.backward()
        optimiser.step()
        generator.project_(latents)
        if step in (0, settings.steps - 1):
            setup.synchronise()
            marks.append(time.perf_counter())
    with torch.no_grad():
        (generator.decode(latents) * 255).round().to(torch.uint8).cpu()
    return Timing.of(began, marks, time.perf_counter(), settings.steps, 1)


def grouped(setup: Setup, engine: Synthesiser, images: int, steps: int) -> tuple[Timing, int, SynthesisedGroup]:
    """One group of ours; also, how many of its images were optimised at once."""
    marks: list[float] = []
    at_work: list[int] = []

    def watch(x_N3HW: Tensor) -> None:
        at_work.append(len(x_N3HW))
        if len(at_work) in (1, steps):
            setup.synchronise()
            marks.append(time.perf_counter())

    spec = setup.group(images)
    setup.synchronise()
    began = time.perf_counter()
    group = engine.group(spec, watch)
    return Timing.of(began, marks, time.perf_counter(), steps, images), at_work[-1], group


def engine_of(setup: Setup, generator: Any, images: int, **changed: Any) -> Synthesiser:
    settings = setup.settings.changed(**{"group_size": images, **changed})
    return Synthesiser(setup.teacher, [generator], setup.vectors_CD, settings, setup.device)


def networks_alone(setup: Setup, generator: Any, images: int) -> tuple[Callable[[], None], int]:
    """Decoder and towers, forward and backward to the latents; and the FLOPs of that in eager mode."""
    settings = setup.settings
    encode, decode = setup.teacher.encode_image, generator.decode
    drawn = generator.init(setup.group(images).seeds, settings.image_size)
    latents = [latent.requires_grad_() for latent in drawn]

    def work() -> None:
        is_half = settings.precision == "bf16"
        with torch.autocast(setup.device.type, torch.bfloat16, is_half and not isinstance(generator, NetworkGenerator)):
            x_N3HW = decode(latents).float()
        with torch.autocast(setup.device.type, torch.bfloat16, is_half):
            feat_MD = encode(x_N3HW.repeat_interleave(settings.views, dim=0))
        for latent in latents:
            latent.grad = None
        feat_MD.float().sum().backward()  # autograd.grad would not do: FLOPs are counted by hooks on leaves

    with FlopCounterMode(display=False) as counter:
        work()
    return work, counter.get_total_flops()


def matmul_rate(device: torch.device, precision: str) -> float:
    """FLOP/s of the fastest of several square products of random numbers."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    rates = []
    for side in MATMUL_SIDES[device.type]:
        left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        rates.append(2 * side**3 / seconds_of(partial(torch.matmul, left, right), device, repeats=7))
    return max(rates)


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int, at_least: float = 0.05) -> float:
    """Of one call: the median of some repeats, each long enough to be timed; warmed up."""

    def timed(calls: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = time.perf_counter()
        for _ in range(calls):
            work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() - began

    timed(2)
    calls = max(1, math.ceil(at_least / timed(1)))
    return statistics.median(timed(calls) / calls for _ in range(repeats))


class Peak:
    """The most memory that was held at once since ``begin``."""

    def __init__(self, device: torch.device) -> None:
        self._cuda = device if device.type == "cuda" else None
        self.exact = True

    def begin(self) -> None:
        if self._cuda is not None:
            torch.cuda.synchronize(self._cuda)
            torch.cuda.reset_peak_memory_stats(self._cuda)
            self._before = torch.cuda.memory_allocated(self._cuda)
            return
        try:
            Path("/proc/self/clear_refs").write_text("5")  # sets Linux's peak of resident memory to what it is now
        except OSError:
            self.exact = False  # the peak of the process so far: right where each batch is larger than the last

    def end(self) -> int:
        """Bytes; on the CPU of the whole process."""
        if self._cuda is not None:
            return torch.cuda.max_memory_allocated(self._cuda) - self._before
        if self.exact:
            status = Path("/proc/self/status").read_text()
            return 1024 * int(status.partition("VmHWM:")[2].split()[0])
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else 1024 * peak


@contextmanager
def mode_of_runs(args: argparse.Namespace) -> Any:
    """What ``configure_torch`` set, inside; torch's own defaults outside."""
    torch.use_deterministic_algorithms(args.device == "cpu", warn_only=True)
    compiled.COMPILE_AFTER_S = 0.0 if args.compiled else math.inf
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def largest_batch(setup: Setup, generator: Any, tried: int, limit: int) -> str:
    """Doubled until some of a batch had to wait, since the memory did not hold it whole; as text."""
    fits, batch = tried, 2 * tried
    while batch <= limit:
        try:
            _, at_work, _ = grouped(setup, engine_of(setup, generator, batch, steps=2), batch, 2)
        except torch.OutOfMemoryError:  # a coupled group is not split
            break
        finally:
            torch.cuda.empty_cache()
        if at_work < batch:
            break
        fits, batch = batch, 2 * batch
    return str(fits) if batch <= limit else f">= {fits}"


def measure(
    args: argparse.Namespace, setup: Setup, generator: Any, rate: float, loop: Timing | None = None
) -> dict[str, Any]:
    """All numbers of one generator; the loop comes first, because ours holds the generator's weights in half."""
    settings, device = setup.settings, setup.device
    if loop is None:
        note(f"{generator.name}: the loop")
        one_at_a_time(setup, generator, 0)
        loop = Timing.median([one_at_a_time(setup, generator, number) for number in range(args.repeats)])
    loop_rate = loop.images_a_second(setup.recipe_steps)
    _, flops = networks_alone(setup, generator, 1)
    rows, peaks = [], {}
    for images in args.batches:
        note(f"{generator.name}: batch {images}")
        with mode_of_runs(args):
            engine, peak = engine_of(setup, generator, images), Peak(device)
            grouped(setup, engine, images, settings.steps)
            peak.begin()
            repeats = [grouped(setup, engine, images, settings.steps) for _ in range(args.repeats)]
            peaks[images] = peak.end()
            at_work = repeats[-1][1]
            timing = Timing.median([one for one, _, _ in repeats])
            work, _ = networks_alone(setup, generator, images)
            alone = seconds_of(work, device, args.repeats)
        made = timing.images_a_second(setup.recipe_steps)
        rows.append(
            {
                "batch": images,
                "at_work": at_work,
                "step_ms": 1000 * timing.step,
                "rest_ms": 1000 * timing.rest,
                "image_steps_a_second": images / timing.step,
                "images_a_second": made,
                "times_the_loop": made / loop_rate,
                "networks_alone_ms": 1000 * alone,
                "networks_share": flops * images / alone / rate,
                "step_share": flops * images / timing.step / rate,
            }
        )
    memory = memory_of_images(device, peaks)
    for row in rows:
        row["memory_mb"] = peaks[row["batch"]] / row["batch"] / 2**20 if device.type == "cuda" else memory
    result = {
        "generator": generator.name,
        "flops_an_image_and_step": flops,
        "loop": {"step_ms": 1000 * loop.step, "image_steps_a_second": 1 / loop.step, "images_a_second": loop_rate},
        "batches": rows,
        "largest_batch": None,
    }
    if device.type == "cuda":
        if args.largest:
            note(f"{generator.name}: the largest batch")
            with mode_of_runs(args):
                result["largest_batch"] = largest_batch(setup, generator, max(args.batches), args.largest)
    elif memory:
        result["largest_batch"] = f"about {int((memory_bytes() or 0) * 0.9 / 2**20 / memory)} (reckoned)"
    return result


def memory_of_images(device: torch.device, peaks: dict[int, int]) -> float | None:
    """MiB an image, from the least and the most images; None where they do not tell."""
    few, many = min(peaks), max(peaks)
    if device.type == "cuda":
        return peaks[many] / many / 2**20
    if many == few:
        return None
    rise = (peaks[many] - peaks[few]) / (many - few) / 2**20
    # Less than an image's own gradients: an earlier generator of this process has raised the peak already.
    return rise if rise > 1 else None


def table(result: dict[str, Any]) -> str:
    """All rows as one Markdown table."""
    lines = [
        "| generator | batch | step ms | image-steps/s | images/s | times the loop | networks % of matmul | "
        "step % of matmul | MiB an image | largest batch |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for one in result["generators"]:
        loop = one["loop"]
        lines.append(
            f"| {one['generator']} | the loop | {loop['step_ms']:.1f} | {loop['image_steps_a_second']:.1f} "
            f"| {loop['images_a_second']:.3f} | 1 | | | | |"
        )
        for row in one["batches"]:
            batch = row["batch"] if row["at_work"] == row["batch"] else f"{row['batch']} ({row['at_work']} at once)"
            largest = (one["largest_batch"] or "") if row is one["batches"][-1] else ""
            memory = "" if row["memory_mb"] is None else f"{row['memory_mb']:.0f}"
            lines.append(
                f"| {one['generator']} | {batch} | {row['step_ms']:.1f} | {row['image_steps_a_second']:.1f} "
                f"| {row['images_a_second']:.3f} | {row['times_the_loop']:.1f} | {100 * row['networks_share']:.1f} "
                f"| {100 * row['step_share']:.1f} | {memory} | {largest} |"
            )
    return "\n".join(lines)


def facts(args: argparse.Namespace, setup: Setup, rate: float) -> dict[str, Any]:
    """What the numbers belong to."""
    cuda = setup.device.type == "cuda"
    settings = setup.settings
    return {
        "models": "embedded-m" if args.embedded else f"{args.size} VQGAN and ViT, random weights",
        "device": torch.cuda.get_device_name(setup.device) if cuda else f"CPU, {torch.get_num_threads()} threads",
        "load": None if cuda else [round(load, 1) for load in os.getloadavg()],
        "torch": torch.__version__,
        "precision": settings.precision,
        "image_size": settings.image_size,
        "views": settings.views,
        "steps_measured": settings.steps,
        "steps_an_image": setup.recipe_steps,
        "matmul_tflops": rate / 1e12,
    }


def note(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "full"), default="tiny")
    parser.add_argument("--embedded", action="store_true", help="embedded-m with its two generators instead")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32", help="of ours; the loop is float32")
    parser.add_argument("--compiled", action="store_true", help="CUDA: compile the steps of ours at once")
    parser.add_argument("--image-size", type=int, help="32 for tiny, 224 for full, 96 for embedded")
    parser.add_argument("--views", type=int, help="8, for embedded 1")
    parser.add_argument("--steps", type=int, default=8, help="measured; two at least")
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 4, 16])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of the CPU")
    parser.add_argument("--largest", type=int, default=1024, metavar="N", help="CUDA: try batches to N; 0: none")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.steps < 2:
        parser.error("--steps must be at least 2: the first one is not timed")
    configure_torch(args.threads, args.device)
    torch.use_deterministic_algorithms(False)
    with tempfile.TemporaryDirectory() as folder:
        setup = build(args, Path(folder))
    rate = matmul_rate(setup.device, args.precision)
    result = {
        **facts(args, setup, rate),
        "generators": [measure(args, setup, generator, rate) for generator in setup.generators],
    }
    print(", ".join(f"{name} {value}" for name, value in result.items() if name != "generators"), end="\n\n")
    print(table(result))
    if args.json is not None:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
