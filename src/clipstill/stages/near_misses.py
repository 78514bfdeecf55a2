"""Images of what the classes are easily taken for: below which score "none of these" is said is learned from them.

The student is not taught on them: as photos of anything else, it has never seen them.

Shapes: M near misses, D teacher dimensions.
"""

from __future__ import annotations

import itertools
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError
from clipstill.core.files import read_json, write_json
from clipstill.core.progress import say
from clipstill.text.task import Task, parse_task
from clipstill.workflow.cohorts import Cohort, stage_of
from clipstill.workflow.keys import NEAR_MISSES, styles_of, templates_of
from clipstill.workflow.workbench import Workbench

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.surrogate.dataset import SurrogateSet
    from clipstill.workflow.settings import RunConfig

NAMES_FILE = "near_misses.json"
# Beyond it, more of them cost images and tell little new.
_MOST = 32
# One word alone would set the threshold by what it happens to look like.
_LEAST = 2


def make_near_misses(bench: Workbench, folder: Path, cohort: Cohort | None = None) -> None:
    """Choose near misses of the classes and make a few images of each, as those of the classes are made.

    Args:
        bench: of the run.
        folder: of the stage.
        cohort: of whose classes; None for that of a plain run.

    Raises:
        ConfigError: fewer than two words are far enough from the classes.
    """
    import torch

    from clipstill.distributed.synthesis_work import SynthesisWork
    from clipstill.stages.stages import make_alone
    from clipstill.surrogate.shards import ShardWriter
    from clipstill.text.prompts import PromptRequest, styled_prompts

    start = time.monotonic()
    config, classes = bench.config, len(bench.task.names)
    cohort = cohort or bench.cohort_of(NEAR_MISSES)
    names = _names(bench, cohort)
    vectors_MD = _vectors(bench, names)
    say(f"near misses: {', '.join(names[:8])}{f' and {len(names) - 8} more' if len(names) > 8 else ''}")
    made = styled_prompts(
        PromptRequest(
            task=_task(names),
            styles=styles_of(config),
            per_class=config.refusal.images,
            seed=config.seed,
            teacher=bench.plain_teacher,
            class_vectors_CD=vectors_MD,
            settings=replace(config.prompts.settings(), template="default"),
        )
    )
    prompts = [replace(prompt, class_id=classes + prompt.class_id) for prompt in made.prompts]
    all_vectors_D = torch.cat([bench.drawn_vectors_CD, vectors_MD])
    work = SynthesisWork(bench.keys[stage_of(NEAR_MISSES, cohort)], config, prompts, made.targets_ND, all_vectors_D)
    shards = ShardWriter(folder, work.key)
    make_alone(bench, work, shards, range(len(work.groups)), "near misses", None)
    write_json(folder / NAMES_FILE, names)
    shards.finish({"seconds": round(time.monotonic() - start, 3)}, [NAMES_FILE])


def read_near_misses(bench: Workbench) -> tuple[tuple[str, ...], SurrogateSet | None]:
    """Near misses of all cohorts in use, and their images; None where none is left.

    A word that was chosen when there were other classes may by now be one of the classes, or another name of one; it
    is left out.
    """
    import torch

    from clipstill.surrogate.dataset import SurrogateSet

    names: list[str] = []
    sets = []
    for part in bench.near_parts:
        folder = bench.run.stage(stage_of(NEAR_MISSES, part.cohort))
        of_part, made = tuple(read_json(folder / NAMES_FILE)), SurrogateSet.open(folder)
        # Those that are given are meant, and an explicit number is chosen as "auto" is.
        if part.cohort.task != bench.task and not isinstance(bench.config.refusal.near_misses, list):
            fine = _far_enough(bench)
            first = len(part.cohort.task.names)
            keep = [of_part[record.class_id - first] in fine for record in made.records]
            made = made.keep(torch.tensor(keep))
            left_out = [name for name in of_part if name not in fine]
            of_part = tuple(name for name in of_part if name in fine)
            if left_out:
                say(f"near misses: left out, since they are too near to the present classes: {', '.join(left_out)}")
        names += of_part
        sets.append(made)
    joined = SurrogateSet.joined(sets)
    return tuple(names), joined if len(joined) else None


def _far_enough(bench: Workbench) -> set[str]:
    from clipstill.text.near_misses import KINDS, WORDS, far_enough

    words_WD, kinds_KD = _vectors(bench, WORDS), _vectors(bench, KINDS)
    return far_enough(bench.task.names, bench.text_vectors_CD, words_WD, kinds_KD)


def _vectors(bench: Workbench, names: tuple[str, ...]) -> Tensor:
    """Of the teacher without prompts, as those of classes are made."""
    from clipstill.teachers import class_vectors
    from clipstill.text.templates import class_texts

    templates = templates_of(bench.config, bench.plain_teacher.templates)
    return class_vectors(bench.plain_teacher, class_texts(_task(names), templates)).cpu()


def check_near_misses(config: RunConfig, task: Task) -> None:
    """Find out before any work starts whether names that are given can be near misses.

    Raises:
        ConfigError: there are too few.
        TaskError: one is a class, or there twice.
    """
    given = config.refusal.near_misses
    if isinstance(given, list) and given:
        if len(given) < _LEAST:
            raise ConfigError(f"refusal.near_misses names {len(given)}. Give at least {_LEAST}, a number, or auto.")
        parse_task([*task.names, *given])


def _names(bench: Workbench, cohort: Cohort) -> tuple[str, ...]:
    """As given, or chosen: near to the classes of the cohort, and to none that earlier cohorts have."""
    from clipstill.text.near_misses import KINDS, WORDS, choose_near_misses

    wanted = bench.config.refusal.near_misses
    if isinstance(wanted, list):
        return tuple(wanted)
    least = 4 if cohort.is_whole else _LEAST
    count = min(_MOST, max(least, len(cohort.drawn))) if wanted == "auto" else wanted
    earlier = [part.cohort for part in itertools.takewhile(lambda part: part.cohort != cohort, bench.near_parts)]
    folders = [bench.run.stage(stage_of(NEAR_MISSES, each)) for each in earlier]
    chosen = choose_near_misses(
        bench.task.names,
        bench.text_vectors_CD,
        word_vectors_WD=_vectors(bench, WORDS),
        kind_vectors_KD=_vectors(bench, KINDS),
        count=max(_LEAST, count),
        near_to=None if cohort.is_whole else cohort.drawn_ids,
        without=[word for folder in folders for word in read_json(folder / NAMES_FILE)],
    )
    if len(chosen) < _LEAST:
        raise ConfigError(
            "hardly any word is no other name of one of the classes. Name things that are none of them by "
            "refusal.near_misses, such as --set 'refusal.near_misses=[tree, car]', or set it to 0."
        )
    return tuple(chosen)


def _task(names: tuple[str, ...]) -> Task:
    return Task(names, ("",) * len(names))
