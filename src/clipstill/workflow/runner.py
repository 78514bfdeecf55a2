"""Brings the steps of a run up to date, one after the other.

A step whose folder is committed under its key is skipped; an interrupted one is continued; one whose files
are damaged is set aside and made again.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from clipstill.core.device import configure_torch
from clipstill.core.errors import ArtifactError
from clipstill.core.files import MANIFEST, commit_manifest, is_whole, read_manifest
from clipstill.core.progress import say, span
from clipstill.workflow.keys import IMAGES, STUDENT, Keys
from clipstill.workflow.records import read_events
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Step
from clipstill.workflow.store import LockedStore, Store


class StaleCohortsError(Exception):
    """A damaged cohort or student was to be used again and cannot be made as it was; the steps must be chosen anew."""


def run_steps(run: Run, store: LockedStore, steps: Sequence[Step], keys: Keys) -> list[str]:
    """Bring steps up to date in their order; return the names of those that were done already.

    ``store`` is the run's folder, held by this process.

    Raises:
        StaleCohortsError: The steps must be chosen anew.
        ClipstillError: A stage failed.
    """
    return [step.name for step in steps if not _bring_up_to_date(run, store, step, keys)]


def looks_done(path: Path, steps: Sequence[Step]) -> bool:
    """Whether every step has a manifest of its key; the files behind the manifests are not checked."""
    store = Store(path)
    try:
        manifests = [read_manifest(store.folder(step)) for step in steps]
    except ArtifactError:
        return False
    return all(found is not None and found.key == step.key for found, step in zip(manifests, steps, strict=True))


def seconds_of_work(store: Store, steps: Sequence[Step]) -> dict[str, float]:
    """Seconds of work of each step, those of earlier calls included: from its manifest, else from the last event."""
    done = [event for event in read_events(store.path) if event["event"] == "done"]
    last = {event.get("key"): event.get("seconds") for event in done}
    found = {}
    for step in steps:
        manifest = read_manifest(store.folder(step)) if step.is_kept else None
        seconds = last.get(step.key)
        if manifest is not None and manifest.key == step.key:
            seconds = manifest.info.get("seconds", seconds)
        if isinstance(seconds, int | float) and 0 <= seconds < 1e12:
            found[step.name] = float(seconds)
    return found


def _bring_up_to_date(run: Run, store: LockedStore, step: Step, keys: Keys) -> bool:
    """Whether there was anything to do."""
    folder = store.folder(step)
    more = {}
    if step.stage.name == STUDENT:
        more = {"images": keys.of_cohorts(IMAGES, run.task, run.cohorts.images), "trained": run.cohorts.student is None}
    reason = store.prepare(step, **more) if step.is_kept else ""
    if reason:
        say(f"{step.name}: {reason}; the earlier result is kept in {store.stages / 'old'}")
    try:
        if is_whole(folder, step.key):
            say(f"{step.name}: done already, skipped")
            store.event("skipped", stage=step.name, key=step.key)
            return False
    except ArtifactError as error:
        say(f"{step.name}: {error}")
        store.set_step_aside(step)
        if step.is_kept:
            store.prepare(step, **more)
    if not step.is_kept and not (folder / MANIFEST).exists():
        store.set_step_aside(step)  # A bundle without its manifest would not be replaced.
    _check_that_it_can_be_made(run, store, step)
    say(f"{step.name}: running ({step.stage.title})")
    configure_torch(store.threads, run.settings.device, run.settings.deterministic)
    start = time.monotonic()
    store.event("stage", stage=step.name, key=step.key)
    files = step.stage.make(run, step, folder)
    seconds = time.monotonic() - start
    if files is not None:
        commit_manifest(folder, step.key, list(files), {"seconds": round(seconds, 3)} if step.is_kept else {})
    store.event("done", stage=step.name, key=step.key, seconds=round(seconds, 3))
    say(f"{step.name}: done in {span(seconds)}")
    return True


def _check_that_it_can_be_made(run: Run, store: LockedStore, step: Step) -> None:
    """Find out whether a step would need classes, examples or a student that are not there any more."""
    if step.stage.per_cohort and not step.cohort.is_made_for(run.task, run.cohorts.evidence):
        say(f"{step.name}: unfinished or damaged, and made with other classes or examples; made again")
        store.set_aside(step.stage.name, step.key)
        raise StaleCohortsError
    trained = run.cohorts.student
    if step.stage.name == STUDENT and trained is not None:
        try:
            store.kept(STUDENT, trained.cohort.key)
        except ArtifactError as error:
            say(f"{step.name}: {error} It is trained again")
            store.set_aside(STUDENT, trained.cohort.key)
            raise StaleCohortsError from None
