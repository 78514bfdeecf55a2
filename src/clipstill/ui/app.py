"""The page itself, in Gradio. It only reads forms and shows panels; what it does lies in the files beside it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gradio as gr

from clipstill.core.errors import ClipstillError, DataError, ResourceError
from clipstill.runtime import Bundle, load_bundle
from clipstill.students import students
from clipstill.teachers import teachers
from clipstill.ui import panels
from clipstill.ui.checking import plan
from clipstill.ui.form import EFFORTS, Form, run_arguments
from clipstill.ui.jobs import Jobs
from clipstill.ui.pictures import images_of
from clipstill.ui.runs import Figures, Run, open_run, runs_in

RENEW_S = 2.0
_ALL = "all"
_EFFORT_HINT = (
    "Quick try: half the images, half as carefully, and never 'none of these'; to see whether it works. Thorough: "
    "twice of all, about four times as long."
)
_EXAMPLE = "dog\nelephant\nguitar\ncrane: a large wading bird"
_SYSTEM_FONTS = (
    "system-ui",
    "-apple-system",
    "Segoe UI",
    "Roboto",
    "Helvetica Neue",
    "Noto Sans",
    "Liberation Sans",
    "Arial",
)
_MONOSPACE = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")

Update = Any


class Page:
    """What the events of the page call.

    Args:
        jobs: runs of the workspace.
        uploads: where Gradio puts files that were uploaded; nothing outside it is read as an upload.
    """

    def __init__(self, jobs: Jobs, uploads: Path) -> None:
        self.jobs = jobs
        self._uploads = uploads.resolve()

    # --- start

    def check(self, *values: Any) -> Iterator[str]:
        """The form -> what is to be said of its names; first that it may take a moment."""
        try:
            _, arguments, notes = run_arguments(self._form(values), self.jobs)
            yield panels.note("Looking at the names; this takes some seconds ...", items=notes)
            yield panels.plan_panel(plan(arguments))
        except ResourceError as error:  # Nothing is wrong with the names.
            yield panels.note(panels.sentence(error))
        except ClipstillError as error:
            yield panels.error_note(error)

    def start(self, *values: Any) -> tuple[Update, Update, Update]:
        """The form -> what happened, the page to turn to, and the run that is shown."""
        try:
            name, arguments, notes = run_arguments(self._form(values), self.jobs)
            self.jobs.start(name, arguments)
        except ClipstillError as error:
            return panels.error_note(error), gr.skip(), gr.skip()
        said = panels.note(f"'{name}' has started.", "good", notes)
        return said, gr.Tabs(selected="watch"), self._picker(name)

    def _form(self, values: Sequence[Any]) -> Form:
        given = dict(zip((field.name for field in dataclasses.fields(Form)), values, strict=True))
        return Form(**{name: self._plain(name, value) for name, value in given.items()})

    def _plain(self, name: str, value: Any) -> Any:
        if name.endswith("_upload"):
            return tuple(self._uploaded(path) for path in value or ())
        return str(value or "")

    def _uploaded(self, path: Any) -> Path:
        """A file of an upload, if it is one."""
        found = Path(str(path)).resolve()
        if not found.is_relative_to(self._uploads) or not found.is_file():
            raise DataError("the upload is not there any more. Upload it again.")
        return found

    # --- watch

    def renew(self, name: str | None, shown: dict[str, str]) -> tuple[Update, ...]:
        """What changes while a run is at work; pieces that did not change are left alone.

        Returns:
            Updates of the picker, the strip, progress, picture, log and the two buttons, and what is shown now.
        """
        names = self._names()
        busy = self.jobs.at_work()
        current = name if name in names else busy or (names[0] if names else None)
        run = self._run(current)
        busy_run = run if busy == current else self._run(busy)
        lines = self.jobs.lines(current) if current is not None else []
        own = self.jobs.own_at_work()
        pieces = {
            "names": "\n".join([*names, f"chosen {current}"]),
            "strip": panels.strip(busy, busy_run, self.jobs.lines(busy) if busy else []),
            "progress": self._progress(current, run, lines, busy),
            "preview": panels.preview_panel(run, busy == current) if run is not None else "",
            "log": panels.log_panel(lines),
            "stop": str(own is not None and own == current),
            "go_on": str(busy is None and current is not None and not (run is not None and run.finished)),
        }
        changed = {key for key, value in pieces.items() if shown.get(key) != value}
        if not changed:
            return tuple(gr.skip() for _ in range(8))
        updates: dict[str, Update] = {
            **pieces,
            # A value that is the right one is not set: another run may have been chosen since this was asked.
            "names": gr.Dropdown(choices=names) if current == name else gr.Dropdown(choices=names, value=current),
            "stop": gr.Button(interactive=pieces["stop"] == "True"),
            "go_on": gr.Button(interactive=pieces["go_on"] == "True"),
        }
        return (*(updates[key] if key in changed else gr.skip() for key in pieces), pieces)

    def _progress(self, name: str | None, run: Run | None, lines: Sequence[str], busy: str | None) -> str:
        if name is None:
            return panels.empty_watch(str(self.jobs.workspace))
        at_work = busy == name
        finished = run is not None and run.finished
        trouble = None if at_work or finished else self.jobs.trouble(name)
        return panels.progress_panel(name, run, trouble, lines, at_work, own=self.jobs.own_at_work() == name)

    def stop(self) -> str:
        """Stop what is at work."""
        try:
            name = self.jobs.stop()
        except ClipstillError as error:
            return panels.error_note(error)
        if name is None:
            return panels.note("Nothing that was started on this page is at work.")
        return ""  # The stages beside it say so.

    def go_on(self, name: str | None) -> str:
        """Go on with what was stopped."""
        if name is None:
            return panels.note("Choose a run first.")
        try:
            self.jobs.go_on(name)
        except ClipstillError as error:
            return panels.error_note(error)
        return ""

    # --- images

    def image_choices(self, name: str | None) -> tuple[Update, Update]:
        """Classes and styles of a run, to choose from."""
        run = self._run(name)
        classes = list(run.task.names) if run is not None and run.task is not None else []
        styles = run.style_names() if run is not None else []
        return (
            gr.Dropdown(choices=[("all classes", _ALL), *((each, f"={each}") for each in classes)], value=_ALL),
            gr.Dropdown(choices=[("all styles", _ALL), *((each, f"={each}") for each in styles)], value=_ALL),
        )

    def images(self, name: str | None, class_name: str | None, style: str | None, by_score: bool) -> str:
        """The grid of synthetic images."""
        run = self._run(name)
        if run is None:
            return panels.empty_watch(str(self.jobs.workspace))
        try:
            # A class may be called "all": names of the run carry a sign in front.
            chosen = [None if value in (None, _ALL) else str(value)[1:] for value in (class_name, style)]
            return panels.images_panel(run, images_of(run.path, run.task), chosen[0], chosen[1], by_score)
        except ClipstillError as error:
            return panels.error_note(error)

    # --- try, compare, get

    def answer(self, name: str | None, photo: Any) -> str:
        """A photo -> what the run's classifier says of it."""
        run = self._run(name)
        if run is None or not run.has_bundle:
            return panels.note("This run has no classifier yet. Choose a finished one above.")
        path = self._photo(photo)
        if isinstance(path, str):
            return path
        try:
            (found,) = _bundle(run).answer([path])
            return panels.answer_panel(found, run.figures())
        except ClipstillError as error:
            return panels.error_note(_about_upload(error, path))

    def compare(self, names: list[str] | None, photo: Any) -> tuple[str, str]:
        """Finished runs -> their figures beside each other, and their answers to one photo."""
        rows: list[tuple[str, Figures]] = []
        try:
            runs = [run for name in names or [] if (run := self._run(name)) is not None and run.has_bundle]
            rows = [(run.name, run.figures()) for run in runs]
            table = panels.compare_table(rows)
        except ClipstillError as error:
            return panels.error_note(error), ""
        path = self._photo(photo)
        if isinstance(path, str):
            return table, path if photo else ""
        try:
            answers = [(run.name, _bundle(run).answer([path])[0]) for run in runs]
        except ClipstillError as error:
            return table, panels.error_note(_about_upload(error, path))
        return table, panels.compare_answers(answers) if answers else ""

    def finished(self, names: list[str] | None) -> Update:
        """Runs that can be compared; those that are gone are not chosen any more."""
        choices = []
        for name in runs_in(self.jobs.workspace):
            run = self._run(name)
            if run is not None and run.has_bundle:
                choices.append(name)
        return gr.Dropdown(choices=choices, value=[name for name in names or choices[:2] if name in choices])

    def get(self, name: str | None) -> tuple[str, str]:
        """What is to be taken away, and the report."""
        run = self._run(name)
        if run is None:
            return panels.empty_watch(str(self.jobs.workspace)), ""
        try:
            command: Sequence[str] | None = self.jobs.command(run.name)
        except ClipstillError:
            command = None
        return panels.get_panel(run, command), panels.report_panel(run) if run.has_bundle else ""

    def _picker(self, name: str) -> Update:
        return gr.Dropdown(choices=self._names(), value=name)

    def _names(self) -> list[str]:
        """Runs of the workspace, and those that were started here and have no folder yet, or never got one."""
        names = runs_in(self.jobs.workspace)
        return [*(name for name in self.jobs.started if name not in names), *names]

    def _run(self, name: str | None) -> Run | None:
        if not name:
            return None
        try:
            return open_run(self.jobs.workspace, name)
        except ClipstillError:
            return None

    def _photo(self, photo: Any) -> Path | str:
        """The file of an uploaded photo; or what to say where there is none.

        Gradio would open the photo by itself, and show a message of its own where it cannot. So events take it raw.
        """
        if not isinstance(photo, dict) or not photo.get("path"):
            return panels.note("Drop a photo on the left, paste one, or take one with the camera.")
        try:
            return self._uploaded(photo["path"])
        except ClipstillError as error:
            return panels.error_note(error)


