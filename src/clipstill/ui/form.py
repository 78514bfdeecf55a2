"""What was filled in on the page, as the arguments of ``clipstill run``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from clipstill.core.duration import minutes_of
from clipstill.core.errors import ConfigError, DataError
from clipstill.core.image_folder import ImageFolder
from clipstill.core.names import plain
from clipstill.core.paths import user_path
from clipstill.core.progress import listed
from clipstill.text.task import Task, parse_text
from clipstill.text.word_checks import WordChecks
from clipstill.ui.jobs import QUICK, Jobs
from clipstill.ui.runs import checked_name
from clipstill.ui.uploads import take_in
from clipstill.workflow.recipes import load_settings
from clipstill.workflow.store import default_out

# What to spend, in words; each is settings of the default recipe. Round numbers, not tuned ones.
IN_SECONDS = "In seconds"
EFFORTS: dict[str, tuple[str, ...]] = {
    IN_SECONDS: (),
    "Quick try": (
        "prompts.images_per_class=4",
        "synthesis.steps=10",
        "distillation.steps=300",
        "refusal.near_misses=0",
    ),
    "Default": (),
    "Thorough": ("prompts.images_per_class=48", "synthesis.steps=40", "distillation.steps=2000"),
}
_PHOTOS = {"--examples": "examples", "--unlabelled": "photos without labels", "--images": "photos to measure on"}


@dataclass(frozen=True)
class Form:
    """What was filled in; an empty text is what was not. An upload takes the place of the path before it."""

    classes: str  # One per line, ``name`` or ``name: description``; or one line of names with commas.
    name: str = ""
    examples: str = ""
    examples_upload: tuple[Path, ...] = ()
    unlabelled: str = ""
    unlabelled_upload: tuple[Path, ...] = ()
    measured: str = ""
    measured_upload: tuple[Path, ...] = ()
    teacher: str = ""
    student: str = ""
    effort: str = "Default"  # One of ``EFFORTS``.
    budget: str = ""  # Such as ``30min``.
    settings: str = ""  # Lines of ``KEY=VALUE``.


def run_arguments(form: Form, jobs: Jobs) -> tuple[str, list[str], list[str]]:
    """The run that the form asks for: its name, the arguments of ``clipstill``, and notes on the photos."""
    task = _task(form.classes)
    # Without a name of its own it gets the one that the command line would give it.
    name = checked_name(form.name.strip() or default_out(task).name.lstrip("_-"))
    settings = _settings(form)
    allow_unmatched = load_settings("default", overrides=settings).allow_unmatched
    notes: list[str] = []
    options = [("--classes", str(jobs.write_classes(task)))]
    for option, path, upload in (
        ("--examples", form.examples, form.examples_upload),
        ("--unlabelled", form.unlabelled, form.unlabelled_upload),
        ("--images", form.measured, form.measured_upload),
    ):
        if path.strip() or upload:
            folder, note = photos_given(option, path, upload, jobs, classes=task.names, allow_unmatched=allow_unmatched)
            options.append((option, str(folder)))
            notes.append(note)
    quick = [QUICK] if form.effort == IN_SECONDS else []
    if form.budget.strip():
        minutes_of(form.budget)
        if quick:
            raise ConfigError(f"'{IN_SECONDS}' chooses no settings by a time. Leave 'Time it may take' empty.")
    texts = {"--teacher": form.teacher, "--student": form.student, "--budget": form.budget}
    options += [(option, text.strip()) for option, text in texts.items() if text.strip()]
    options += [("--set", setting) for setting in settings]
    options.append(("--out", str(jobs.workspace / name)))
    return name, ["run", *(part for option in options for part in option), *quick], notes


def look_at_words(form: Form) -> WordChecks:
    """What the names of the form show before a teacher is asked, which takes seconds."""
    task, teacher = _task(form.classes), form.teacher.strip()
    teacher = teacher or load_settings("default", overrides=_settings(form)).teacher.name
    # Other teachers may read other languages. Examples show what a name means.
    is_english, has_examples = teacher.startswith("embedded"), bool(form.examples.strip() or form.examples_upload)
    return WordChecks(task, multilingual=not is_english, with_examples=task.names if has_examples else ())


def photos_given(
    option: str,
    path: str,
    upload: Sequence[Path],
    jobs: Jobs,
    *,
    classes: Sequence[str],
    allow_unmatched: bool = False,
) -> tuple[Path, str]:
    """The folder of photos that a path or an upload stands for, and a note on what is in it.

    Raises:
        DataError: There is none, there are two, or it fits none of the classes.
    """
    title, others = _PHOTOS[option], ""
    if path.strip() and upload:
        raise DataError(f"{title}: both a folder and an upload are given. Take one of them away.")
    if not path.strip() and not upload:
        raise DataError(f"{title}: none are given. Name a folder with one sub-folder a class, or upload a zip of it.")
    if upload:
        taken = take_in(upload, jobs.uploads, labelled=option != "--unlabelled")
        folder = taken.folder
        if taken.left_out:
            others = f"; left out: {plain(listed(taken.left_out, most=5))}"
    else:
        folder = _folder(title, path)
    if option == "--unlabelled":
        found = ImageFolder.without_labels(folder)
    else:
        found = ImageFolder.open(folder, classes, allow_unmatched=allow_unmatched)
    not_used = f"; not used: {plain(found.not_used)}" if found.skipped else ""
    return folder, f"{title}: {len(found.items)} photos{others}{not_used}"


def _task(text: str) -> Task:
    """The classes. A text is never taken for the name of a file, which the page must not open."""
    return parse_text(text)


def _settings(form: Form) -> Sequence[str]:
    """``KEY=VALUE`` texts: of the effort, then those written out, which win."""
    lines = (line.strip() for line in form.settings.splitlines())
    settings = [*EFFORTS[form.effort], *(line for line in lines if line and not line.startswith("#"))]
    load_settings("default", overrides=settings)  # Typing mistakes are reported here, before the run starts.
    return settings


def _folder(title: str, path: str) -> Path:
    folder = user_path(path.strip()).resolve()
    if not folder.is_dir():
        raise DataError(f"{title}: there is no folder {folder}. Check the path, or upload a zip.")
    return folder
