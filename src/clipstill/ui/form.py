"""What was filled in on the page, as the arguments of ``clipstill run``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipstill.api import default_out
from clipstill.core.duration import minutes_of
from clipstill.core.errors import ConfigError, DataError, TaskError
from clipstill.core.files import sha256_json, write_text
from clipstill.text.task import Task, parse_task
from clipstill.ui.jobs import Jobs
from clipstill.ui.runs import checked_name
from clipstill.ui.uploads import Taken, take_in
from clipstill.workflow.recipes import load_settings

# What to spend, in words; each is settings of the default recipe. Half and twice are round numbers, not tuned ones.
EFFORTS: dict[str, tuple[str, ...]] = {
    "Quick try": (
        "prompts.images_per_class=8",
        "synthesis.steps=30",
        "distillation.steps=300",
        "refusal.near_misses=0",
    ),
    "Default": (),
    "Thorough": ("prompts.images_per_class=32", "synthesis.steps=120", "distillation.steps=2000"),
}


@dataclass(frozen=True)
class Form:
    """What was filled in; empty texts and None are what was not.

    Attributes:
        classes: one a line, ``name`` or ``name: description``; or one line of names with commas.
        name: of the run's folder.
        examples: path of a folder of labelled photos to learn from.
        examples_upload: files instead of it; the same for the two below.
        unlabelled: of photos without labels to learn from.
        measured: of labelled photos to measure on.
        teacher: name; the recipe's where empty.
        student: name; the recipe's where empty.
        effort: one of ``EFFORTS``.
        budget: time that it may take, such as ``30min``.
        settings: ``KEY=VALUE`` lines.
    """

    classes: str
    name: str = ""
    examples: str = ""
    examples_upload: tuple[Path, ...] = ()
    unlabelled: str = ""
    unlabelled_upload: tuple[Path, ...] = ()
    measured: str = ""
    measured_upload: tuple[Path, ...] = ()
    teacher: str = ""
    student: str = ""
    effort: str = "Default"
    budget: str = ""
    settings: str = ""


def classes_lines(text: str) -> str:
    """The text of a ``classes.txt``: names in one line with commas between them become lines."""
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) == 1 and "," in lines[0] and ": " not in lines[0]:
        lines = [part.strip() for part in lines[0].split(",") if part.strip()]
    return "".join(f"{line.strip()}\n" for line in lines)


def write_classes(text: str, folder: Path) -> tuple[Path, Task]:
    """Store the classes as a file of lines, and read them back as the command line does.

    The file is named after what it holds: what another run was started with is never written over.

    Raises:
        TaskError: they cannot be used; the line is named.
    """
    lines = classes_lines(text)
    file = folder / f"{sha256_json(lines)[:16]}.txt"
    write_text(file, lines)
    try:
        return file, parse_task(file)
    except TaskError as error:
        # Whoever typed the lines knows of no file.
        raise TaskError(str(error).replace(f" of {file}", "").replace(f" in {file}", "")) from None


def settings_of(form: Form) -> list[str]:
    """``KEY=VALUE`` texts: of the effort, then those written out, which win.

    Raises:
        ConfigError: no such effort, or a setting cannot be used.
    """
    if form.effort not in EFFORTS:
        raise ConfigError(f"there is no effort '{form.effort}'. Choose one of {', '.join(EFFORTS)}.")
    lines = (line.strip() for line in form.settings.splitlines())
    settings = [*EFFORTS[form.effort], *(line for line in lines if line and not line.startswith("#"))]
    load_settings("default", overrides=settings)  # A typing mistake is told at once, and not by the run.
    return settings


def run_arguments(form: Form, jobs: Jobs) -> tuple[str, list[str], list[str]]:
    """The run that the form asks for.

    Returns:
        Its name, the arguments of ``clipstill``, and notes on what was uploaded.

    Raises:
        ClipstillError: something of the form cannot be used.
    """
    file, task = write_classes(form.classes, jobs.classes)
    name = checked_name(form.name.strip()) if form.name.strip() else default_name(task)
    settings = settings_of(form)
    notes: list[str] = []
    arguments = ["run", "--classes", str(file)]
    sources = (
        ("--examples", "examples", form.examples, form.examples_upload, True),
        ("--unlabelled", "photos without labels", form.unlabelled, form.unlabelled_upload, False),
        ("--images", "photos to measure on", form.measured, form.measured_upload, True),
    )
    for option, title, path, upload, labelled in sources:
        folder, note = _folder(title, path, upload, labelled, jobs)
        if folder is not None:
            arguments += [option, str(folder)]
        if note:
            notes.append(note)
    for option, value in (("--teacher", form.teacher), ("--student", form.student)):
        if value.strip():
            arguments += [option, value.strip()]
    if form.budget.strip():
        minutes_of(form.budget)
        arguments += ["--budget", form.budget.strip()]
    for setting in settings:
        arguments += ["--set", setting]
    return name, [*arguments, "--out", str(jobs.workspace / name)], notes


def default_name(task: Task) -> str:
    """``dog-elephant-giraffe-1a2b3c4d``, as the command line names a run that has no name."""
    return checked_name(default_out(task).name.lstrip("_-"))


def _folder(title: str, path: str, upload: Sequence[Path], labelled: bool, jobs: Jobs) -> tuple[Path | None, str]:
    """Where the photos of one kind are, and a note on what came of an upload."""
    if path.strip() and upload:
        raise DataError(f"{title}: both a folder and an upload are given. Take one of them away.")
    if upload:
        taken: Taken = take_in(upload, jobs.uploads, labelled)
        left_out = f"; {taken.left_out} other files were left out" if taken.left_out else ""
        return taken.folder, f"{title}: {taken.photos} photos{left_out}"
    if path.strip():
        folder = Path(path.strip()).expanduser().resolve()
        if not folder.is_dir():
            raise DataError(f"{title}: there is no folder {folder}. Check the path, or upload a zip.")
        return folder, ""
    return None, ""
