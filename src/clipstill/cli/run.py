"""``clipstill run``: class names in, a measured and exported classifier out; and ``clipstill demo``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_result
from clipstill.core.paths import user_path

if TYPE_CHECKING:
    from clipstill.commands.results import QuickResult, RunResult

_PACS_PHOTOS = Path("pacs/test/photo")
_PACS_CLASSES = ("dog", "elephant", "giraffe", "guitar", "horse", "house", "person")


def run(
    context: typer.Context,
    words: options.ClassWords = None,
    classes: options.Classes = "",
    out: Annotated[
        Path | None, options.path("--out", "-o", help="The run folder; named after the classes if left out.")
    ] = None,
    images: options.Images = None,
    examples: options.Examples = None,
    unlabelled: options.Unlabelled = None,
    allow_unmatched: options.AllowUnmatched = None,
    teacher: options.Teacher = None,
    generator: options.Generator = None,
    student: options.Student = None,
    budget: options.Budget = None,
    meta: Annotated[
        str | None, typer.Option(help="Meta distillation over styles: none, first_order, exact or reptile.")
    ] = None,
    recipe: options.Recipe = "default",
    launcher: Annotated[str | None, typer.Option(help="Who makes the images: local, or ray (see --address).")] = None,
    address: Annotated[
        str | None, typer.Option(help="Of the Ray cluster, such as ray://head:10001; RAY_ADDRESS, or one of its own.")
    ] = None,
    log: Annotated[
        str | None, typer.Option(help="Write curves and pictures to tensorboard, into the run folder, or to wandb.")
    ] = None,
    config: options.ConfigFile = None,
    overrides: options.Overrides = None,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Stop at a small teacher with stored class vectors, in about five seconds."),
    ] = False,
    seed: options.Seed = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Make a classifier from class names.

    Synthetic images, student, measurement, ONNX bundle and report land in one folder. The same command goes on where it
    was interrupted, and does nothing where all is done. Under torchrun every rank makes a share of the images.

    clipstill run dog cat "sea horse"

    clipstill run dog cat "sea horse" --quick

    torchrun --nproc-per-node 8 -m clipstill run classes.txt
    """
    flags = {"distillation.meta": meta, "launch.launcher": launcher, "launch.address": address, "log": log}
    settings = options.with_flags(overrides, flags)
    make = clipstill.quick if quick else clipstill.distil
    result = make(
        classes=options.classes_of(words, classes),
        out=out,
        settings=settings,
        **options.shared(context, clipstill.RunOptions),
    )
    print_run(result, as_json)


def demo(
    out: Annotated[Path, options.path("--out", "-o", help="The run folder.")] = Path("runs/demo"),
    overrides: options.Overrides = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Run everything on everyday classes.

    The photos are the seven classes of PACS below $CLIPSTILL_DATA where that is set; otherwise the few that come with
    scikit-image, scikit-learn and, where it is installed, gradio.
    """
    from clipstill.evaluation.sample_photos import sample_photos

    data = os.environ.get("CLIPSTILL_DATA")
    photos = user_path(data) / _PACS_PHOTOS if data else out.with_name(f"{out.name}-photos")
    samples = {} if data else sample_photos(photos)
    classes = tuple(samples) or _PACS_CLASSES
    result = clipstill.distil(classes=classes, out=out, images=photos, settings=overrides or (), device=device)
    print_run(result, as_json)
    if not as_json and result.evaluation is not None:
        measured = result.evaluation.student
        right = round(measured.right_and_answered * measured.n)
        print(
            f"\nShown: {len(classes)} names and no photo made a model of {result.onnx_bytes / 1e6:.1f} MB; it names "
            f"{right} of {measured.n} real photos, which it was not trained on."
        )
        origins = dict.fromkeys(origin for origins in samples.values() for origin in origins)
        print(f'Photos: {photos}, from {", ".join(origins) or data}. Yours: clipstill run --classes "dog,cat,horse"')


def print_run(result: RunResult | QuickResult, as_json: bool) -> None:
    """Print the end of a run, on the first rank alone."""
    from clipstill.core.progress import warn
    from clipstill.distributed.torchrun import rank

    if rank() != 0:
        return
    if (warning := getattr(result, "licence_warning", None)) is not None:
        warn(warning)
    print_result(result.to_json(), result.facts(), as_json)
