"""Prompt distillation at full size: what is learned, how long a step takes, what storing class vectors saves.

    python benchmarks/prompt_distillation.py --layers 3 --classes 100                       # a CPU's share of it
    python benchmarks/prompt_distillation.py --device cuda --classes 1000 --steps 30        # as published

Both CLIPs are of the published architectures with random weights: time and memory do not depend on them. Teacher and
student have the published prompts.

    python benchmarks/prompt_distillation.py --views pacs-photo=pacs/train/photo=pacs/test/photo --out runs/views

compares views that are cut from photos as they lie in their files with views of stored squares (of the student's size;
an eighth larger than the teacher's for its prompts). The recipe is promptkd-embedded, with a smaller teacher and fewer
epochs of its prompts. All photos of the first folder are labelled for the teacher and unlabelled for the student; top-1
is measured on the second one.

    python benchmarks/prompt_distillation.py --read photos/

measures how quickly views of photos are made, in which memory, from files and from stored squares.

    python benchmarks/prompt_distillation.py --starts caltech101/train=caltech101/test --out runs/starts

compares ours with the authors' code where training differs: the projector's first weights, the last part of an epoch,
and the rate of the first epoch. Every fifth class of the first folder is shown unlabelled; the teacher has no prompts.

Rows of the first two commands: ``stored`` takes the class vectors as they lie there; ``recomputed`` asks the
prompted text tower for them at every step, as the authors' code does (they report that storing makes training about
five times as fast). Frozen weights are compared bit by bit afterwards.
"""

from __future__ import annotations

import argparse
import math
import resource
import statistics
import time
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import open_clip
import torch
from cells import results_of
from torch import Tensor

from clipstill.assembly.class_vectors import task_of
from clipstill.assembly.students import new_student
from clipstill.assembly.training import open_photos, read_all
from clipstill.core.files import write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import tensor_digest
from clipstill.distillation import optimisation, phases, trainer
from clipstill.distillation.losses import kd_loss
from clipstill.distillation.prompt_tuning import tune_prompts
from clipstill.distillation.randomness import batch_rows, borrowed_generator
from clipstill.distillation.settings import ReadingSettings
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.distillation.views import Views
from clipstill.evaluation.evaluate import evaluate, student_predictor, teacher_predictor
from clipstill.students.student import Backbone, TowerStudent
from clipstill.teachers import class_vectors, load_teacher
from clipstill.teachers.image_backbones import image_backbone
from clipstill.teachers.openclip import OpenClipTeacher
from clipstill.teachers.prompted import prompted
from clipstill.text.templates import NAME_TEMPLATES, class_texts
from clipstill.workflow.recipes import load_settings

PROMPTS, DEPTH = 4, 9
CUT_FROM = ("squares", "files")
OURS, PROJECTOR, LAST_BATCH, FIRST_RATE = "ours", "projector", "last batch", "first rate"


def random_clip(architecture: str, layers: int | None, device: torch.device) -> OpenClipTeacher:
    """An architecture of open_clip with random weights, its transformers cut after some layers where that is asked."""
    model = open_clip.create_model(architecture, device=device, load_weights=False)
    if layers is not None:
        for transformer in (model.visual.transformer, model.transformer):
            transformer.resblocks = transformer.resblocks[:layers]
    size = model.visual.image_size
    side = size[0] if isinstance(size, tuple | list) else int(size)
    mean, std = open_clip.OPENAI_DATASET_MEAN, open_clip.OPENAI_DATASET_STD
    return OpenClipTeacher(
        model,
        open_clip.get_tokenizer(architecture),
        name=architecture,
        dim=int(open_clip.get_model_config(architecture)["embed_dim"]),
        dtype=torch.float32,
        preprocess=Preprocess(side, tuple(mean), tuple(std)),
        provenance=Provenance("random weights", "none", architecture),
    )


