"""What each way of teaching does for the student: losses, meta distillation, heads, starts. One table each.

    python benchmarks/students.py RUN... --photos photo=DIR art=DIR --tables losses meta --out runs/students

    python benchmarks/students.py RUN... --photos ... --tables images --unlabelled DIR... --out runs/students

RUNs are folders that ``clipstill run`` made, one a seed: their teacher, class vectors and synthetic images are used, so
that all rows differ in the teaching alone. Rows: ``losses`` are those of Wei et al. (ICLR 2025), Table 1; ``meta`` also
has the time of a step and the highest memory of a process that did nothing else. ``images`` teaches as PromptKD does,
by synthetic images, or by as many unlabelled photos of ``--unlabelled``, or by all of them. A student that is there is
not taught again, also where another table has the same row, so the command may be interrupted; started side by side for
different runs, it shares the work.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from quality import Run

from clipstill.assembly.training import read_all
from clipstill.core.files import read_json, write_json
from clipstill.core.image_folder import ImageFolder, iterate
from clipstill.core.protocols import Preprocess, Teacher
from clipstill.core.tensors import tensor_digest
from clipstill.distillation.checkpoint import load_state, save_state
from clipstill.distillation.soft_labels import SoftLabels
from clipstill.distillation.trainer import distil
from clipstill.distillation.training_data import TrainingData
from clipstill.students import load_student
from clipstill.students.student import Student
from clipstill.workflow.photos import limited
from clipstill.workflow.recipes import load_settings

# PromptKD's teaching of a light student, with the loss's weight of ordinary distillation.
_PROMPTKD = {"recipe": "promptkd-embedded", "kd_per_class": False, "kd_weight": 1.0}
# Row -> what differs: settings of distillation, and those of the student under "student."; "recipe" sets all of them
# before that, and "images" says what is taught on.
TABLES: dict[str, dict[str, dict[str, Any]]] = {
    "losses": {
        "CE": {"loss": "ce"},
        "KD": {},
        "CE + KD": {"loss": "ce+kd"},
        "meta CE + KD": {"loss": "ce+kd", "meta": "exact"},
        "meta KD": {"meta": "exact"},
    },
    "meta": {
        "none": {},
        "first order": {"meta": "first_order"},
        "exact": {"meta": "exact"},
        "reptile": {"meta": "reptile"},
    },
    # The same with all weights in training, where a step is dear: for its time and memory, after few steps.
    "meta-all": {
        "none": {"freeze": "bn"},
        "first order": {"freeze": "bn", "meta": "first_order"},
        "exact": {"freeze": "bn", "meta": "exact"},
        "reptile": {"freeze": "bn", "meta": "reptile"},
    },
    "heads": {
        "linear": {},
        "class vectors": {"student.head": "class-vectors"},
    },
    "starts": {
        "pretrained, head alone": {},
        "pretrained, all weights, BN kept": {"freeze": "bn", "head_steps": 300},
        "pretrained, all weights": {"freeze": "none", "head_steps": 300},
        "scratch": {"student.init": "scratch", "freeze": "none", "lr": 2e-3, "head_lr": 2e-3, "crop_min": 0.5},
    },
    # Which weights are kept, without a label.
    "choice": {
        "agreement on two held-out styles": {},
        "loss on them": {"keep": "loss"},
        "the last, nothing held out": {"keep": "last", "held_out_styles": 0},
    },
    "views": {
        "as it is": {},
        "three times the views": {"views": 12},
    },
    "images": {
        "synthetic images": {**_PROMPTKD, "images": "synthetic"},
        "as many unlabelled photos": {**_PROMPTKD, "images": "as many"},
        "all unlabelled photos": {**_PROMPTKD, "images": "all"},
    },
}


def teach(
    folder: Path,
    changes: dict[str, Any],
    steps: dict[str, int],
    photos: dict[str, Path],
    unlabelled: list[Path],
    work: Path,
) -> Any:
    """One student, and what it does."""
    run = Run(folder)
    changes = dict(changes)
    recipe, kind = changes.pop("recipe", None), changes.pop("images", "synthetic")
    section, settings = run.config["student"], run.settings
    if recipe is not None:
        config = load_settings(recipe)
        own = config.student.model_dump(include={"head", "projector_layers", "projector_width", "image_size"})
        section, settings = {**section, **own}, config.distillation
    section = {**section, **{k.partition(".")[2]: v for k, v in changes.items() if "." in k}}
    settings = settings.changed(**{k: v for k, v in changes.items() if "." not in k})
    if settings.freeze != "backbone" and "all" in steps:
        settings = settings.changed(steps=steps["all"])
    elif "head" in steps:
        settings = settings.changed(steps=steps["head"])
    teacher, made = run.teacher(), run.surrogate()
    labels = SoftLabels(teacher, run.vectors)
    data = TrainingData(made.pixels_N3HW, made.class_id_N, made.style_id_N)
    if kind != "synthetic":
        data = real(unlabelled, len(made) if kind == "as many" else None, section["image_size"], run.seed)
    if settings.freeze == "backbone":
        # The cache of features is made first, so that the time is that of the steps.
        once = settings.changed(steps=1)
        distil(built(run, section, teacher), labels, data, settings=once, folder=work, seed=run.seed)
    student = built(run, section, teacher)
    start = time.monotonic()
    result = distil(student, labels, data, settings=settings, folder=work, seed=run.seed)
    seconds = time.monotonic() - start
    aligned = [entry["alignment"] for entry in result.history if entry["alignment"] is not None]
    # Of each phase the last one told; the settings count epochs or minutes, too.
    done = {entry["phase"]: entry["step"] for entry in result.history}
    return {
        "photos": {
            name: top1(student, ImageFolder.open(path, run.labels), work.parent) for name, path in photos.items()
        },
        "agreement": result.best_agreement,
        "alignment": statistics.mean(aligned) if aligned else None,
        "ms_step": round(1000 * seconds / sum(done.values()), 1),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def real(folders: list[Path], count: int | None, size: int, seed: int) -> TrainingData:
    """Unlabelled photos as the trainer takes them: pictures, and no class and no style of any."""
    parts = []
    for folder in folders:
        share = None if count is None else count // len(folders)
        parts.append(read_all(limited(ImageFolder.without_labels(folder), share, seed), Preprocess(size))[0])
    pixels_N3HW = torch.cat(parts)
    none_N = torch.full((len(pixels_N3HW),), -1)
    return TrainingData(pixels_N3HW, none_N, none_N)


@torch.no_grad()
def top1(student: Student, folder: ImageFolder, work: Path) -> float:
    """In percent. What a backbone makes of the photos is kept: most rows of a table share theirs."""
    key = tensor_digest(student.backbone.state_dict())[:16] + f"-{student.preprocess.size}-{folder.path.name}"
    place = work / f"{key}-{folder.path.parent.name}.safetensors"
    saved = load_state(place, key)
    if saved is None:
        student.eval()
        fit = student.preprocess
        parts, labels = [], []
        for pixels_NHW3, found in iterate(folder, fit, 32):
            parts.append(student.features(torch.from_numpy(pixels_NHW3).permute(0, 3, 1, 2).float() / 255))
            labels += found
        save_state(place, {"features": torch.cat(parts), "labels": torch.tensor(labels)}, {"key": key})
        saved = load_state(place, key)
        assert saved is not None
    right_N = student.head(saved.tensors["features"]).argmax(1) == saved.tensors["labels"]
    return round(100 * float(right_N.float().mean()), 1)


def slug(changes: dict[str, Any]) -> str:
    """The same for the same changes, whatever the row is called."""
    return "-".join(re.sub("[^a-z0-9.]+", "-", f"{name} {value}") for name, value in changes.items()) or "as-it-is"


def built(run: Run, section: dict[str, Any], teacher: Teacher) -> Student:
    """A student as a run would start with it."""
    student = load_student(section["name"], len(run.labels), section["init"], section["image_size"], seed=run.seed)
    if section.get("head") == "class-vectors":
        shape = {"layers": section.get("projector_layers", 1), "width": section.get("projector_width", 0)}
        student.use_class_vectors(run.vectors, float(teacher.logit_scale), seed=run.seed, **shape)
    return student


def table(rows: dict[str, list[dict[str, Any]]], photos: list[str]) -> str:
    """Markdown: mean and standard deviation over the runs."""
    lines = [
        f"| row | {' | '.join(photos)} | mean | alignment | ms a step | MB |",
        "|---|" + "---:|" * (len(photos) + 4),
    ]
    for row, found in rows.items():
        columns = [[one["photos"][name] for one in found] for name in photos]
        columns.append([statistics.mean(values) for values in zip(*columns, strict=True)])
        cells = [f"{statistics.mean(each):.1f} ± {_spread(each):.1f}" for each in columns]
        aligned = [one["alignment"] for one in found if one["alignment"] is not None]
        told = f"{statistics.mean(aligned):.2f}" if aligned else ""
        speed = statistics.median(one["ms_step"] for one in found)
        memory = statistics.median(one["peak_mb"] for one in found)
        lines.append(f"| {row} | {' | '.join(cells)} | {told} | {speed:.1f} | {memory:.0f} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--photos", nargs="+", required=True, metavar="NAME=DIR")
    parser.add_argument("--tables", nargs="+", default=list(TABLES), choices=list(TABLES))
    parser.add_argument("--unlabelled", nargs="+", type=Path, default=[], metavar="DIR", help="for the table images")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--head-steps", type=int, help="of heads alone, instead of the runs' own")
    parser.add_argument("--all-steps", type=int, help="of all weights, instead of the runs' own")
    args = parser.parse_args()
    photos = {name: Path(folder) for name, _, folder in (item.partition("=") for item in args.photos)}
    if not args.unlabelled and "images" in args.tables:
        args.tables = [name for name in args.tables if name != "images"]
        print("the table images needs --unlabelled, and is left out", file=sys.stderr)
    steps = {name: value for name, value in (("head", args.head_steps), ("all", args.all_steps)) if value}
    for name in args.tables:
        rows: dict[str, list[dict[str, Any]]] = {}
        for row, changes in TABLES[name].items():
            for folder in args.runs:
                place = args.out / f"{slug(changes)}-{folder.name}.json"
                if not place.exists():
                    # A process of its own, so that its highest memory is this row's.
                    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as alone:
                        work = args.out / "work" / folder.name
                        write_json(
                            place, alone.submit(teach, folder, changes, steps, photos, args.unlabelled, work).result()
                        )
                    print(f"{name}: {row}, {folder.name}: done", file=sys.stderr, flush=True)
                rows.setdefault(row, []).append(read_json(place))
        print(f"\n{name}\n\n{table(rows, list(photos))}")


if __name__ == "__main__":
    main()
