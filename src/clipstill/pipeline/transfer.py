"""One source of labels, measured on other data sets: cross-data-set transfer and domain generalisation.

The teacher learns prompts from a few labelled images of all classes of the source. The student sees the unlabelled
training images of each target (so it is transductive, and there is a student a target), or those of the source, or
synthetic images alone; with the source's images one student serves all targets, whose classes must be among its own.

Source: Zhou et al., CVPR 2022 (CoCoOp), for the protocols; Li et al., CVPR 2024 (PromptKD), whose student is trained on
the unlabelled images of the target.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError, DataError
from clipstill.core.files import sha256_json, write_json
from clipstill.core.images import ImageFolder
from clipstill.datasets import Dataset, without_labels
from clipstill.evaluation.transfer import Seen, Transfer
from clipstill.pipeline.protocol import Measured, Part, Protocol
from clipstill.pipeline.run import Photos, run_until_student
from clipstill.text.task import parse_task

if TYPE_CHECKING:
    from clipstill.pipeline.config import RunConfig


def transfer(
    config: RunConfig,
    source: Dataset,
    targets: Sequence[Dataset],
    shots: int,
    seeds: Sequence[int],
    out: Path,
    unlabelled: Seen = "target",
    baselines: bool = True,
) -> dict[str, Transfer]:
    """Run and measure; what was measured by an equal call is there already.

    Args:
        config: of the runs; ``prompt_teacher.method`` says whether the teacher learns.
        source: of the labels.
        targets: what is measured on, by their test images; their names differ.
        shots: labelled images of each class of the source; 0 for none.
        seeds: one run each, or one for each target.
        out: a folder for the runs and what was measured.
        unlabelled: whose training images the student sees.
        baselines: also the teachers without prompts, and CoOp's text prompts.

    Returns:
        Rows by name, each with a column a target.

    Raises:
        ConfigError: two targets of one name.
        DataError: a target has classes that a student of the source does not know.
        ClipstillError: as a run.
    """
    names = [target.name for target in targets]
    if len(set(names)) < len(names):
        raise ConfigError(f"two targets are called '{max(names, key=names.count)}'. Give their folders other names.")
    if unlabelled == "source":
        students = [(source.classes, source, tuple(targets))]
    else:
        # Targets of the same classes share a student where it sees none of their images.
        groups = {
            (target.classes, target.name if unlabelled == "target" else ""): target.classes for target in targets
        }
        students = [
            (classes, target_of(targets, key), tuple(each for each in targets if _belongs(each, key)))
            for key, classes in groups.items()
        ]
    return {}
