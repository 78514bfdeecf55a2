"""Prompt distillation at full size: what is learned, how long a step takes, what storing class vectors saves.

    python benchmarks/prompt_distillation.py --layers 3 --classes 100                       # a CPU's share of it
    python benchmarks/prompt_distillation.py --device cuda --classes 1000 --steps 30        # as published

Both CLIPs are of the published architectures with random weights: time and memory do not depend on them. Teacher and
student have the published prompts. Rows: ``stored`` takes the class vectors as they lie there; ``recomputed`` asks the
prompted text tower for them at every step, as the authors' code does (they report that storing makes training about
five times as fast). Frozen weights are compared bit by bit afterwards.
"""

from __future__ import annotations

import argparse
import resource
import time
from pathlib import Path
from typing import Any

import open_clip
import torch
from torch import Tensor

from clipstill.core.files import write_json
from clipstill.core.protocols import Preprocess, Provenance
from clipstill.core.seeds import generator_for
from clipstill.core.tensors import tensor_digest
from clipstill.distillation.losses import kd_loss
from clipstill.students.student import Backbone, TowerStudent
from clipstill.teachers.image_backbones import image_backbone
from clipstill.teachers.openclip import OpenClipTeacher
from clipstill.teachers.prompted import prompted

PROMPTS, DEPTH = 4, 9


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
    args = parser.parse_args()
    found = measured(args)
    print(f"| | {args.teacher} -> {args.student}, batch {args.batch}, {args.classes} classes |\n|---|---:|")
    for name, value in found.items():
        print(f"| {name.replace('_', ' ')} | {f'{value:.3g}' if isinstance(value, float) else value} |")
    if args.json:
        write_json(args.json, {"arguments": {**vars(args), "json": str(args.json)}, **found})


if __name__ == "__main__":
    main()