def measured(args: argparse.Namespace) -> dict[str, Any]:
    device = torch.device(args.device)
    depth = min(DEPTH, args.layers or DEPTH)
    base = random_clip(args.teacher, args.layers, device)
    teacher = prompted(base, count=PROMPTS, visual_depth=depth, text_depth=depth).to(device)
    small = random_clip(args.student, args.layers, device)
    size = small.image_size
    tower = image_backbone(small, tokens=PROMPTS, depth=depth, image_size=size)
    student = TowerStudent(Backbone("tower", tower.to("cpu"), small.preprocess), args.classes)
    names = [f"class {number}" for number in range(args.classes)]
    with torch.no_grad():
        vectors_CD = teacher.class_vectors(names)
    student.use_class_vectors(vectors_CD.cpu(), small.logit_scale, layers=2)
    student = student.to(device).train()
    student.freeze_backbone(False)
    learned = {name: value for name, value in student.named_parameters() if value.requires_grad}
    frozen = {name: value for name, value in student.named_parameters() if not value.requires_grad}
    before = tensor_digest(frozen)
    optimiser = torch.optim.SGD(list(learned.values()), lr=0.005, momentum=0.9, weight_decay=5e-4)
    draw = generator_for("images")
    x_B3HW = torch.rand(args.batch, 3, size, size, generator=draw).to(device)

    def step(recomputed: bool) -> None:
        with torch.no_grad():
            own_CD: Tensor = teacher.class_vectors(names) if recomputed else vectors_CD
            teacher_BC = base.logit_scale * teacher.encode_image(x_B3HW) @ own_CD.T
        loss = 1000 / args.classes * kd_loss(student(x_B3HW), teacher_BC, 1.0).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    def seconds(recomputed: bool) -> float:
        times = []
        for number in range(args.steps + 1):
            start = time.monotonic()
            step(recomputed)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if number:  # The first one finds its kernels and memory.
                times.append(time.monotonic() - start)
        return min(times)

    stored = seconds(recomputed=False)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resource.getrusage(0).ru_maxrss * 1024
    recomputed = seconds(recomputed=True)
    return {
        "prompts": sum(value.numel() for name, value in learned.items() if "prompts" in name),
        "projector": sum(value.numel() for name, value in learned.items() if "projector" in name),
        "learned": sum(value.numel() for value in learned.values()),
        "frozen": sum(value.numel() for value in frozen.values()),
        "frozen_unchanged": tensor_digest(frozen) == before,
        "seconds_stored": stored,
        "seconds_recomputed": recomputed,
        "ratio": recomputed / stored,
        "peak_bytes": peak,
    }


