"""The base-to-novel protocol: a few labelled images of half of the classes, and all other images unlabelled.

The teacher learns prompts from images of the base classes where the settings say so. The student sees all training
images without their labels, those of novel classes among them: it is transductive, and the table says so.

Source: Zhou et al., CVPR 2022 (CoCoOp), and Li et al., CVPR 2024 (PromptKD), which adds the unlabelled images.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from clipstill.commands.protocol import (
    Accuracies,
    Part,
    Protocol,
    ProtocolRequest,
    prompts_of,
    with_photos,
    with_prompts,
)
from clipstill.core.files import make_folder
from clipstill.datasets import Dataset
from clipstill.datasets.split import HALVES, half_of, refuse_shown
from clipstill.evaluation.protocols import BaseToNovel
from clipstill.workflow.settings import Settings


def base_to_novel(
    settings: Settings, dataset: Dataset, request: ProtocolRequest, *, unlabelled: bool = True
) -> dict[str, BaseToNovel]:
    """Run and measure, a row by name for the baselines, the teacher where it learns prompts, and the student.

    What an equal call measured is not measured again. The shots are labelled images of each base class. Unless
    ``unlabelled``, the student has synthetic images alone and is not transductive.
    """
    if request.shots:
        refuse_shown(dataset, [dataset])
    make_folder(request.out)
    found: dict[str, list[Accuracies]] = {}
    for seed in request.seeds:
        for name, accuracies in _rows(settings.changed(seed=seed), dataset, request, unlabelled):
            found.setdefault(name, []).append(accuracies)
    return {
        name: BaseToNovel(
            tuple(each["base"] for each in several),
            tuple(each["novel"] for each in several),
            transductive=unlabelled and name.startswith("student"),
        )
        for name, several in found.items()
    }


def _rows(
    settings: Settings, dataset: Dataset, request: ProtocolRequest, unlabelled: bool
) -> Iterator[tuple[str, Accuracies]]:
    """What there is to measure with one seed."""
    settings, photos = with_photos(settings, dataset if unlabelled else None, request.photos_per_class)
    shots, labelled = request.shots, None
    if shots:
        # Base labels are the first of all labels, so the same numbers name the same classes in the whole.
        few = dataset.half("base").few(shots, settings.seed).folder("train")
        labelled = replace(few, classes=dataset.classes)
    prompts = prompts_of(settings, shots)
    settings = with_prompts(settings, settings, labelled, request.out)
    parts: dict[str, Part] = {
        which: Part(dataset.half(which).folder("test"), tuple(half_of(len(dataset.classes), which))) for which in HALVES
    }
    protocol = Protocol(settings, dataset.classes, parts, request.out)
    if request.baselines:
        yield from protocol.baselines(labelled)
    name, test_images = f"{prompts.partition(' ')[0]}-seed-{settings.seed}", "the base test images"
    yield from protocol.trained(photos, name=name, prompts=prompts, chosen_by=["base"], test_images=test_images)
