"""Images of things that the classes are easily mistaken for: the threshold for "none of these" is set by them.

The student is not trained on them: as with photos of anything else, it has never seen them.

Shapes: M near misses, D teacher dimensions.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.assembly.class_vectors import other_words, task_of, text_vectors
from clipstill.core.errors import ConfigError
from clipstill.core.files import read_json, write_json
from clipstill.core.progress import listed, say
from clipstill.distributed.work import Worker
from clipstill.stages import class_vectors, images
from clipstill.surrogate.dataset import SurrogateSet
from clipstill.surrogate.shards import ShardWriter
from clipstill.text.prompts import PromptRequest, styled_prompts
from clipstill.text.task import Task, parse_task
from clipstill.workflow.cohorts import Cohort
from clipstill.workflow.run import Run
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

NAME = "near_misses"
NAMES_FILE = "near_misses.json"
# More of them cost images and hardly change the threshold.
_MOST = 32
# A single word would set the threshold by what it happens to look like.
_LEAST = 2
_LEAST_BY_DEFAULT = 4


def _make(run: Run, step: Step, folder: Path) -> None:
    import torch

    start = time.monotonic()
    settings, classes = run.settings, len(run.task.names)
    names = _names(run, step.cohort)
    vectors_MD = _vectors(run, names)
    say(f"near misses: {listed(names)}")
    request = PromptRequest(
        task=task_of(names),
        per_class=settings.refusal.images,
        seed=settings.seed,
        teacher=run.models.teacher,
        class_vectors_CD=vectors_MD,
        settings=settings.prompts.model_copy(update={"template": "default"}),
    )
    found = styled_prompts(request)
    # Class ids behind those of the classes.
    prompts = [replace(prompt, class_id=classes + prompt.class_id) for prompt in found.prompts]
    vectors_CD = torch.cat([class_vectors.read_class_vectors(run).image_CD, vectors_MD])
    work = images.new_synthesis_work(run, step.key, prompts, targets_ND=found.targets_ND, class_vectors_CD=vectors_CD)
    worker = Worker(work, run.models.teacher, run.models.generators, run.models.device)
    shards = ShardWriter(folder, step.key)
    with images.missing_groups(work, shards, "near misses") as (missing, on_done):
        images.make_groups(worker, missing, shards, on_done)
    write_json(folder / NAMES_FILE, names)
    shards.finish({"seconds": round(time.monotonic() - start, 3)}, [NAMES_FILE])


def wanted_number(settings: Settings, classes: int, least: int = _LEAST_BY_DEFAULT) -> int:
    """How many near misses these settings ask for."""
    wanted = settings.refusal.near_misses
    if isinstance(wanted, list):
        return len(wanted)
    return min(_MOST, max(least, classes)) if wanted == "auto" else wanted


def read_near_misses(run: Run) -> tuple[tuple[str, ...], SurrogateSet | None]:
    """Near misses of all cohorts in use, and their images; None where none is left.

    A word chosen beside other classes may name one of the present classes; such words are left out.
    """
    import torch

    names: list[str] = []
    sets = []
    for step in run.steps_of(NAME):
        folder = run.store.folder(step)
        of_step, found = list(read_json(folder / NAMES_FILE)), SurrogateSet.open(folder)
        # Names that were given are meant as they are.
        if step.cohort.task != run.task and not isinstance(run.settings.refusal.near_misses, list):
            fine, first = _word_shares(run)[1], len(step.cohort.task.names)
            found = found.keep(torch.tensor([of_step[record.class_id - first] in fine for record in found.records]))
            left_out = [name for name in of_step if name not in fine]
            of_step = [name for name in of_step if name in fine]
            if left_out:
                say(f"near misses: left out, too near to the present classes: {', '.join(left_out)}")
        names += of_step
        sets.append(found)
    joined = SurrogateSet.joined(sets)
    return tuple(names), joined if len(joined) else None


def check_near_misses(settings: Settings, task: Task) -> None:
    """Check given names before any work starts.

    Raises:
        ConfigError: There are too few.
        TaskError: One is a class, or is there twice.
    """
    given = settings.refusal.near_misses
    if isinstance(given, list) and given:
        if len(given) < _LEAST:
            raise ConfigError(f"refusal.near_misses names {len(given)}. Give at least {_LEAST}, a number, or auto.")
        parse_task([*task.names, *given])


def _word_shares(run: Run) -> tuple[Tensor, set[str]]:
    text_CD = class_vectors.read_class_vectors(run).text_CD
    found = other_words(run.models.teacher, run.task, run.settings, text_CD)
    return found.share_CW, found.free


def _vectors(run: Run, names: Sequence[str]) -> Tensor:
    """Vectors of words as those of classes are made, of the teacher without prompts."""
    return text_vectors(run.models.teacher, task_of(names), run.settings)


def _names(run: Run, cohort: Cohort) -> tuple[str, ...]:
    """As given, or chosen: near to the classes of the cohort, and to none that earlier cohorts have."""
    from clipstill.text.near_misses import choose_near_misses

    wanted = run.settings.refusal.near_misses
    if isinstance(wanted, list):
        return tuple(wanted)
    least = _LEAST_BY_DEFAULT if cohort.is_whole else _LEAST
    earlier = itertools.takewhile(lambda step: step.cohort != cohort, run.steps_of(NAME))
    taken = [word for step in earlier for word in read_json(run.store.folder(step) / NAMES_FILE)]
    share_CW, free = _word_shares(run)
    turns_CW = share_CW if cohort.is_whole else share_CW[list(cohort.drawn_ids)]
    count = wanted_number(run.settings, len(cohort.drawn), least)
    chosen = choose_near_misses(turns_CW, free.difference(taken), max(_LEAST, count))
    if len(chosen) < _LEAST:
        raise ConfigError(
            "hardly any word is no other name of one of the classes. Name things that are none of them by "
            "refusal.near_misses, such as --set 'refusal.near_misses=[tree, car]', or set it to 0."
        )
    return tuple(chosen)


# What images depend on beside their prompts.
_IMAGE_SETTINGS = ("prompts.styles", "prompts.tokens", "seed", "generator", "synthesis")
STAGE = Stage(
    name=NAME,
    version=2,
    title="Make images of things easily mistaken for the classes",
    make=_make,
    settings=("refusal.near_misses", "refusal.images", *_IMAGE_SETTINGS),
    inputs=(class_vectors.NAME,),
    needed=lambda settings, photos: settings.refusal.wanted,
    per_cohort=True,
)
