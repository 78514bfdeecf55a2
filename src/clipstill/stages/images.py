"""Prompts -> synthetic images, group by group; groups that are committed are never made again.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.files import read_manifest, write_json
from clipstill.core.progress import Progress, say
from clipstill.core.protocols import Provenance
from clipstill.core.records import read_record
from clipstill.distributed import ray_tasks, torchrun
from clipstill.distributed.work import OnDone, SynthesisWork, Worker
from clipstill.stages import class_vectors, prompts
from clipstill.stages.curation import curation_facts, curation_line
from clipstill.surrogate.background import background_writer
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.surrogate.shards import ShardWriter
from clipstill.text.prompts import Prompt
from clipstill.workflow.cohorts import Cohort
from clipstill.workflow.records import StoredCuration
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

NAME = "surrogate"
CURATION_FILE = "curation.json"
PREVIEW_FILE = "preview.png"


def _make(run: Run, step: Step, folder: Path) -> None:
    work, shards = synthesis_work(run, step), ShardWriter(folder, step.key)
    worker = Worker(work, run.models.teacher, run.models.generators, run.models.device)
    launch, threads = run.settings.launch, run.store.threads
    with missing_groups(work, shards, "synthesis") as (missing, on_done):
        if launch.launcher == "ray" and torchrun.world() == 1:
            ray_tasks.make_groups(work, missing, shards, launch=launch, threads=threads, on_done=on_done)
        else:
            torchrun.broadcast(torchrun.Offer(step.name, step.key, missing, threads, cohorts=run.cohorts))
            own = torchrun.share(missing)
            make_groups(worker, own, shards, on_done, preview=run.store.path / PREVIEW_FILE)
            torchrun.wait_for_groups(shards, [number for number in missing if number not in own], on_done)
    beside = None if step.cohort.is_whole else read_images(run, before=step.cohort)
    images = shards.read(len(work.groups))
    _show_first_images(run, images)  # Before the commit: a run that is killed here makes the preview when it continues.
    curation = curation_facts(images, work.prompts, run.task.names, beside)
    say(f"images: {curation_line(curation)}")
    write_json(folder / CURATION_FILE, curation)
    facts = shards.facts()
    dropped, restarts = (sum(int(each[name]) for each in facts) for name in ("dropped", "restarts"))
    if dropped or restarts:
        say(f"images: {restarts} restarts of images, {dropped} images could not be made")
    seconds = round(sum(float(each["seconds"]) for each in facts), 3)
    provenance = [asdict(part) for part in worker.provenance]
    info = {"seconds": seconds, "dropped": dropped, "restarts": restarts, "provenance": provenance}
    shards.finish(info, [CURATION_FILE])


@contextmanager
def missing_groups(work: SynthesisWork, shards: ShardWriter, title: str) -> Iterator[tuple[list[int], OnDone]]:
    """The groups that are not stored yet, and a function that shows the progress after each of them."""
    groups, done = work.groups, shards.committed()
    ready = sum(len(groups[number]) for number in done)
    if ready:
        say(f"{shards.folder.name}: {ready} of {len(work.prompts)} images exist already; making the others")
    with Progress(title, total=len(work.prompts), unit="img", done=ready) as bar:

        def on_done(number: int, loss: float | None) -> None:
            bar.advance(len(groups[number]), **({} if loss is None else {"loss": loss}))

        yield [number for number in range(len(groups)) if number not in done], on_done


def make_groups(
    worker: Worker, numbers: Sequence[int], shards: ShardWriter, on_done: OnDone, *, preview: Path | None = None
) -> None:
    """Make groups in this process, and write each one while the next is running."""
    from clipstill.surrogate.preview import Preview

    with background_writer() as submit:
        watch = None if preview is None else Preview(preview, submit)
        for number in numbers:
            images = worker.make(number, watch)
            write = partial(shards.write_group, number, images.pixels_NHW3, images.records)
            submit(partial(write, facts=images.facts, features_ND=images.features_ND))
            on_done(number, images.loss)


def _show_first_images(run: Run, images: SurrogateSet) -> None:
    """Replace the preview of the images in progress by the first finished ones."""
    import torch

    from clipstill.surrogate.preview import MOST_IMAGES, write_grid

    # Only these are decoded: the whole set may take gigabytes.
    first = images.keep(torch.arange(len(images)) < MOST_IMAGES)
    write_grid(run.store.path / PREVIEW_FILE, first.pixels_N3HW.permute(0, 2, 3, 1).numpy())


def synthesis_work(run: Run, step: Step) -> SynthesisWork:
    """The images of a cohort as units of work."""
    (prompt_step,) = [each for each in run.steps_of(prompts.NAME) if each.cohort.number == step.cohort.number]
    found, target_ND = prompts.read_prompts(run.store.folder(prompt_step))
    class_vectors_CD = class_vectors.read_class_vectors(run).image_CD
    return new_synthesis_work(run, step.key, found, targets_ND=target_ND, class_vectors_CD=class_vectors_CD)


def new_synthesis_work(
    run: Run, key: str, found: Sequence[Prompt], *, targets_ND: Tensor, class_vectors_CD: Tensor
) -> SynthesisWork:
    """Images of these prompts by the run's teacher and generators."""
    settings = run.settings
    return SynthesisWork(
        key=key,
        teacher=settings.teacher.name,
        precision=settings.teacher.precision,
        generator=settings.generator,
        device=settings.device,
        deterministic=settings.deterministic,
        settings=settings.synthesis,
        prompts=found,
        targets_ND=targets_ND,
        class_vectors_CD=class_vectors_CD,
    )


