"""The baseline ladder of a finished run, on any photos."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipstill.assembly.photos import limited, refuse_overlap
from clipstill.commands.run import BUNDLE_FOLDER
from clipstill.core.device import make_deterministic
from clipstill.core.errors import ArtifactError, ConfigError, did_you_mean
from clipstill.core.files import read_json, read_manifest
from clipstill.core.images import ImageFolder
from clipstill.distributed import launch
from clipstill.evaluation.ladder import RUNGS, ladder_json
from clipstill.stages.ladder import Given, Ladder
from clipstill.text.task import Task
from clipstill.workflow.cohorts import Growth, stage_of
from clipstill.workflow.growth import CONFIG_FILE, TASK_FILE, in_use
from clipstill.workflow.keys import (
    BUNDLE,
    CALIBRATION,
    CLASS_VECTORS,
    NEAR_MISSES,
    PROMPTS,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
)
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.settings import Settings
from clipstill.workflow.store import RunFolder, read_run_marker
from clipstill.workflow.workbench import Workbench

LADDER_FOLDER = "ladder"


@dataclass(frozen=True)
class LadderRequest:
    """What to measure.

    Attributes:
        run: a finished run folder.
        images: real photos to measure on, one sub-folder a class.
        examples: labelled photos to learn from.
        shots: most of them a class, drawn by the run's seed; None for all.
        unlabelled: photos without labels to learn from.
        rungs: names; all where empty.
        small_teacher: of the rung without training; that of the run's settings where None.
        out: where what is made is kept for the next call; ``ladder`` in the run folder where None.
        device: where teachers run; that of the run's settings where None.
    """

    run: Path
    images: Path
    examples: Path | None = None
    shots: int | None = None
    unlabelled: Path | None = None
    rungs: Sequence[str] = ()
    small_teacher: str | None = None
    out: Path | None = None
    device: str | None = None


def measure_ladder(request: LadderRequest) -> dict[str, Any]:
    """Measure a finished run's ladder on photos. A call that was interrupted goes on where it was.

    Returns:
        As ``clipstill.evaluation.ladder.ladder_json``.

    Raises:
        ArtifactError: no finished run.
        ConfigError: no such rung or device.
        UnknownNameError: no such teacher.
        DataError: a photo folder is missing, empty, or fits none of the classes, or photos are in two folders.
    """
    names = _known(request.rungs)
    threads = int(read_run_marker(request.run).get("threads", 0))
    changed = {} if request.small_teacher is None else {"evaluation": {"small_teacher": request.small_teacher}}
    values = changed if request.device is None else {**changed, "device": request.device}
    config = load_settings(file=request.run / CONFIG_FILE, values=values)
    task = Task.from_json(read_json(request.run / TASK_FILE))
    photos = ImageFolder.open(request.images, task.names)
    if request.examples is not None:
        refuse_overlap(ImageFolder.open(request.examples, task.names), request.images)
    unlabelled = None
    if request.unlabelled is not None:
        unlabelled = limited(ImageFolder.without_labels(request.unlabelled), config.unlabelled.limit, config.seed)
        refuse_overlap(unlabelled, request.images)
    from clipstill.teachers import resolve_teachers

    resolve_teachers(config.small_teacher)
    folder = RunFolder.of_another(request.run)
    folder.threads = threads or launch.threads_of_this_process()
    growth = in_use(request.run, config, task)
    bench = Workbench(config, task, folder, _keys(request.run, config, growth), photos, growth=growth)
    make_deterministic(folder.threads)
    given = Given(photos, request.examples, request.shots, unlabelled, True, config.small_teacher)
    place = request.run / LADDER_FOLDER if request.out is None else request.out
    made = Ladder(bench, given, request.run / BUNDLE_FOLDER, place).climb(names)
    return ladder_json(made, task.names)


def _known(names: Sequence[str]) -> Sequence[str]:
    for name in names:
        if name not in RUNGS:
            hint = did_you_mean(name, RUNGS)
            raise ConfigError(f"no rung is named '{name}'.{hint} All of them: {', '.join(RUNGS)}.")
    return names or RUNGS


def _keys(run: Path, config: Settings, growth: Growth | None) -> dict[str, str]:
    """Keys of the stages that the run has, as their manifests tell: photos that it was given may lie elsewhere now.

    Raises:
        ArtifactError: the run is not finished.
    """
    with_images, near = config.prompts.images_per_class > 0, config.refusal.wanted
    drawn = {PROMPTS: with_images, SURROGATE: with_images}
    if growth is not None:
        drawn = {stage_of(kind, part.cohort): True for part in growth.images for kind in (PROMPTS, SURROGATE)}
    wanted = {
        TEACHER_PROMPTS: config.has_prompts,
        CLASS_VECTORS: True,
        **drawn,
        STUDENT: True,
        **({NEAR_MISSES: near} if growth is None else _near(growth)),
        CALIBRATION: True,
        BUNDLE: True,
    }
    folder, keys = RunFolder.of_another(run), {}
    for stage in (stage for stage, there in wanted.items() if there):
        manifest = read_manifest(run / BUNDLE_FOLDER if stage == BUNDLE else folder.stage(stage))
        if manifest is None:
            raise ArtifactError(
                f"the run {run} is not finished: its stage '{stage}' is missing. Finish it with the command that began "
                f"it."
            )
        keys[stage] = manifest.key
    return keys


def _near(growth: Growth) -> dict[str, bool]:
    return {stage_of(NEAR_MISSES, part.cohort): True for part in growth.near_misses}