def taught(row: tuple[str, str, str, str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Top-1 in percent of a teacher and its student whose views are cut from squares or from files."""
    name, train, test, source = row
    epochs = {"prompt_teacher.epochs": args.epochs, "prompt_teacher.average_mean": 0.75 * args.epochs}
    config = load_settings("promptkd-embedded").changed(**{"teacher.name": "embedded-s", **epochs})
    names = tuple(sorted(path.name for path in Path(train).iterdir()))[: args.classes]
    shown, measured = ImageFolder.open(train, names), ImageFolder.open(test, names)
    work = args.out / "work" / f"{name}-{source}-{seed}"

    def photos(size: int) -> TrainingData:
        if source == "squares":
            pixels_N3SS, label_N = read_all(shown, Preprocess(size))
            return TrainingData(pixels_N3SS, label_N, torch.full_like(label_N, -1))
        opened = open_photos([shown], config.reading)
        label_N = torch.tensor([shown.items[place][1] for place in opened.photo_N])
        return TrainingData.of_no_class().with_photos(opened, label_N)

    torch.set_num_threads(1)
    plain, section = load_teacher(config.teacher.name, torch.device("cpu")), config.prompt_teacher
    teacher = prompted(plain, words="a", rank=section.rank, seed=seed)
    data = photos(round(plain.image_size * 8 / 7))
    tune_prompts(
        teacher, [shown.classes[label] for label in range(len(names))], data, settings=section, folder=work, seed=seed
    )
    vectors_CD = teacher.class_vectors(names).detach()
    student = new_student(config.student.changed(name=args.light), len(names), "pretrained", seed)
    student.use_class_vectors(vectors_CD, float(teacher.logit_scale), seed=seed, layers=2, width=512)
    data = photos(student.preprocess.side)
    unlabelled = TrainingData(data.pixels_M3HW, torch.full((len(data),), -1), data.style_id_N, data.photos)
    start = time.monotonic()
    labels = SoftLabels(teacher, vectors_CD)
    distil(student, labels, unlabelled, settings=config.distillation, folder=work, seed=seed)
    by_teacher = evaluate(teacher_predictor(teacher, vectors_CD), measured, teacher.preprocess)
    by_student = evaluate(student_predictor(student), measured, student.preprocess)
    seconds = time.monotonic() - start
    return {"row": row, "teacher": 100 * by_teacher.top1, "student": 100 * by_student.top1, "seconds": seconds}


def begun(row: tuple[str, str], seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """Top-1 in percent of a student of promptkd-embedded, of which one thing is as in the authors' code."""
    folders, theirs = row
    train, test = folders.split("=")
    config = load_settings("promptkd-embedded")
    names = tuple(sorted(path.name for path in Path(train).iterdir()))[::5]
    shown, measured = ImageFolder.open(train, names), ImageFolder.open(test, names)
    teacher = load_teacher(config.teacher.name, torch.device("cpu"))
    vectors_CD = class_vectors(teacher, class_texts(task_of(names), NAME_TEMPLATES))
    student = new_student(config.student.changed(name=args.light), len(names), "pretrained", seed)
    student.use_class_vectors(vectors_CD, float(teacher.logit_scale), seed=seed, layers=2, width=512)
    with ExitStack() as stack:
        if theirs == PROJECTOR:
            with borrowed_generator(seed, "projector"):
                for module in student.head.modules():
                    if isinstance(module, torch.nn.Linear):
                        module.reset_parameters()
        if theirs == LAST_BATCH:
            stack.enter_context(patch.object(phases, "batch_rows", _full_batches))
            stack.enter_context(patch.object(trainer, "math", SimpleNamespace(**{**vars(math), "ceil": math.floor})))
        if theirs == FIRST_RATE:
            stack.enter_context(patch.object(optimisation, "_FIRST_EPOCH", 1e-5 / config.distillation.head_lr))
        photos = TrainingData.of_no_class().with_photos(open_photos([shown], config.reading))
        folder = args.out / "work" / f"{theirs.replace(' ', '-')}-{seed}"
        distil(student, SoftLabels(teacher, vectors_CD), photos, settings=config.distillation, folder=folder, seed=seed)
    by_teacher = evaluate(teacher_predictor(teacher, vectors_CD), measured, teacher.preprocess)
    by_student = evaluate(student_predictor(student), measured, student.preprocess)
    return {"row": row, "teacher": 100 * by_teacher.top1, "student": 100 * by_student.top1}


def _full_batches(step: int, count: int, batch: int, seed_parts: tuple[int | str, ...]) -> Tensor:
    """As ``batch_rows``, but an epoch ends with its last full batch."""
    epoch, place = divmod(step, count // batch)
    return batch_rows(place, count, batch, (*seed_parts, epoch))


def starts(args: argparse.Namespace) -> None:
    """Print the student's top-1 for each difference, and how much it gives over ours, seed by seed."""
    rows = [(args.starts, theirs) for theirs in (OURS, PROJECTOR, LAST_BATCH, FIRST_RATE)]

    def place(row: tuple[str, str], seed: int) -> Path:
        return Path(args.out) / f"{row[1].replace(' ', '-')}-{seed}.json"

    def make(row: tuple[str, str], seed: int) -> None:
        write_json(place(row, seed), begun(row, seed, args))

    found = results_of([(row, seed) for seed in args.seeds for row in rows], place, make)
    print("| as theirs | teacher | student | minus ours |\n|---|---:|---:|---:|")
    by_row = {row[1]: [one for one in found if one["row"][1] == row[1]] for row in rows}
    for theirs, cells in by_row.items():
        gains = [b["student"] - a["student"] for a, b in zip(by_row[OURS], cells, strict=False)]
        means = [told([one[who] for one in cells]) for who in ("teacher", "student")]
        print(f"| {theirs} | {' | '.join([*means, told(gains)])} |")


def compared(args: argparse.Namespace) -> None:
    """Print the means over the seeds, and how much files give over squares, seed by seed."""
    rows = [(*text.split("="), source) for text in args.views for source in CUT_FROM]

    def place(row: tuple[str, str, str, str], seed: int) -> Path:
        return Path(args.out) / f"{row[0]}-{row[3]}-{seed}.json"

    def make(row: tuple[str, str, str, str], seed: int) -> None:
        write_json(place(row, seed), taught(row, seed, args))

    found = results_of([(row, seed) for seed in args.seeds for row in rows], place, make)
    print("| | views of | teacher | student | files - squares: teacher | student |\n|---|---|---:|---:|---:|---:|")
    for name in dict.fromkeys(row[0] for row in rows):
        of = {source: [one for one in found if (one["row"][0], one["row"][3]) == (name, source)] for source in CUT_FROM}
        for source in CUT_FROM:
            gains = [
                told([b[who] - a[who] for a, b in zip(of["squares"], of["files"], strict=False)])
                if source == "files"
                else ""
                for who in ("teacher", "student")
            ]
            means = [told([one[who] for one in of[source]]) for who in ("teacher", "student")]
            print(f"| {name} | {source} | {' | '.join([*means, *gains])} |")


def read_speed(args: argparse.Namespace) -> None:
    """Print for the first two epochs the views a second and the milliseconds of this process, and the peak memory."""
    torch.set_num_threads(1)
    draw, cpu = Views(args.size, 0.08, 0.0, "bicubic"), torch.device("cpu")
    draw(torch.rand(64, 3, args.size, args.size), "first")
    before, start = _peak_mb(), time.monotonic()
    folder, reading = ImageFolder.without_labels(args.read), ReadingSettings(workers=args.workers, cache_mb=args.cache)
    if args.squares:
        data = TrainingData.of_no_class(read_all(folder, Preprocess(args.size))[0])
    else:
        data = TrainingData.of_no_class().with_photos(open_photos([folder], reading))
    rows = [f"opened in {time.monotonic() - start:.1f} s"]
    for epoch in range(2):
        start, cpu_start = time.monotonic(), time.process_time()
        for _ in data.in_order(64, draw, cpu, ("epoch", epoch)):
            pass
        seconds, own = time.monotonic() - start, time.process_time() - cpu_start
        rows.append(f"{len(data) / seconds:.0f} views/s, {1000 * own / len(data):.2f} ms")
    print("; ".join([*rows, f"{_peak_mb() - before} MB more"]))


def _peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def told(values: list[float]) -> str:
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}" if len(values) > 1 else str(values)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--teacher", default="ViT-L-14")
    parser.add_argument("--student", default="ViT-B-16")
    parser.add_argument("--layers", type=int, help="of every transformer, instead of all")
    parser.add_argument("--classes", type=int, default=100)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--views", nargs="+", default=[], metavar="NAME=TRAIN=TEST")
    parser.add_argument("--light", default="lite0", help="student of --views and --starts")
    parser.add_argument("--epochs", type=int, default=5, help="of the prompts of --views")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="of --views and --starts")
    parser.add_argument("--starts", metavar="TRAIN=TEST")
    parser.add_argument("--out", type=Path, default=Path("runs/views"), help="of --views and --starts")
    parser.add_argument("--read", type=Path)
    parser.add_argument("--size", type=int, default=224, help="of the views of --read")
    parser.add_argument("--workers", type=int, default=0, help="of --read")
    parser.add_argument("--cache", type=int, default=1000, help="megabytes, of --read")
    parser.add_argument("--squares", action="store_true", help="store squares, for --read")
    args = parser.parse_args()
    if args.views:
        compared(args)
        return
    if args.starts:
        starts(args)
        return
    if args.read:
        read_speed(args)
        return
    found = measured(args)
    print(f"| | {args.teacher} -> {args.student}, batch {args.batch}, {args.classes} classes |\n|---|---:|")
    for name, value in found.items():
        print(f"| {name.replace('_', ' ')} | {f'{value:.3g}' if isinstance(value, float) else value} |")
    if args.json:
        write_json(args.json, {"arguments": {**vars(args), "json": str(args.json)}, **found})


if __name__ == "__main__":
    main()
