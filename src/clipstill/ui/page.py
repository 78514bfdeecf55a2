"""What the events of the page do: read what was filled in or chosen, act, and return panels."""

from __future__ import annotations

import dataclasses
import functools
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from PIL import Image

from clipstill.core.errors import ClipstillError, DataError
from clipstill.core.files import MANIFEST
from clipstill.core.images import load_rgb
from clipstill.runtime import Bundle, load_bundle
from clipstill.ui import panels
from clipstill.ui.form import Form, look_at_words, photos_given, run_arguments
from clipstill.ui.jobs import QUICK, Jobs, Watched, ask_plan
from clipstill.ui.panels import panel
from clipstill.ui.pictures import images_of
from clipstill.ui.runs import BUNDLES, TUNED_FOLDER, Run, open_run, runs_in
from clipstill.workflow.records import StoredAdvice

NO_PHOTO = "Drop a photo on the left, paste one, or take one with the camera."
# The next steps of ``core.verdict``, each a button.
STEPS = ("photos", "measure", "describe", "teacher")
# Between the names of a run and of its bundle; no run's name has it.
_OF = " / "
Update = Any
Found = TypeVar("Found")


def _errors_as_notes(event: Callable[..., str]) -> Callable[..., str]:
    """An event that fills one panel; an error is shown there as a note."""

    @functools.wraps(event)
    def with_errors(*values: Any) -> str:
        try:
            return event(*values)
        except ClipstillError as error:
            return panels.error_note(error)

    return with_errors


@dataclasses.dataclass(frozen=True)
class Tried:
    """The bundle that answers on the page Try, its own threshold, and the one that is tried in its place."""

    run: str | None
    kind: str | None
    own: float | None
    threshold: float | None


