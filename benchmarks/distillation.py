"""Training images a second: what loading and augmenting cost beside the step itself, and against a plain loop.

    python benchmarks/distillation.py --student lite0 --image-size 128 --batch 32 --steps 12
    python benchmarks/distillation.py --device cuda --teacher openclip:ViT-B-32 --student resnet18 --image-size 224 \
        --batch 256 --steps 60 --precision bf16                                  # random weights do for the time

All rows train all weights of the same student, with the same optimiser, moving average and loss:

- ``step alone``: views and the teacher's answers lie on the device already;
- ``step and teacher``: views lie there, the teacher is asked at every step;
- ``ours, cached`` and ``ours, online``: what a run does, which also draws the views;
- ``plain loop``: a PyTorch DataLoader over image files, torchvision's augmentation of one picture at a time in worker
  processes, the teacher asked at every step.

The time of a step is that of ``--steps`` further steps, so that what is paid once does not count. Rows take turns, and
a row is compared with the one measured just before it: a machine that others use is not the same a minute later. Where
that is still too rough, the last line tells how much of our own steps went into reading and drawing the views.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from clipstill.core.files import write_json
from clipstill.core.protocols import Teacher
from clipstill.core.seeds import generator_for
from clipstill.distillation import phases
from clipstill.distillation.losses import kd_loss
from clipstill.distillation.optimisation import MovingAverage, Optimiser
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distillation.views import to_unit, views_of
from clipstill.students import load_student
from clipstill.students.student import Student
from clipstill.teachers import load_teacher

_CLASSES = 10


class Files(Dataset[Tensor]):
    """Image files, one picture at a time."""

    def __init__(self, paths: list[Path], transform: Callable[[Any], Tensor]) -> None:
        self.paths, self.transform = paths, transform

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, place: int) -> Tensor:
        return self.transform(Image.open(self.paths[place]).convert("RGB"))


def seconds_a_step(step: Callable[[], object], steps: int, device: torch.device) -> float:
    """After three steps that are not counted."""
    for _ in range(3):
        step()
    _finished(device)
    start = time.monotonic()
    for _ in range(steps):
        step()
    _finished(device)
    return (time.monotonic() - start) / steps


def _finished(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def bare_step(
    student: Student, teacher: Teacher | None, vectors: Tensor, settings: DistilSettings, batches: Iterator[Tensor]
) -> Callable[[], None]:
    """One step as any loop would write it; without a teacher, its answers are those to the first batch."""
    device = vectors.device
    module: nn.Module = student.to(device).train()
    module = module.to(memory_format=torch.channels_last)  # As in a run, where it is half of the speed on a CPU.
    optimiser, average = Optimiser(module, settings, 10_000), MovingAverage(module, settings.ema)
    known = torch.randn(settings.batch, vectors.shape[1], generator=generator_for("answers")).to(device)
    count = iter(range(1_000_000))

    def step() -> None:
        x_B3HW = next(batches)
        with torch.no_grad():
            vector_BD = known if teacher is None else teacher.encode_image(x_B3HW)
        with torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bf16"):
            logits_BC = module(x_B3HW)
        loss = kd_loss(logits_BC.float(), 20 * vector_BD.float() @ vectors.T, settings.temperature).mean()
        gradients = torch.autograd.grad(loss, list(optimiser.named.values()))
        number = next(count)
        optimiser.step(dict(zip(optimiser.named, gradients, strict=True)), number)
        average.update(module, number)
        float(loss.detach())

    return step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="embedded-m")
    parser.add_argument("--student", default="lite0")
    parser.add_argument("--image-size", type=int, default=128)
    parser.add_argument("--picture-size", type=int, default=96, help="side of the stored pictures")
    parser.add_argument("--pictures", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    device = torch.device(args.device)
    teacher = load_teacher(args.teacher, device, args.precision)
    fresh = load_student(args.student, _CLASSES, "scratch", args.image_size)
    settings = DistilSettings(
        batch=args.batch,
        freeze="none",
        precision=args.precision,
        held_out_styles=0,
        checkpoint_every=10_000,
        views=max(1, 3 * args.batch // args.pictures),
    )
    shape = (args.pictures, 3, args.picture_size, args.picture_size)
    images = torch.randint(0, 256, shape, generator=generator_for("pictures"), dtype=torch.uint8)
    width = teacher.encode_image(torch.zeros(1, 3, 64, 64, device=device)).shape[1]
    vectors = nn.functional.normalize(torch.randn(_CLASSES, width, generator=generator_for("vectors")), dim=-1).to(
        device
    )

    views = views_of(settings, args.image_size)
    views_BS = views(to_unit(images[: args.batch], device), 0)

    def same() -> Iterator[Tensor]:
        while True:
            yield views_BS

    view_shares: list[float] = []
    drawing = 0.0

    def timed_views(*told: Any) -> Callable[..., Any]:
        draw = views_of(*told)

        def call(*shown: Any) -> Any:
            nonlocal drawing
            _finished(device)
            start = time.monotonic()
            drawn = draw(*shown)
            _finished(device)
            drawing += time.monotonic() - start
            return drawn

        return call

    def timed_unit(*told: Any) -> Tensor:
        nonlocal drawing
        start = time.monotonic()
        x_B3HW = to_unit(*told)
        _finished(device)
        drawing += time.monotonic() - start
        return x_B3HW

    def ours(labels: str) -> float:
        nonlocal drawing
        none = torch.zeros(args.pictures, dtype=torch.long)
        answers, data = SoftLabels(teacher, vectors), TrainingData(images, none, none)
        told = settings.changed(labels=labels)
        times = []
        with tempfile.TemporaryDirectory() as folder:
            place = Path(folder)
            if labels == "cached":  # All answers are given first.
                batches = args.pictures // args.batch * settings.views
                first = told.changed(steps=batches)
                distil(copy.deepcopy(fresh).to(device), answers, data, settings=first, folder=place)
            spent = []
            for steps in (3, 3 + args.steps):
                start, drawing = time.monotonic(), 0.0
                now = told.changed(steps=steps)
                distil(copy.deepcopy(fresh).to(device), answers, data, settings=now, folder=place)
                _finished(device)
                times.append(time.monotonic() - start)
                spent.append(drawing)
        if labels == "cached":
            view_shares.append((spent[1] - spent[0]) / (times[1] - times[0]))
        return float((times[1] - times[0]) / args.steps)

    def plain(folder: Path) -> Iterator[Tensor]:
        paths = []
        for place, image in enumerate(images):
            paths.append(folder / f"{place}.png")
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(paths[-1])
        jitter = settings.jitter
        transform = v2.Compose(
            [
                v2.ToImage(),
                v2.ColorJitter(jitter, jitter, jitter, jitter / 5),
                v2.RandomResizedCrop(args.image_size, scale=(settings.crop_min, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        loader = DataLoader(
            Files(paths, transform),
            args.batch,
            shuffle=True,
            drop_last=True,
            num_workers=args.workers,
            persistent_workers=True,
        )
        while True:
            for batch in loader:
                yield batch.to(device, non_blocking=True)

    def bare(asked: Teacher | None, batches: Iterator[Tensor]) -> float:
        return seconds_a_step(bare_step(copy.deepcopy(fresh), asked, vectors, settings, batches), args.steps, device)

    # Watched from outside, so that a run carries no clock.
    phases.views_of, phases.to_unit = timed_views, timed_unit  # type: ignore[assignment, attr-defined]
    rows: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        measure: dict[str, Callable[[], float]] = {
            "step alone": lambda: bare(None, same()),
            "ours, cached": lambda: ours("cached"),
            "step and teacher": lambda: bare(teacher, same()),
            "ours, online": lambda: ours("online"),
            "plain loop": lambda: bare(teacher, plain(Path(folder))),
        }
        for _ in range(args.rounds):
            for row, seconds_of in measure.items():
                rows.setdefault(row, []).append(seconds_of())
    print("| row | images a second | of the step beside it |\n|---|---:|---:|")
    for row, seconds in rows.items():
        beside = rows["step alone" if row in ("step alone", "ours, cached") else "step and teacher"]
        if min(seconds) <= 0:  # The time of more steps, less that of fewer.
            print(f"| {row} | too few steps to tell | |")
            continue
        share = statistics.median(other / own for other, own in zip(beside, seconds, strict=True))
        print(f"| {row} | {args.batch / statistics.median(seconds):.1f} | {100 * share:.0f} % |")
    drawing = statistics.median(view_shares)
    print(f"\nreading and drawing views: {100 * drawing:.1f} % of the time of our cached steps")
    if args.json:
        facts = {"arguments": {**vars(args), "json": str(args.json)}, "seconds_a_step": rows, "views": view_shares}
        write_json(args.json, facts)


if __name__ == "__main__":
    main()
