"""Images of what the classes are easily taken for: below which score "none of these" is said is learned from them.

The student is not taught on them: as photos of anything else, it has never seen them.

Shapes: M near misses, D teacher dimensions.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.errors import ConfigError
from clipstill.core.files import write_json
from clipstill.core.progress import say
from clipstill.pipeline.keys import NEAR_MISSES, styles_of, templates_of
from clipstill.pipeline.workbench import Workbench
from clipstill.text.task import Task, parse_task

if TYPE_CHECKING:
    from torch import Tensor

    from clipstill.pipeline.config import RunConfig

NAMES_FILE = "near_misses.json"
# Beyond it, more of them cost images and tell little new.
_MOST = 32
# One word alone would set the threshold by what it happens to look like.
_LEAST = 2


def make_near_misses(bench: Workbench, folder: Path) -> None:
    """Choose near misses of the classes and make a few images of each, as those of the classes are made.

    Raises:
        ConfigError: fewer than two words are far enough from the classes.
    """
    import torch

    from clipstill.pipeline.stages import make_alone
    from clipstill.pipeline.synthesis_work import SynthesisWork
    from clipstill.surrogate.shards import ShardWriter
    from clipstill.teachers import class_vectors
    from clipstill.text.prompts import PromptRequest, styled_prompts
    from clipstill.text.templates import class_texts

    start = time.monotonic()
    config, classes = bench.config, len(bench.task.names)
    templates = templates_of(config, bench.plain_teacher.templates)

    def vectors(names: tuple[str, ...]) -> Tensor:
        return class_vectors(bench.plain_teacher, class_texts(_task(names), templates)).cpu()

    names = _names(bench, vectors)
    vectors_MD = vectors(names)
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
    work = SynthesisWork(bench.keys[NEAR_MISSES], config, prompts, made.targets_ND, all_vectors_D)
    shards = ShardWriter(folder, work.key)
    make_alone(bench, work, shards, range(len(work.groups)), "near misses", None)
    write_json(folder / NAMES_FILE, names)
    shards.finish({"seconds": round(time.monotonic() - start, 3)}, [NAMES_FILE])


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


def _names(bench: Workbench, vectors: Callable[[tuple[str, ...]], Tensor]) -> tuple[str, ...]:
    """As given, or chosen."""
    from clipstill.text.near_misses import KINDS, WORDS, choose_near_misses

    wanted = bench.config.refusal.near_misses
    if isinstance(wanted, list):
        return tuple(wanted)
    count = min(_MOST, max(4, len(bench.task.names))) if wanted == "auto" else wanted
    chosen = choose_near_misses(
        bench.task.names, bench.text_vectors_CD, vectors(WORDS), vectors(KINDS), max(_LEAST, count)
    )
    if len(chosen) < _LEAST:
        raise ConfigError(
            "hardly any word is no other name of one of the classes. Name things that are none of them by "
            "refusal.near_misses, such as --set 'refusal.near_misses=[tree, car]', or set it to 0."
        )
    return tuple(chosen)


def _task(names: tuple[str, ...]) -> Task:
    return Task(names, ("",) * len(names))