class Page:
    """The events of the page. A file outside of ``uploads``, where Gradio puts them, is not read as an upload."""

    def __init__(self, jobs: Jobs, uploads: Path) -> None:
        self.jobs = jobs
        self._uploads = uploads.resolve()

    # --- start

    def check(self, *values: Any) -> Iterator[str]:
        """Look at the names of the form: at once at their words, then by the plan, which asks the teacher."""
        try:
            form = self._form(values)
            _, arguments, notes = run_arguments(form, self.jobs)
            yield panels.words_panel(look_at_words(form), notes)
            yield panel("plan", ask_plan(arguments))
        except ClipstillError as error:
            yield panels.error_note(error)

    def start(self, *values: Any) -> tuple[Update, Update, Update]:
        """Start the run of the form; return a note, the tab to turn to, and the run to show."""
        try:
            name, arguments, notes = run_arguments(self._form(values), self.jobs)
            self.jobs.start(name, arguments)
        except ClipstillError as error:
            return panels.error_note(error), gr.skip(), gr.skip()
        started = panels.note(f"'{name}' has started.", "good", notes)
        return started, gr.Tabs(selected="watch"), gr.Dropdown(choices=self.jobs.names(), value=name)

    def _form(self, values: Sequence[Any]) -> Form:
        given: dict[str, Any] = {}
        for field, value in zip(dataclasses.fields(Form), values, strict=True):
            is_upload = field.name.endswith("_upload")
            given[field.name] = tuple(map(self._uploaded, value or ())) if is_upload else str(value or "")
        return Form(**given)

    def _uploaded(self, path: Any) -> Path:
        found = Path(str(path)).resolve()
        if not found.is_relative_to(self._uploads) or not found.is_file():
            raise DataError("the upload is not there any more. Upload it again.")
        return found

    # --- watch

    def renew(self, name: str | None, shown: dict[str, str]) -> tuple[Update, ...]:
        """Renew the panels of the chosen run; those that did not change are left alone.

        Args:
            name: Run that is chosen.
            shown: What ``renew`` returned last.

        Returns:
            Updates of the picker, the strip, progress, picture, log, result, the buttons, and what is shown now.
        """
        names = self.jobs.names()
        busy = self.jobs.running()
        current = name if name in names else busy or (names[0] if names else None)
        chosen = None if current is None else self.jobs.watch(current, busy)
        done, advice = _result_of(chosen)
        quick = done is not None and done.is_quick
        is_running = chosen if busy == current else self.jobs.watch(busy, busy) if busy is not None else None
        pieces = {
            "names": "\n".join([*names, f"chosen {current}"]),
            "strip": panel("strip", is_running),
            "progress": self._no_run() if chosen is None else panel("progress", chosen),
            "preview": panel("preview", chosen.run, chosen.is_running) if chosen is not None and chosen.run else "",
            "log": panel("log", [] if chosen is None else chosen.lines),
            "result": panel("result", done, advice, done.figures()) if done else "",
            "done": str(done is not None),
            **{step: str(step in (advice or {"steps": {}})["steps"]) for step in STEPS},
            "stop": str(chosen is not None and chosen.own),
            "go_on": "" if busy or chosen is None else "Train the student too" if quick else "" if done else "Go on",
        }
        changed = {key for key, value in pieces.items() if shown.get(key) != value}
        if not changed:
            return tuple(gr.skip() for _ in range(len(pieces) + 1))
        updates: dict[str, Update] = {
            **pieces,
            # A value that is the right one is not set: another run may have been chosen since this was asked.
            "names": gr.Dropdown(choices=names) if current == name else gr.Dropdown(choices=names, value=current),
            "stop": gr.Button(interactive=pieces["stop"] == "True"),
            "go_on": gr.Button(pieces["go_on"] or "Go on", interactive=bool(pieces["go_on"])),
            "done": gr.Row(visible=pieces["done"] == "True"),
            **{step: gr.Button(visible=pieces[step] == "True") for step in STEPS},
        }
        return (*(updates[key] if key in changed else gr.skip() for key in pieces), pieces)

    @_errors_as_notes
    def stop(self) -> str:
        """Stop the active run; the stages beside the button show it."""
        stopped = self.jobs.stop()
        return "" if stopped is not None else panels.note("Nothing that was started on this page is running.")

    @_errors_as_notes
    def go_on(self, name: str) -> str:
        """Go on with a run that was stopped, or behind a quick one, by the command that made it."""
        run, command = self.jobs.run(name), self.jobs.command(name)
        self.jobs.start(name, [each for each in command if each != QUICK] if run and run.finished else command)
        return ""

    def again(self, teacher: str, name: str | None) -> tuple[Update, Update, Update]:
        """The page Start with the classes of a run, and with a teacher."""
        run = self.jobs.run(name)
        if run is None or run.task is None:
            return gr.skip(), gr.skip(), gr.skip()
        entries = zip(run.task.names, run.task.descriptions, strict=True)
        classes = "\n".join(f"{each}: {text}" if text else each for each, text in entries)
        return gr.Tabs(selected="start"), classes, teacher

    # --- improve

    def improve(self, verb: str, name: str | None, *values: Any) -> tuple[str, Update]:
        """Start what is done with a finished run: ``VERBS`` says with what; return a note and the tab to turn to."""
        try:
            run = self._chosen(name)
            if run is None or run.task is None or not run.finished or run.is_quick:
                raise DataError("this needs a finished run with a student. Choose one above.")
            arguments, notes = self._arguments(verb, run, values)
            self.jobs.start(run.name, [verb, str(run.path), *arguments])
        except ClipstillError as error:
            return panels.error_note(error), gr.skip()
        return panels.note("It has started.", "good", notes), gr.Tabs(selected="watch")

    def _arguments(self, verb: str, run: Run, values: Sequence[Any]) -> tuple[list[str], list[str]]:
        """Arguments of a verb behind the run, and notes on photos."""
        assert run.task is not None
        if verb == "export":
            if not values[0]:
                raise DataError("no format is chosen.")
            return [part for each in values[0] for part in ("--format", str(each))], []
        if verb == "remove-class":
            if not values[0]:
                raise DataError("no class is chosen.")
            return ["--", *map(str, values[0])], []
        if verb == "add-class":
            lines = [line.strip() for line in str(values[0] or "").splitlines() if line.strip()]
            if not lines:
                raise DataError("no class is named.")
            return ["--", *lines], []
        arguments, notes = [], []
        for option, path, upload in zip(("--examples", "--images"), values[::2], values[1::2], strict=True):
            is_needed = option == ("--examples" if verb == "fine-tune" else "--images")
            if is_needed or str(path or "").strip() or upload:
                given = tuple(map(self._uploaded, upload or ()))
                folder, note = photos_given(option, str(path or ""), given, self.jobs, classes=run.task.names)
                notes.append(note)
                # Nothing is learned where the verb only measures.
                arguments += [] if verb == "evaluate" and option == "--examples" else [option, str(folder)]
        out = ["--out", str(run.path / TUNED_FOLDER)] if verb == "fine-tune" else []
        return [*arguments, *out], notes

    def run_classes(self, name: str | None) -> Update:
        """The classes of a run, to choose those that are taken out."""
        run = self.jobs.run(name)
        return gr.Dropdown(choices=list(run.task.names) if run is not None and run.task is not None else [], value=[])

    # --- images

    def image_choices(self, name: str | None, class_name: str | None, style: str | None) -> tuple[Update, Update]:
        """Classes and styles of a run, to choose from. What is chosen stays where the run has it."""
        run = self.jobs.run(name)
        classes = run.task.names if run is not None and run.task is not None else ()
        styles = run.style_names() if run is not None else []
        return choices("all classes", classes, class_name), choices("all styles", styles, style)

    @_errors_as_notes
    def images(self, name: str | None, class_name: str | None, style: str | None, by_score: bool) -> str:
        """The grid of synthetic images; an empty class or style stands for all."""
        run = self._chosen(name)
        if run is None:
            return self._no_run()
        images = images_of(run.path, run.task)
        return panels.images_panel(run, images, class_name=class_name, style=style, by_score=by_score)

    # --- try, compare, get

    def answer(
        self, name: str | None, kind: str | None, photo: Any, tried: Tried | None, threshold: float | None = None
    ) -> tuple[Update, Update, Tried, str]:
        """What a classifier of the run says of a photo.

        Args:
            name: Run that is chosen.
            kind: Which of its bundles answers; the first one where the run has no such bundle.
            photo: Upload, or None.
            tried: What this function returned last; its threshold holds as long as the same bundle answers.
            threshold: Another one, that the slider was just drawn to.

        Returns:
            The choice of bundles, hidden where there is but one; the slider, hidden for a bundle that never refuses;
            what is tried now; the answer.
        """
        run, own = self.jobs.run(name), None
        kinds = run.bundles if run is not None else ()
        kind = kind if kind in kinds else next(iter(kinds), None)
        if run is not None and kind is not None:
            with suppress(ClipstillError):  # What is damaged is told where the answer stands.
                own = run.figures(kind)["refusal_threshold"]
        is_new = tried is None or (tried.run, tried.kind, tried.own) != (name, kind, own)
        held = own if tried is None or is_new else tried.threshold
        now = Tried(name, kind, own, held if threshold is None or is_new else threshold)
        choice = gr.Radio([(BUNDLES[kind], kind) for kind in kinds], value=kind, visible=len(kinds) > 1)
        info = "" if own is None else f"The classifier's own threshold is {own:.2f}. Try what another would do."
        slider = gr.Slider(value=own or 0, info=info, visible=own is not None) if is_new else gr.skip()
        return choice, slider, now, self._answer(name, kind, photo, now.threshold)

    @_errors_as_notes
    def _answer(self, name: str | None, kind: str | None, photo: Any, threshold: float | None) -> str:
        run = self._chosen(name)
        if run is None or not run.bundles:
            return panels.note("This run has no classifier yet. Choose a finished one above.")
        picture = self._picture(photo)
        if picture is None:
            return panels.note(NO_PHOTO)
        found = _bundle(run, kind).answer([picture])[0]
        if threshold is not None:
            found = dataclasses.replace(found, refused=found.predictions[0].score < threshold)
        return panel("answer", found, run.figures(kind))

    @_errors_as_notes
    def compare(self, names: list[str] | None) -> str:
        """The figures of finished runs beside each other."""
        found, damaged = _of_each(self._finished(names), lambda run, kind: run.figures(kind))
        return panels.compare_table(found) + damaged

    @_errors_as_notes
    def compare_answers(self, names: list[str] | None, photo: Any) -> str:
        """The answers of finished runs to one photo."""
        runs, picture = self._finished(names), self._picture(photo)
        if picture is None or not runs:
            return ""
        found, damaged = _of_each(runs, lambda run, kind: _bundle(run, kind).answer([picture])[0])
        return panel("compare_answers", found) + damaged

    def finished(self, names: list[str] | None) -> Update:
        """Runs that can be compared; those that are gone are not chosen any more."""
        runs = filter(None, map(self.jobs.run, runs_in(self.jobs.workspace)))
        finished = [f"{run.name}{_OF}{BUNDLES[kind]}" for run in runs for kind in run.bundles]
        return gr.Dropdown(choices=finished, value=[name for name in names or finished[:2] if name in finished])

    @_errors_as_notes
    def get(self, name: str | None) -> str:
        """The bundle to download, the commands that make it, and the report."""
        run = self._chosen(name)
        if run is None:
            return self._no_run()
        if not run.bundles:
            return panels.note("This run has no classifier yet. Watch it, or go on with it, until it is finished.")
        command = ""
        with suppress(ClipstillError):
            command = shlex.join(["clipstill", *self.jobs.command(run.name)])
        predict = shlex.join(["clipstill", "predict", str(run.path), "photo.jpg"])
        bundles = [(kind, BUNDLES[kind], run.figures(kind)) for kind in run.bundles]
        return panel("get", run, bundles, run.advice(), command=command, predict=predict)

    def _chosen(self, name: str | None) -> Run | None:
        """The run of this name, None where there is none; a damaged one raises an error that says so."""
        return open_run(self.jobs.workspace, name) if name in runs_in(self.jobs.workspace) and name else None

    def _finished(self, names: list[str] | None) -> list[tuple[str, Run, str]]:
        """Bundles by the names that ``finished`` gave them: the name, the run, and the kind of the bundle."""
        found = []
        for name in names or ():
            run, title = self.jobs.run(name.partition(_OF)[0]), name.partition(_OF)[2]
            found += [(name, run, kind) for kind in run.bundles if BUNDLES[kind] == title] if run is not None else []
        return found

    def _no_run(self) -> str:
        return panels.note(f"There is no run in {self.jobs.workspace} yet. Type names on the page Start.")

    def _picture(self, photo: Any) -> Image.Image | None:
        """An uploaded photo; None where there is none.

        Gradio would open the photo by itself, and show a message of its own where it cannot. So events take it raw.
        """
        if not isinstance(photo, dict) or not photo.get("path"):
            return None
        path = self._uploaded(photo["path"])
        return load_rgb(path, path.name)


