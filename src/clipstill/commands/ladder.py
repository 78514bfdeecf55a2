"""The baseline ladder of a finished run, on any photos."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from clipstill.core.device import configure_torch
from clipstill.core.errors import ConfigError, did_you_mean
from clipstill.core.files import make_folder
from clipstill.core.image_folder import ImageFolder
from clipstill.core.paths import user_path
from clipstill.evaluation.ladder import RUNGS, Ladder, LadderOptions
from clipstill.stages import STAGES
from clipstill.stages.ladder import LadderInputs, measure_rungs
from clipstill.workflow.photos import Photos, limited, refuse_overlap
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.run import Run
from clipstill.workflow.store import CONFIG_FILE, LOCK, lock, read_run_marker

LADDER_FOLDER = "ladder"


def measure_ladder(path: Path, images: Path, options: LadderOptions) -> Ladder:
    """Measure the ladder of a finished run on photos; arguments as for ``clipstill.ladder``.

    Raises:
        ArtifactError: The folder is no finished run.
        ConfigError: There is no such rung or device.
        UnknownNameError: There is no such teacher.
        DataError: A folder of photos is missing, empty or fits none of the classes, or photos lie in two folders.
        ResourceError: Another process works on the ladder, or its folder cannot be written.
    """
    from clipstill.teachers import resolve_teachers

    rungs, examples, unlabelled = options.get("rungs") or RUNGS, options.get("examples"), options.get("unlabelled")
    for name in rungs:
        if name not in RUNGS:
            hint = did_you_mean(name, RUNGS)
            raise ConfigError(f"no rung is named '{name}'.{hint} All of them: {', '.join(RUNGS)}.")
    read_run_marker(path)
    given = {name: options.get(name) for name in ("device", "allow_unmatched")}
    given["evaluation.small_teacher"] = options.get("small_teacher")
    settings = load_settings(file=path / CONFIG_FILE)
    settings = settings.changed(**{name: value for name, value in given.items() if value is not None})
    run = Run.open(path, STAGES, settings, Photos())
    labelled = partial(ImageFolder.open, classes=run.task.names, allow_unmatched=settings.allow_unmatched)
    photos, shown, unseen = labelled(images), None, None
    if examples is not None:
        shown = labelled(examples)
        refuse_overlap(shown, photos)
        shown = limited(shown, options.get("shots"), settings.seed)
    if unlabelled is not None:
        unseen = limited(ImageFolder.without_labels(unlabelled), settings.unlabelled.limit, settings.seed)
        refuse_overlap(unseen, photos)
    resolve_teachers(settings.small_teacher)
    configure_torch(run.store.threads, settings.device, settings.deterministic)
    inputs = LadderInputs(
        photos, settings.small_teacher, examples=shown, shots=options.get("shots"), unlabelled=unseen, slow=True
    )
    place = user_path(options.get("out") or path / LADDER_FOLDER)
    make_folder(place)
    with lock(place / LOCK):
        found = measure_rungs(run, inputs, place, rungs)
    return Ladder.of(found, run.task.names)
