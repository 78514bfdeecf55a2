"""The baseline ladder of a finished run, on any photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipstill.core.device import make_deterministic
from clipstill.core.errors import ConfigError, did_you_mean
from clipstill.core.images import ImageFolder
from clipstill.evaluation.ladder import RUNGS, Ladder
from clipstill.stages import STAGES
from clipstill.stages.ladder import LadderInputs, measure_rungs
from clipstill.workflow.photos import Photos, limited, refuse_overlap
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.store import CONFIG_FILE, read_run_marker

LADDER_FOLDER = "ladder"


@dataclass(frozen=True)
class LadderRequest:
    """What to measure."""

    run: Path  # A finished run folder.
    images: Path  # Photos to measure on, one sub-folder a class.
    examples: Path | None = None
    shots: int | None = None  # Most of them a class, drawn by the run's seed; None for all.
    unlabelled: Path | None = None
    rungs: Sequence[str] = ()  # Names of rungs; all where empty.
    small_teacher: str | None = None  # Teacher of the rung without training; that of the run's settings where None.
    # Folder that keeps what is made for the next call; ``ladder`` in the run folder where None.
    out: Path | None = None
    device: str | None = None  # Device of the teachers; that of the run's settings where None.


def measure_ladder(request: LadderRequest) -> Ladder:
    """Measure the ladder of a finished run on photos. An interrupted call is continued.

    Raises:
        ArtifactError: The folder is no finished run.
        ConfigError: There is no such rung or device.
        UnknownNameError: There is no such teacher.
        DataError: A folder of photos is missing, empty or fits none of the classes, or photos lie in two folders.
    """
    from clipstill.teachers import resolve_teachers

    for name in request.rungs:
        if name not in RUNGS:
            hint = did_you_mean(name, RUNGS)
            raise ConfigError(f"no rung is named '{name}'.{hint} All of them: {', '.join(RUNGS)}.")
    read_run_marker(request.run)
    values: dict[str, Any] = {} if request.device is None else {"device": request.device}
    if request.small_teacher is not None:
        values["evaluation"] = {"small_teacher": request.small_teacher}
    settings = load_settings(file=request.run / CONFIG_FILE, values=values)
    run = Run.open(request.run, STAGES, settings, Photos())
    photos = ImageFolder.open(request.images, run.task.names)
    unlabelled = None
    if request.examples is not None:
        refuse_overlap(ImageFolder.open(request.examples, run.task.names), request.images)
    if request.unlabelled is not None:
        unlabelled = limited(ImageFolder.without_labels(request.unlabelled), settings.unlabelled.limit, settings.seed)
        refuse_overlap(unlabelled, request.images)
    resolve_teachers(settings.small_teacher)
    make_deterministic(run.store.threads)
    inputs = LadderInputs(
        photos, settings.small_teacher, request.examples, shots=request.shots, unlabelled=unlabelled, slow=True
    )
    place = request.run / LADDER_FOLDER if request.out is None else request.out
    found = measure_rungs(run, inputs, place, request.rungs or RUNGS)
    return Ladder.of(found, run.task.names)