def _result_of(watched: Watched | None) -> tuple[Run | None, StoredAdvice | None]:
    """A run that is finished and at rest, and its advice; None for others, and for what is damaged."""
    if watched is None or watched.is_running or watched.run is None or not watched.run.finished:
        return None, None
    try:
        watched.run.figures()
        return watched.run, watched.run.advice()
    except ClipstillError:
        return None, None


def _of_each(
    bundles: Sequence[tuple[str, Run, str]], find: Callable[[Run, str], Found]
) -> tuple[list[tuple[str, Found]], str]:
    """What is found for each bundle by its name, and a note for each that is damaged."""
    found, notes = [], ""
    for name, run, kind in bundles:
        try:
            found.append((name, find(run, kind)))
        except ClipstillError as error:
            notes += panels.error_note(error)
    return found, notes


def choices(everything: str, names: Sequence[str], chosen: str | None) -> Update:
    """A dropdown of names, with an entry for all of them, whose value is empty; it falls back to that."""
    entries = [(everything, ""), *((name, name) for name in names)]
    # A value that stands is left alone: another may have been chosen in the meantime.
    return gr.Dropdown(choices=entries) if chosen in names else gr.Dropdown(choices=entries, value="")


def _bundle(run: Run, kind: str | None) -> Bundle:
    folder = run.bundle(kind)
    return _open_bundle(folder, (folder / MANIFEST).stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _open_bundle(folder: Path, _version: int) -> Bundle:
    return load_bundle(folder)
