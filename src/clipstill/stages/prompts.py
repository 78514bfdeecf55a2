"""Classes and styles -> one prompt an image with its seed, and the vector that the image is drawn towards.

Shapes: N images, C classes, D teacher dimensions.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipstill.core.files import read_json, write_json, write_text
from clipstill.core.progress import say
from clipstill.stages import class_vectors
from clipstill.text import prompt_strategies
from clipstill.text.prompts import Prompt, PromptRequest
from clipstill.text.reading import as_read
from clipstill.text.task import Task
from clipstill.workflow.run import Run
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from torch import Tensor

NAME = "prompts"
PROMPTS_FILE = "prompts.jsonl"
TARGETS_FILE = "targets.safetensors"
TARGETS_NAME = "targets"
DIVERSITY_FILE = "diversity.json"
STYLES_FILE = "styles.json"


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    from clipstill.core.tensors import write_tensors
    from clipstill.text.diversity import diversity

    section, cohort = run.settings.prompts, step.cohort
    vectors = class_vectors.read_class_vectors(run)
    strategy, _ = prompt_strategies.resolve(section.strategy)
    task, text_CD = run.task, vectors.text_CD
    if not cohort.is_whole:
        # The drawn classes alone are asked for; the vectors of the other classes stand behind theirs.
        ids = cohort.drawn_ids
        task = Task(cohort.drawn, tuple(cohort.task.descriptions[place] for place in ids))
        text_CD = text_CD[[*ids, *(place for place in range(len(text_CD)) if place not in ids)]]
    request = PromptRequest(
        task=as_read(task, run.models.teacher.multilingual),
        per_class=section.images_per_class,
        seed=run.settings.seed,
        teacher=run.models.teacher,
        class_vectors_CD=text_CD,
        settings=section,
    )
    found = strategy(request)
    # Class ids of the cohort's own order -> class ids of its task.
    prompts = [replace(prompt, class_id=cohort.drawn_ids[prompt.class_id]) for prompt in found.prompts]
    class_ids, style_ids = [prompt.class_id for prompt in prompts], [prompt.style_id for prompt in prompts]
    measured = diversity(found.targets_ND, class_ids, style_ids, vectors.text_CD)
    say(f"prompts: {len(prompts)} of strategy '{section.strategy}', {measured.line()}")
    lines = [json.dumps(asdict(prompt), ensure_ascii=False) + "\n" for prompt in prompts]
    write_text(folder / PROMPTS_FILE, "".join(lines))
    write_tensors(folder / TARGETS_FILE, {TARGETS_NAME: vectors.targets(found.targets_ND, class_ids)})
    write_json(folder / DIVERSITY_FILE, {"strategy": section.strategy, "classes": cohort.drawn, **asdict(measured)})
    write_json(folder / STYLES_FILE, found.style_names)
    return [PROMPTS_FILE, TARGETS_FILE, DIVERSITY_FILE, STYLES_FILE]


def read_prompts(folder: Path) -> tuple[list[Prompt], Tensor]:
    """Prompts of one cohort, and target_ND with one row a prompt."""
    from safetensors.torch import load_file

    lines = (folder / PROMPTS_FILE).read_text(encoding="utf-8").splitlines()
    return [Prompt(**json.loads(line)) for line in lines], load_file(folder / TARGETS_FILE)[TARGETS_NAME]


def read_style_names(run: Run) -> tuple[str, ...]:
    """The name of each style id; empty where images have no style or there are none."""
    # All cohorts have the same ones, which follow from the settings.
    steps = run.steps_of(NAME)
    return tuple(str(name) for name in read_json(run.store.folder(steps[0]) / STYLES_FILE)) if steps else ()


STAGE = Stage(
    name=NAME,
    version=2,
    title="Plan the images",
    make=_make,
    settings=("prompts", "seed", "examples.style_share"),
    inputs=(class_vectors.NAME,),
    needed=lambda settings, photos: settings.prompts.images_per_class > 0,
    per_cohort=True,
)
