"""Examples, or prompts that were learned before -> prompts by which the teacher tells the classes apart."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipstill.core.files import read_json, write_json
from clipstill.text.reading import as_read
from clipstill.workflow.photos import Photos
from clipstill.workflow.run import Run
from clipstill.workflow.settings import Settings
from clipstill.workflow.stage import Stage, Step

if TYPE_CHECKING:
    from clipstill.core.protocols import Teacher

NAME = "teacher_prompts"
PROMPTS_FILE = "prompts.safetensors"
HISTORY_FILE = "history.json"
_WORK = "work"


def _make(run: Run, step: Step, folder: Path) -> list[str]:
    from clipstill.assembly.prompt_learning import learn_prompts
    from clipstill.teachers.prompted import load_prompts, save_prompts

    section, work = run.settings.prompt_teacher, folder / _WORK
    history: dict[str, Any] = {"history": []}
    if section.weights is not None:
        teacher = load_prompts(run.models.teacher, section.weights)
    else:
        assert run.photos.examples is not None
        teacher, history = learn_prompts(
            run.models.teacher,
            run.photos.examples,
            section,
            run.settings.reading,
            names=as_read(run.task, run.models.teacher.multilingual).names,
            seed=run.settings.seed,
            work=work,
        )
    save_prompts(teacher, folder / PROMPTS_FILE)
    write_json(folder / HISTORY_FILE, history)
    shutil.rmtree(work, ignore_errors=True)
    return [PROMPTS_FILE, HISTORY_FILE]


def teacher_of(run: Run) -> Teacher:
    """What the student learns from: the teacher, with its prompts where it has some."""
    file = prompts_file(run)
    if file is None:
        return run.models.teacher
    from clipstill.teachers.prompted import load_prompts  # Imports open_clip, which takes a second.

    return load_prompts(run.models.teacher, file)


def prompts_file(run: Run) -> Path | None:
    """The file with the teacher's prompts; None where it has none."""
    return run.folder(NAME) / PROMPTS_FILE if run.has(NAME) else None


def read_history(run: Run) -> list[dict[str, Any]]:
    """Losses of each epoch; empty where no prompts were learned."""
    return list(read_json(run.folder(NAME) / HISTORY_FILE)["history"]) if run.has(NAME) else []


def _are_learned(settings: Settings, photos: Photos) -> bool:
    section = settings.prompt_teacher
    return section.weights is None and section.method != "none" and photos.examples is not None


LEARNED = Stage(
    name=NAME,
    version=2,
    title="The teacher learns from the examples",
    make=_make,
    settings=("task", "teacher", "prompt_teacher", "examples.images", "seed"),
    needed=_are_learned,
)
GIVEN = Stage(
    name=NAME,
    version=1,
    title="The teacher takes prompts learned before",
    make=_make,
    settings=("teacher", "prompt_teacher.weights"),
    needed=lambda settings, photos: settings.prompt_teacher.weights is not None,
)
