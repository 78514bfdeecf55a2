"""Few-shot curves: a network that starts distilled, pretrained or from scratch learns the labels of a few images.

It is measured on the images that the largest number of labelled ones leaves over, so that all points of a curve have
the same test images.

Source: Xuan et al., ACM MM 2023, Fig. 5; their procedure is not known.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.commands.protocol import Accuracies, Part, Protocol, ProtocolRequest, with_photos
from clipstill.core.file_names import STUDENT_FILE
from clipstill.core.files import make_folder, read_manifest
from clipstill.datasets import Dataset
from clipstill.distributed import torchrun
from clipstill.evaluation.evaluate import PredictLogits, student_predictor
from clipstill.stages import student as student_stage
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import Settings

if TYPE_CHECKING:
    from clipstill.core.image_folder import ImageFolder
    from clipstill.core.protocols import Preprocess

# Start -> its first weights, None for those of the distilled student, and what differs from the recipe fine-tune. A
# pretrained backbone is frozen: a few photos would overfit it.
STARTS: dict[str, tuple[str | None, dict[str, Any]]] = {
    "distilled": (None, {"freeze": "backbone"}),
    "ImageNet": ("pretrained", {"freeze": "backbone"}),
    "scratch": ("scratch", {"freeze": "none", "lr": 1e-3, "head_lr": 1e-3}),
}


def few_shot(
    settings: Settings, dataset: Dataset, request: ProtocolRequest, *, counts: Sequence[int], start: str
) -> Accuracies:
    """Top-1 in percent by the number of labelled images per class, with the first seed of the request.

    The distilled student learned from synthetic images of the class names alone. Without labelled images only that one
    is measured.
    """
    seed = request.seeds[0]
    settings, _ = with_photos(settings.changed(seed=seed), None)
    shown = {path for path, _ in dataset.few(max(counts), seed).train}
    rest = replace(dataset, test=tuple(item for item in dataset.test if item[0] not in shown))
    part = Part(rest.folder("test"), tuple(range(len(dataset.classes))))
    protocol = Protocol(settings, dataset.classes, {"test": part}, request.out)
    make_folder(request.out)
    init, changes = STARTS[start]
    origin: list[Any] = [init, settings.student.model_dump(mode="json")]
    if init is None:
        stages, _ = protocol.run(None, name=f"synthetic-0-shot-seed-{seed}")
        folder = stages / student_stage.NAME
        manifest = read_manifest(folder)
        init, origin = str(folder / STUDENT_FILE), [manifest and manifest.key]
    tuning = load_settings("fine-tune").changed(seed=seed, device=settings.device, threads=settings.threads)
    # A student of few steps is tuned in few steps.
    changes = {**changes, "steps": min(tuning.distillation.steps, settings.distillation.steps)}
    tuning = tuning.changed(**{f"distillation.{name}": value for name, value in changes.items()})
    tuning = tuning.changed(student=settings.student.model_dump(), reading=settings.reading.model_dump())
    found = {}
    for count in counts:
        if not count and start != "distilled":
            continue
        labelled = dataset.few(count, seed).folder("train")
        files = [str(path) for path, _ in labelled.items]
        identity = ["few-shot", *origin, tuning.distillation.model_dump(mode="json"), seed, files]
        found[str(count)] = protocol.measured_once(identity, partial(_tuned, tuning, labelled, init))["test"]
    return found


def _tuned(settings: Settings, labelled: ImageFolder, init: str) -> tuple[PredictLogits, Preprocess]:
    from clipstill.assembly.fine_tuning import open_examples, tune
    from clipstill.assembly.students import new_student
    from clipstill.core.device import configure_torch

    threads = settings.threads or torchrun.threads_of_this_process()
    configure_torch(threads, settings.device, settings.deterministic)
    start = init if init in ("pretrained", "scratch") else Path(init)
    student = new_student(settings.student, len(labelled.classes), start, settings.seed)
    if labelled.items:
        student = tune(student, settings, open_examples(labelled, settings))
    return student_predictor(student.cpu()), student.preprocess
