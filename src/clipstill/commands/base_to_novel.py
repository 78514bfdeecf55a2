"""The base-to-novel protocol, whole: a few labelled images of half of the classes, and all other images unlabelled.

The teacher learns prompts from images of the base classes where the settings say so, the student from all training
images without their labels, those of novel classes among them: it is transductive, and the table says so.

Source: Zhou et al., CVPR 2022 (CoCoOp), and Li et al., CVPR 2024 (PromptKD), which adds the unlabelled images.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.commands.protocol import Measured, Part, Protocol, learned_prompts, shown_photos, with_prompts
from clipstill.core.files import make_folder
from clipstill.datasets import Dataset
from clipstill.datasets.split import HALVES, half_of
from clipstill.evaluation.base_to_novel import BaseToNovel

if TYPE_CHECKING:
    from clipstill.workflow.settings import Settings


def base_to_novel(
    config: Settings,
    dataset: Dataset,
    shots: int,
    seeds: Sequence[int],
    out: Path,
    baselines: bool = True,
    unlabelled: bool = True,
) -> dict[str, BaseToNovel]:
    """Run and measure; what was measured by an equal call is there already.

    Args:
        config: of the run; ``prompt_teacher.method`` says whether the teacher learns.
        dataset: the whole, with its splits.
        shots: labelled images of each base class; 0 for none.
        seeds: one run each.
        out: a folder for the runs and what was measured.
        baselines: also the teachers without prompts, and CoOp's text prompts on the student's own tower or, where the
            student is no tower, on the teacher.
        unlabelled: let the student see the training images without their labels; else synthetic ones are all it has,
            and it is not transductive.

    Returns:
        Rows by name: baselines, the teacher with prompts where it learns, the student.

    Raises:
        ClipstillError: as a run.
    """
    make_folder(out)
    found: dict[str, list[Measured]] = {}
    for seed in seeds:
        of_seed = config.model_copy(update={"seed": seed})
        for name, measured in _rows(of_seed, dataset, shots, out, baselines, unlabelled):
            found.setdefault(name, []).append(measured)
    return {
        name: BaseToNovel(
            tuple(each["base"] for each in several),
            tuple(each["novel"] for each in several),
            transductive=unlabelled and name.startswith("student"),
        )
        for name, several in found.items()
    }


def _rows(
    config: Settings, dataset: Dataset, shots: int, out: Path, baselines: bool, unlabelled: bool
) -> Iterator[tuple[str, Measured]]:
    """What there is to measure with one seed."""
    config, shown = shown_photos(config, dataset if unlabelled else None)
    # Base labels are the first of all labels, so the same numbers name the same classes in the whole.
    few = dataset.half("base").few(shots, config.seed).folder("train") if shots else None
    labelled = None if few is None else replace(few, classes=dataset.classes)
    config = with_prompts(config, learned_prompts(config, labelled, out))
    parts: dict[str, Part] = {
        which: Part(dataset.half(which).folder("test"), tuple(half_of(len(dataset.classes), which))) for which in HALVES
    }
    protocol = Protocol(config, dataset.classes, parts, out)
    if baselines:
        yield from protocol.baselines(labelled)
    name, prompts = f"{shots}-shot-seed-{config.seed}", f"{shots}-shot prompts"
    yield from protocol.taught(shown, name, prompts, by=("base",), test_images="the base test images")
