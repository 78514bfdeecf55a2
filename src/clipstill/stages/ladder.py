"""The finished bundle and photos -> what simpler and richer ways reach, and which to ship.

Each rung is committed on its own, so that a killed call goes on behind the last one. Students of rungs do not depend on
the photos, so a call with other photos finds them trained.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clipstill.core.files import commit_manifest, is_whole, read_json, sha256_json, sweep_below, write_json
from clipstill.core.image_folder import ImageFolder
from clipstill.core.progress import percent, say, span
from clipstill.evaluation.ladder import RUNGS, Ladder, Rung
from clipstill.stages import bundle, zero_shot
from clipstill.workflow.photos import photos_digest
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

NAME = "ladder"
VERSION = 4
LADDER_FILE = "ladder.json"
FACTS_FILE = "facts.json"
_WORK = "work"


@dataclass(frozen=True)
class LadderInputs:
    """What the rungs may use beside the run."""

    photos: ImageFolder
    small_teacher: str  # Name of the teacher of the rungs without training.
    examples: ImageFolder | None = None  # Labelled photos to learn from; None where there are none.
    shots: int | None = None  # Most of them a class, as they were limited; None for all.
    # Photos to learn from that the student has not seen; None where there are none.
    unlabelled: ImageFolder | None = None
    # Whether rungs are made that train a whole network, and controls on fewer photos than can tell them apart.
    slow: bool = False


def measure_rungs(run: Run, inputs: LadderInputs, place: Path, names: Sequence[str] = RUNGS) -> list[Rung]:
    """Make and measure rungs, in the order of the ladder; ``place`` keeps what is made for a later call.

    No other process may be working in ``place``.

    Raises:
        ClipstillError: A photo folder, a model or the run cannot be read.
    """
    from clipstill.stages.rungs import RungMaker

    models, done = place / "models", place / "measured"
    for folder in (models, done):
        sweep_below(folder)
    maker = RungMaker(run, inputs, models)
    learned = [None if each is None else photos_digest(each) for each in (inputs.examples, inputs.unlabelled)]
    photos = [photos_digest(inputs.photos), inputs.small_teacher, *learned]
    identity = [VERSION, run.step(bundle.NAME).key, *photos, inputs.slow]
    found, before = [], 0
    for name in (name for name in RUNGS if name in names):
        key = sha256_json([identity, name])
        folder = done / f"{name}-{key[:16]}"
        if not is_whole(folder, key):
            start = time.monotonic()
            rung = maker.make(name)
            write_json(folder / FACTS_FILE, rung.to_json())
            commit_manifest(folder, key, [FACTS_FILE])
            took = span(time.monotonic() - start)
            top1 = f"{percent(rung.measured.top1)} in {took}" if rung.measured else "not measured"
            say(f"ladder: {rung.title}: {top1}")
        else:
            before += 1
        found.append(Rung.from_json(read_json(folder / FACTS_FILE)))
    if before:
        say(f"ladder: {before} of {len(found)} ways were measured before on these photos")
    return found


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    settings, photos = run.settings, run.photos
    assert photos.measured is not None
    inputs = LadderInputs(photos.measured, settings.small_teacher, photos.examples, settings.examples.per_class)
    rungs = measure_rungs(run, inputs, folder / _WORK)
    write_json(folder / LADDER_FILE, Ladder.of(rungs, run.task.names).to_json())
    # The models served to go on after a kill.
    shutil.rmtree(folder / _WORK, ignore_errors=True)
    return [LADDER_FILE]


def read_ladder(run: Run) -> dict[str, Any] | None:
    """Rungs and recommendation, as JSON values; None where the run has no ladder."""
    return dict(read_json(run.folder(NAME) / LADDER_FILE)) if run.has(NAME) else None


STAGE = Stage(
    name=NAME,
    version=VERSION,
    title="Compare with simpler ways",
    make=_make,
    settings=("evaluation.small_teacher",),
    inputs=(bundle.NAME, zero_shot.NAME),
    needed=lambda settings, photos: photos.measured is not None and settings.evaluation.ladder,
)
