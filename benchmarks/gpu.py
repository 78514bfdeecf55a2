"""How busy a GPU is kept: images and training pictures a second, shares of its matmul rate, memory, in one JSON file.

    PYTHONPATH=src python benchmarks/gpu.py --json gpu.json                  # the device, in full: 8 minutes at most
    PYTHONPATH=src python benchmarks/gpu.py --limit smoke --device cpu       # tiny networks: whether it runs at all

All weights are random, those of the real architectures: nothing is downloaded, and speed does not depend on what
weights hold. torch, timm, open_clip, kornia, safetensors and, for the VQGAN, diffusers are needed. After each part the
file is written anew, so that a run that is stopped keeps what it measured; a part that fails leaves its error there.

- ``synthesis``: a VQGAN f16-16384 and ViT-B-32 at 224 pixels and 8 views, as ``benchmarks/synthesis.py`` measures them:
  ours as a run begins and with compiled steps, against the one-image loop that public tools run, in the same process.
- ``embedded``: the same with ``embedded-m`` at 96 pixels, as the default makes images.
- ``distillation``: all weights of a ResNet-18 at 224 pixels, views drawn and ViT-B-32 asked at each step.
- ``promptkd``: the prompts of a ViT-B-16 tower at 1,000 classes, taught by a ViT-L-14 at each step.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn import functional as F

import synthesis
from clipstill.assembly.students import new_student
from clipstill.core import compiled
from clipstill.core.cores import usable_cores
from clipstill.core.device import configure_torch, precision_on, versions
from clipstill.core.files import write_json
from clipstill.core.seeds import generator_for
from clipstill.distillation.optimisation import MovingAverage, Optimiser, plain_gradient
from clipstill.distillation.phases import AllPhase
from clipstill.distillation.settings import DistilSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.training_data import Setup, TrainingData
from clipstill.students.settings import StudentSettings
from clipstill.teachers import load_teacher

# Of the whole script; a part that would begin later is left out.
_LIMIT_S = 330.0
PARTS = ("synthesis", "distillation", "embedded", "promptkd")
EAGER, COMPILED = float("inf"), 0.0


def synthesis_rows(args: argparse.Namespace, rate: float, *, embedded: bool) -> dict[str, Any]:
    """What ``benchmarks/synthesis.py`` measures of each generator, eager and compiled, and their ratio to the loop."""
    full = args.limit == "full"
    told = argparse.Namespace(
        size="full" if full else "tiny",
        embedded=embedded,
        device=args.device,
        precision=precision_on(torch.device(args.device), "auto"),
        compiled=False,
        image_size=None if full else 32,
        views=None if full else 2,
        steps=12 if full else 2,
        batches=([28, 112] if embedded else [32]) if full else [2],
        repeats=3 if full else 1,
        largest=0,
    )
    with tempfile.TemporaryDirectory() as folder:
        setup = synthesis.build(told, Path(folder))
    found = {}
    for generator in setup.generators:
        eager = synthesis.measure(told, setup, generator, rate)
        rows = {"loop": eager["loop"], "eager": eager["batches"]}
        rows["flops_an_image_and_step"] = eager["flops_an_image_and_step"]
        if args.device != "cpu":
            loop = synthesis.Timing(eager["loop"]["step_ms"] / 1000, 0.0, 1)
            again = argparse.Namespace(**{**vars(told), "compiled": True, "batches": told.batches[:1]})
            rows["compiled"] = synthesis.measure(again, setup, generator, rate, loop)["batches"]
        found[generator.name] = rows
    return found


def training_rows(args: argparse.Namespace, phase: AllPhase, settings: DistilSettings) -> dict[str, Any]:
    """Seconds of a step, pictures a second and peak memory of a phase, eager and compiled."""
    rows: dict[str, Any] = {}
    ways = {"eager": EAGER} if args.device == "cpu" else {"eager": EAGER, "compiled": COMPILED}
    optimiser, average = Optimiser(phase.learner, settings, 10_000), MovingAverage(phase.learner, settings.ema)
    steps, number = (30, 0) if args.limit == "full" else (2, 0)

    def take(count: int) -> float:
        nonlocal number
        _wait(args.device)
        began = time.perf_counter()
        for _ in range(count):
            phase.learner.train()
            gradient = plain_gradient(phase, optimiser.named, number, optimiser.rate(number))
            optimiser.step(gradient.values, number)
            average.update(phase.learner, number)
            number += 1
        _wait(args.device)
        return time.perf_counter() - began

    for way, after_s in ways.items():
        compiled.COMPILE_AFTER_S = after_s
        warm_s = take(3)
        if args.device != "cpu":
            torch.cuda.reset_peak_memory_stats()
        step_s = take(steps) / steps
        memory = None if args.device == "cpu" else torch.cuda.max_memory_allocated() / 2**20
        rows[way] = {
            "step_ms": 1000 * step_s,
            "pictures_a_second": settings.batch / step_s,
            "first_three_steps_s": warm_s,
            "peak_mib": memory,
        }
    return rows


def _phase(
    args: argparse.Namespace, teacher: str, section: StudentSettings, init: str, settings: DistilSettings, classes: int
) -> AllPhase:
    device = torch.device(args.device)
    settings = settings.changed(precision=precision_on(device, settings.precision))
    student = new_student(section, classes, init, 0).to(device).to(memory_format=torch.channels_last)
    asked = load_teacher(teacher, device, "auto")
    vectors_CD = F.normalize(torch.randn(classes, asked.dim, generator=generator_for("classes")), dim=1)
    if section.head == "class-vectors":
        student.use_class_vectors(
            vectors_CD, float(asked.logit_scale), layers=section.projector_layers, width=section.projector_width
        )
        student.to(device)
    side = section.image_size
    pixels = torch.randint(0, 256, (2 * settings.batch, 3, side, side), generator=generator_for("x"), dtype=torch.uint8)
    data = TrainingData.of_no_class(pixels).on(device)
    labels = SoftLabels(asked, vectors_CD.to(device))
    setup = Setup(student, labels, data, data.where(torch.zeros(len(data), dtype=torch.bool)), settings, Path(), 0)
    return AllPhase(setup)


def distillation(args: argparse.Namespace) -> dict[str, Any]:
    full = args.limit == "full"
    settings = DistilSettings(batch=256 if full else 4, freeze="none", held_out_styles=0)
    section = StudentSettings(name="timm:resnet18", image_size=224 if full else 64, init="scratch")
    with tempfile.TemporaryDirectory() as folder:
        teacher = synthesis.random_clip(full, Path(folder))
        phase = _phase(args, teacher, section, "scratch", settings, 10)
    return training_rows(args, phase, settings)


def promptkd(args: argparse.Namespace) -> dict[str, Any]:
    """The recipe's step, at the published batch of 8 and at 128, in the recipe's fp32 and in bf16."""
    full, rows = args.limit == "full", {}
    ways: tuple[tuple[int, Literal["auto", "fp32"]], ...] = ((8, "fp32"), (8, "auto"), (128, "auto"))
    with tempfile.TemporaryDirectory() as folder:
        teacher = synthesis.random_clip(full, Path(folder), "ViT-L-14")
        tower = synthesis.random_clip(full, Path(folder), "ViT-B-16")
        for batch, precision in ways if full else ((2, ways[1][1]),):
            settings = DistilSettings(
                batch=batch,
                freeze="bn",
                optimiser="momentum",
                temperature=1.0,
                kd_weight=1000.0,
                kd_per_class=True,
                jitter=0.0,
                kernel="bicubic",
                ema=0.0,
                held_out_styles=0,
                precision=precision,
            )
            section = StudentSettings(
                name=f"tower:{tower}",
                head="class-vectors",
                projector_layers=2,
                prompts=4,
                prompt_depth=9 if full else 2,
                image_size=224 if full else 32,
            )
            phase = _phase(args, teacher, section, "pretrained", settings, 1000 if full else 20)
            rows[f"batch {batch}, {precision}"] = training_rows(args, phase, settings)
    return rows


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", choices=("full", "smoke"), default="full")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    began = time.monotonic()
    configure_torch(usable_cores(), args.device)
    device = torch.device(args.device)
    precision = precision_on(device, "auto")
    rate = synthesis.matmul_rate(device, precision)
    name = torch.cuda.get_device_name(device) if args.device != "cpu" else "CPU"
    result: dict[str, Any] = {**versions(), "device": name, "precision": precision, "matmul_tflops": rate / 1e12}
    print(f"{name}, {precision}: {rate / 1e12:.2f} TFLOP/s of square products")
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "synthesis": lambda: synthesis_rows(args, rate, embedded=False),
        "distillation": lambda: distillation(args),
        "embedded": lambda: synthesis_rows(args, rate, embedded=True),
        "promptkd": lambda: promptkd(args),
    }
    for part in args.parts:
        start = time.monotonic()
        try:
            result[part] = parts[part]() if start - began < _LIMIT_S else {"left_out": "no time was left"}
        except Exception as error:  # The other parts are worth their time all the same.
            traceback.print_exc()
            result[part] = {"error": f"{type(error).__name__}: {error}"}
        result[f"{part}_s"] = round(time.monotonic() - start, 1)
        print(f"{part}: {result[part]}", flush=True)
        if args.json:
            write_json(args.json, result)
    print(f"{time.monotonic() - began:.0f} s in all")


if __name__ == "__main__":
    main()