def assist(run: Run, offer: torchrun.Offer) -> None:
    """Make this rank's share of the groups that the first rank offers."""
    own = torchrun.share(offer.groups)
    if own:
        (step,) = [each for each in run.steps_of(NAME) if each.name == offer.stage]
        worker = Worker(synthesis_work(run, step), run.models.teacher, run.models.generators, run.models.device)
        make_groups(worker, own, ShardWriter(run.store.folder(step), step.key), lambda number, loss: None)


def read_images(run: Run, before: Cohort | None = None) -> SurrogateSet | None:
    """The synthetic images of all classes, the oldest cohort first, with class ids of the run's task.

    Only of cohorts older than ``before``, where it is given; None where there are no images.
    """
    found = []
    for step in itertools.takewhile(lambda step: step.cohort != before, run.steps_of(NAME)):
        class_ids = {step.cohort.task.names.index(name): run.task.names.index(name) for name in step.cohort.used}
        found.append(SurrogateSet.open(run.store.folder(step)).of_classes(class_ids))
    return SurrogateSet.joined(found) if found else None


def provenance_of(run: Run) -> list[Provenance]:
    """Weights that made the images, the teacher's first, as the stages recorded them."""
    manifests = [read_manifest(run.store.folder(step)) for step in run.steps_of(NAME)]
    stored = [
        *class_vectors.read_teacher_metadata(run)["provenance"],
        *(part for manifest in manifests if manifest is not None for part in manifest.info.get("provenance", [])),
    ]
    return list(dict.fromkeys(Provenance(**part) for part in stored))


def read_curation(run: Run) -> list[StoredCuration]:
    """What each cohort in use wrote down of its images."""
    return [read_record(run.store.folder(step) / CURATION_FILE, StoredCuration) for step in run.steps_of(NAME)]


def read_history(run: Run) -> list[dict[str, float]]:
    """Losses of the images, one entry a step: each averaged over the groups that have that step."""
    writers = [ShardWriter(run.store.folder(step), step.key) for step in run.steps_of(NAME)]
    gathered: dict[float, dict[str, list[float]]] = {}
    for entry in (entry for writer in writers for facts in writer.facts() for entry in facts["history"]):
        at_step = gathered.setdefault(float(entry["step"]), {})
        for name, value in entry.items():
            if name != "step" and isinstance(value, int | float):
                at_step.setdefault(name, []).append(float(value))
    return [
        {"step": step, **{name: sum(values) / len(values) for name, values in gathered[step].items()}}
        for step in sorted(gathered)
    ]


STAGE = Stage(
    name=NAME,
    version=4,
    title="Make the images",
    make=_make,
    settings=("generator", "synthesis"),
    inputs=(prompts.NAME,),
    needed=prompts.STAGE.needed,
    per_cohort=True,
)