def _about_upload(error: ClipstillError, path: Path) -> ClipstillError:
    """The same without the folder that Gradio put the upload into, which nobody knows."""
    return type(error)(str(error).replace(str(path), path.name))


def _bundle(run: Run) -> Bundle:
    return _opened(run.bundle, (run.bundle / "MANIFEST.json").stat().st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _opened(folder: Path, _version: int) -> Bundle:
    return load_bundle(folder)


def _theme() -> Any:
    teal = gr.themes.Color(
        name="clipstill",
        c50="#eef7f5",
        c100="#d5ece8",
        c200="#abd9d2",
        c300="#74c0b5",
        c400="#3cc2b0",
        c500="#0c7a6d",
        c600="#0c7a6d",
        c700="#0a665b",
        c800="#085048",
        c900="#173b37",
        c950="#0b1f1c",
    )
    paper = {"paper": ("#faf9f6", "#121416"), "card": ("#ffffff", "#1a1d20"), "line": ("#e5e3dd", "#2c3034")}
    base = gr.themes.Base(
        # Names of fonts that the system has: Gradio's own choice would be fetched.
        primary_hue=teal,
        secondary_hue=teal,
        neutral_hue="stone",
        radius_size="lg",
        font=_SYSTEM_FONTS,
        font_mono=_MONOSPACE,
    )
    values: dict[str, str] = {}
    for name, colour in (
        ("body_background_fill", "paper"),
        ("background_fill_primary", "card"),
        ("background_fill_secondary", "paper"),
        ("block_background_fill", "card"),
        ("block_border_color", "line"),
        ("border_color_primary", "line"),
        ("input_background_fill", "card"),
        ("input_border_color", "line"),
        ("panel_background_fill", "paper"),
    ):
        values[name], values[f"{name}_dark"] = paper[colour]
    pairs = {
        "body_text_color": ("#1d1f21", "#e9eaeb"),
        "body_text_color_subdued": ("#5d6268", "#a4aab0"),
        "block_label_text_color": ("#5d6268", "#a4aab0"),
        "block_title_text_color": ("#1d1f21", "#e9eaeb"),
        "block_info_text_color": ("#5d6268", "#a4aab0"),
        "button_primary_background_fill": ("#0c7a6d", "#3cc2b0"),
        "button_primary_background_fill_hover": ("#0a665b", "#5fd0c1"),
        "button_primary_text_color": ("#ffffff", "#0b1f1c"),
        "button_secondary_background_fill": ("#ffffff", "#1a1d20"),
        "button_secondary_background_fill_hover": ("#edebe5", "#2a2e32"),
        "button_secondary_border_color": ("#e5e3dd", "#2c3034"),
        "button_secondary_text_color": ("#1d1f21", "#e9eaeb"),
        "link_text_color": ("#0c7a6d", "#3cc2b0"),
        "slider_color": ("#0c7a6d", "#3cc2b0"),
    }
    for name, (light, dark) in pairs.items():
        values[name], values[f"{name}_dark"] = light, dark
    return base.set(
        **values,
        input_border_width="1px",
        button_border_width="1px",
        block_shadow="none",
        block_shadow_dark="none",
        button_primary_shadow="none",
    )


def build(page: Page) -> tuple[Any, dict[str, Any]]:
    """The page, and how it is to look, as ``gradio.mount_gradio_app`` takes them."""
    with gr.Blocks(title="clipstill", analytics_enabled=False) as blocks:
        shown = gr.State({})
        with gr.Row(elem_classes="cs-top"):
            _html(panels.BRAND)
            strip = _html("")
            picker = gr.Dropdown(
                label="Run",
                show_label=False,
                choices=[],
                interactive=True,
                container=False,
                elem_id="picker",
                scale=0,
                min_width=260,
            )
        with gr.Tabs(selected="start") as tabs:
            with gr.Tab("Start", id="start"):
                started = _start_tab(page, tabs, picker)
            with gr.Tab("Watch", id="watch"):
                watched = _watch_tab(page, picker)
            with gr.Tab("Images", id="images") as images_tab:
                _images_tab(page, picker, images_tab)
            with gr.Tab("Try", id="try"):
                _try_tab(page, picker)
            with gr.Tab("Compare", id="compare") as compare_tab:
                _compare_tab(page, compare_tab)
            with gr.Tab("Get", id="get") as get_tab:
                taken = [_html(elem_id="get"), _html()]
                _quietly(get_tab.select, page.get, picker, taken)
                _quietly(picker.change, page.get, picker, taken)
        renewed = [picker, strip, *watched, shown]
        for trigger in (gr.Timer(RENEW_S).tick, blocks.load, picker.input, started):
            _quietly(trigger, page.renew, [picker, shown], renewed)
    css = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return blocks, {"theme": _theme(), "css": css}


def _html(value: str = "", **more: Any) -> Any:
    """A panel: its looks are those of ``style.css`` alone."""
    return gr.HTML(value, apply_default_css=False, **more)


def _quietly(trigger: Any, call: Callable[..., Any], inputs: Any, outputs: Any, **more: Any) -> Any:
    """Without the veil that Gradio lays over outputs that are at work, and without an entry in a public interface."""
    return trigger(call, inputs, outputs, show_progress="hidden", api_visibility="private", **more)


def _start_tab(page: Page, tabs: Any, picker: Any) -> Any:
    _html(
        "<div class='cs-lead'><h2>What should it tell apart?</h2><p>Type the names. clipstill makes synthetic images "
        "of them, teaches a small network with these, and packs it for you. Photos are not needed; where you have "
        "some, they help.</p></div>"
    )
    with gr.Row():
        with gr.Column(scale=3):
            classes = gr.Textbox(
                label="Classes, one a line",
                info="A description after a colon helps where a name has two meanings.",
                placeholder=_EXAMPLE,
                lines=12,
                max_lines=40,
                elem_id="classes",
                autofocus=True,
            )
        with gr.Column(scale=2):
            effort = gr.Radio(
                list(EFFORTS), value="Default", label="How much care", info=_EFFORT_HINT, elem_id="effort"
            )
            budget = gr.Textbox(
                label="Time it may take",
                info="Such as 30min; then it chooses what fits. Empty: as long as it needs.",
                max_lines=1,
                elem_id="budget",
            )
            name = gr.Textbox(
                label="Name of this run", placeholder="made of the first names", max_lines=1, elem_id="name"
            )
    with gr.Accordion("I have photos", open=False):
        _html(
            "<p class='cs-hint'>Each is a folder on this machine, or an upload that is copied into the workspace. "
            "Labelled photos need one folder a class, named as the class is.</p>"
        )
        with gr.Row():
            examples = _photos("A few examples of each class", "They teach.", "examples")
            unlabelled = _photos("Photos without labels", "They teach too: of the place it will work at.", "unlabelled")
            measured = _photos("Photos to measure on", "They only measure, so the result is honest.", "measured")
    with gr.Accordion("Teacher, student and other settings", open=False):
        with gr.Row():
            teacher = _choice("Teacher", "What is known about the world comes from it.", teachers.names())
            student = _choice("Student", "What you get. Small ones are quick.", students.names())
        settings = gr.Textbox(
            label="Settings, one KEY=VALUE a line",
            placeholder="synthesis.image_size=128\nseed=7",
            lines=3,
            max_lines=20,
            info="As for clipstill run --set. They win over the choices above.",
            elem_id="settings",
        )
    with gr.Row():
        check = gr.Button("Check the names", elem_id="check", scale=0, min_width=220)
        start = gr.Button("Start", variant="primary", elem_id="start", scale=0, min_width=180)
    said = _html("", elem_id="said", elem_classes="cs-plan")
    # In the order of the fields of Form.
    inputs = [classes, name, *examples, *unlabelled, *measured, teacher, student, effort, budget, settings]
    _quietly(check.click, page.check, inputs, said)
    done = _quietly(start.click, page.start, inputs, [said, tabs, picker])
    return done.then


def _photos(label: str, info: str, name: str) -> tuple[Any, Any]:
    with gr.Column(min_width=240):
        path = gr.Textbox(label=label, info=info, placeholder="/path/to/folder", max_lines=1, elem_id=f"{name}-path")
        many = name == "unlabelled"
        upload = gr.File(
            label="or upload a zip" + (", or photos" if many else ""),
            height=160,
            elem_id=f"{name}-upload",
            file_count="multiple",
            file_types=["image", ".zip"] if many else [".zip"],
        )
    return path, upload


def _choice(label: str, info: str, names: Sequence[str]) -> Any:
    plain = [name for name in names if not name.endswith(":...")]
    families = ", ".join(name for name in names if name.endswith(":..."))
    more = f" Or type one of a family: {families}" if families else ""
    return gr.Dropdown(
        label=label,
        info=info + more,
        choices=[("as the recipe says", ""), *((name, name) for name in plain)],
        value="",
        allow_custom_value=True,
        elem_id=label.lower(),
    )


def _watch_tab(page: Page, picker: Any) -> list[Any]:
    with gr.Row():
        with gr.Column(scale=3):
            progress = _html("", elem_id="progress")
            with gr.Row():
                stop = gr.Button("Stop", elem_id="stop", interactive=False, scale=0, min_width=140)
                go_on = gr.Button("Go on", elem_id="go-on", interactive=False, scale=0, min_width=140)
            said = _html("", elem_id="watch-said")
        with gr.Column(scale=2, min_width=300):
            preview = _html("", elem_id="preview")
    with gr.Accordion("What it says", open=False):
        log = _html("", elem_id="log")
    _quietly(stop.click, page.stop, None, said)
    _quietly(go_on.click, page.go_on, picker, said)
    return [progress, preview, log, stop, go_on]


def _images_tab(page: Page, picker: Any, tab: Any) -> None:
    with gr.Row():
        class_name = gr.Dropdown(label="Class", choices=[("all classes", _ALL)], value=_ALL, elem_id="image-class")
        style = gr.Dropdown(label="Style", choices=[("all styles", _ALL)], value=_ALL, elem_id="image-style")
        by_score = gr.Checkbox(label="Least sure first", value=False, elem_id="image-order", min_width=160)
    grid = _html("", elem_id="images")
    inputs = [picker, class_name, style, by_score]
    for trigger in (tab.select, picker.change):
        chosen = _quietly(trigger, page.image_choices, picker, [class_name, style])
        _quietly(chosen.then, page.images, inputs, grid)
    for each in (class_name, style, by_score):
        _quietly(each.input, page.images, inputs, grid)


def _photo_input(elem_id: str) -> Any:
    return gr.Image(
        label="Photo",
        sources=["upload", "clipboard", "webcam"],
        type="filepath",
        height=340,
        elem_id=elem_id,
        buttons=[],
    )


def _try_tab(page: Page, picker: Any) -> None:
    with gr.Row():
        with gr.Column():
            photo = _photo_input("try-photo")
        with gr.Column():
            answer = _html(
                panels.note("Drop a photo on the left, paste one, or take one with the camera."), elem_id="answer"
            )
    for trigger in (photo.change, picker.change):
        _quietly(trigger, page.answer, [picker, photo], answer, preprocess=False)


def _compare_tab(page: Page, tab: Any) -> None:
    chosen = gr.Dropdown(label="Finished runs", choices=[], multiselect=True, elem_id="compare-runs")
    table = _html("", elem_id="compare-table")
    with gr.Row():
        with gr.Column(scale=2):
            photo = _photo_input("compare-photo")
        with gr.Column(scale=3):
            answers = _html("", elem_id="compare-answers")
    found = _quietly(tab.select, page.finished, chosen, chosen)
    _quietly(found.then, page.compare, [chosen, photo], [table, answers], preprocess=False)
    for trigger in (chosen.input, photo.change):
        _quietly(trigger, page.compare, [chosen, photo], [table, answers], preprocess=False)
