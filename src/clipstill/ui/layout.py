"""The layout of the page in Gradio, and which event calls what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from clipstill.core.verdict import LARGER_TEACHER
from clipstill.export import formats
from clipstill.students import students
from clipstill.teachers import teachers
from clipstill.ui.form import EFFORTS
from clipstill.ui.page import NO_PHOTO, STEPS, Page
from clipstill.ui.panels import note, panel
from clipstill.ui.theme import theme

_EFFORT_HINT = (
    "In seconds: a small teacher as it is; nothing is trained, and it answers always. Quick try: half the images, half "
    "as carefully, and never 'none of these'. Thorough: twice of all, about four times as long."
)
# Lists of classes to begin with.
_EXAMPLES = ("dog\ncat\nhorse", "apple\nbanana\norange\nlemon", "crane: a large wading bird\nheron\nstork")
# What each button of a next step says.
_STEPS = {
    "photos": "Give five photos of each class",
    "measure": "Measure it on photos",
    "describe": "Describe the names",
    "teacher": "Try a larger teacher",
}

# A panel: its looks are those of ``style.css`` alone.
_html = partial(gr.HTML, apply_default_css=False)
_line = partial(gr.Textbox, max_lines=1)
_button = partial(gr.Button, scale=0)
_photo = partial(
    gr.Image, label="Photo", sources=["upload", "clipboard", "webcam"], type="filepath", height=340, buttons=[]
)


def build(page: Page) -> tuple[Any, dict[str, Any]]:
    """The page, and its looks as ``gradio.mount_gradio_app`` takes them."""
    with gr.Blocks(title="clipstill", analytics_enabled=False) as blocks:
        shown = gr.State({})
        with gr.Row(elem_classes="cs-top"):
            _html(panel("brand"))
            strip = _html("")
            look: dict[str, Any] = {"show_label": False, "container": False, "scale": 0, "min_width": 260}
            picker = gr.Dropdown(label="Run", choices=[], interactive=True, elem_id="picker", **look)
        with gr.Tabs(selected="start") as tabs:
            with gr.Tab("Start", id="start"):
                started, classes, teacher = _start_tab(page, tabs, picker)
            with gr.Tab("Watch", id="watch"):
                watched, buttons = _watch_tab(page, picker)
            with gr.Tab("Images", id="images") as images_tab:
                _images_tab(page, picker, images_tab)
            with gr.Tab("Try", id="try") as try_tab:
                _try_tab(page, picker, try_tab)
            with gr.Tab("Improve", id="improve") as improve_tab:
                _improve_tab(page, tabs, picker, improve_tab)
            with gr.Tab("Compare", id="compare") as compare_tab:
                _compare_tab(page, compare_tab)
            with gr.Tab("Get", id="get") as get_tab:
                bundle_and_report = _html("", elem_id="get")
                for trigger in (get_tab.select, picker.change):
                    _connect(trigger, page.get, picker, bundle_and_report)
        _connect_buttons(page, buttons, tabs, picker, again=[tabs, classes, teacher])
        for trigger in (gr.Timer(2.0).tick, blocks.load, picker.input, started):
            _connect(trigger, page.renew, [picker, shown], [picker, strip, *watched, shown])
    css = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return blocks, {"theme": theme(), "css": css}


def _connect(trigger: Any, call: Callable[..., Any], inputs: Any, outputs: Any, **more: Any) -> Any:
    """Connect an event, without the veil that Gradio lays over its outputs and without an entry in its public API.

    Events of one call are worked on in the order in which they came, so what was asked last is what stays.
    """
    name = getattr(call, "__qualname__", None)
    return trigger(call, inputs, outputs, concurrency_id=name, show_progress="hidden", api_visibility="private", **more)


def _connect_buttons(page: Page, buttons: dict[str, Any], tabs: Any, picker: Any, *, again: list[Any]) -> None:
    """Let the buttons of a finished run lead to where its next step is made."""
    for name, tab in (("try", "try"), ("get", "get"), ("photos", "improve"), ("measure", "improve")):
        _connect(buttons[name].click, partial(gr.Tabs, selected=tab), None, tabs)
    for name, teacher in (("describe", ""), ("teacher", LARGER_TEACHER)):
        _connect(buttons[name].click, partial(page.again, teacher), picker, again)


def _start_tab(page: Page, tabs: Any, picker: Any) -> tuple[Any, Any, Any]:
    _html(panel("lead"))
    with gr.Row():
        with gr.Column(scale=3):
            classes = gr.Textbox(
                label="Classes, one a line",
                info="A description after a colon helps where a name has two meanings.",
                placeholder="dog\nelephant\nguitar\ncrane: a large wading bird",
                lines=12,
                max_lines=40,
                elem_id="classes",
                autofocus=True,
            )
            gr.Examples([[each] for each in _EXAMPLES], classes, label="For example", api_visibility="private")
        with gr.Column(scale=2):
            effort = gr.Radio(
                list(EFFORTS), value="Default", label="How much care", info=_EFFORT_HINT, elem_id="effort"
            )
            allowed = "Such as 30min; then it chooses what fits. Empty: as long as it needs."
            budget = _line(label="Time it may take", info=allowed, elem_id="budget")
            name = _line(label="Name of this run", placeholder="made of the first names", elem_id="name")
    examples = _photo_folder(
        "A few photos of each class, if you have some", "Five are worth more than all else.", "examples", is_row=True
    )
    photos = [*examples, *_more_photos()]
    with gr.Accordion("Teacher, student and other settings", open=False):
        with gr.Row():
            teacher = _part("Teacher", "What is known about the world comes from it.", teachers.names())
            student = _part("Student", "What you get. Small ones are quick.", students.names())
        settings = gr.Textbox(
            label="Settings, one KEY=VALUE a line",
            placeholder="synthesis.image_size=128\nseed=7",
            lines=3,
            max_lines=20,
            info="As for clipstill run --set. They win over the choices above.",
            elem_id="settings",
        )
    with gr.Row():
        check = _button("Check the names", elem_id="check", min_width=220)
        start = _button("Start", variant="primary", elem_id="start", min_width=180)
    result = _html("", elem_id="said", elem_classes="cs-plan")
    # In the order of the fields of Form.
    inputs = [classes, name, *photos, teacher, student, effort, budget, settings]
    _connect(check.click, page.check, inputs, result)
    return _connect(start.click, page.start, inputs, [result, tabs, picker]).then, classes, teacher


def _more_photos() -> list[Any]:
    """A path and an upload for photos without labels, and for those to measure on."""
    inputs: list[Any] = []
    with gr.Accordion("More photos: without labels, or to measure on", open=False):
        _html(panel("about_photos"))
        with gr.Row():
            for label, info, name in (
                ("Photos without labels", "They teach too: of the place it will work at.", "unlabelled"),
                ("Photos to measure on", "They only measure, so the result is honest.", "measured"),
            ):
                inputs += _photo_folder(label, info, name, single=name == "unlabelled")
    return inputs


def _photo_folder(label: str, info: str, name: str, *, single: bool = False, is_row: bool = False) -> tuple[Any, Any]:
    """A path and an upload of photos."""
    with gr.Row() if is_row else gr.Column(min_width=240):
        path = _line(label=label, info=info, placeholder="/path/to/folder", elem_id=f"{name}-path")
        upload = gr.File(
            label="or upload a zip" + (", or photos" if single else ""),
            height=130,
            elem_id=f"{name}-upload",
            file_count="multiple",
            file_types=["image", ".zip"] if single else [".zip"],
        )
    return path, upload


def _part(label: str, info: str, names: Sequence[str]) -> Any:
    """A choice among the names of a registry."""
    families = ", ".join(name for name in names if name.endswith(":..."))
    return gr.Dropdown(
        label=label,
        info=info + (f" Or type one of a family: {families}" if families else ""),
        choices=[("as the recipe says", ""), *((name, name) for name in names if not name.endswith(":..."))],
        value="",
        allow_custom_value=True,
        elem_id=label.lower(),
    )


def _watch_tab(page: Page, picker: Any) -> tuple[list[Any], dict[str, Any]]:
    """What ``Page.renew`` fills, and the buttons by name."""
    buttons: dict[str, Any] = {}
    with gr.Row():
        with gr.Column(scale=3):
            result = _html("", elem_id="result")
            with gr.Row(visible=False) as done:
                buttons["try"] = _button("Try it", variant="primary", elem_id="to-try", min_width=140)
                buttons["get"] = _button("Get it", elem_id="to-get", min_width=140)
            with gr.Row():
                for name, text in _STEPS.items():
                    buttons[name] = _button(text, visible=False, elem_id=f"step-{name}", min_width=200)
            progress = _html("", elem_id="progress")
            with gr.Row():
                stop = _button("Stop", elem_id="stop", interactive=False, min_width=140)
                go_on = _button("Go on", elem_id="go-on", interactive=False, min_width=140)
            said = _html("", elem_id="watch-said")
        with gr.Column(scale=2, min_width=300):
            preview = _html("", elem_id="preview")
    with gr.Accordion("What it says", open=False):
        log = _html("", elem_id="log")
    _connect(stop.click, page.stop, None, said)
    _connect(go_on.click, page.go_on, picker, said)
    return [progress, preview, log, result, done, *(buttons[name] for name in STEPS), stop, go_on], buttons


def _improve_tab(page: Page, tabs: Any, picker: Any, tab: Any) -> None:
    """What can be done with a finished run, beside looking at it."""
    _html(panel("about_improving"))
    with gr.Row():
        learned = _photo_folder("Labelled photos to learn from", "Five of each class help most.", "improve-examples")
        measured = _photo_folder("Other labelled photos", "They only measure.", "improve-measured")
    photos = [*learned, *measured]
    with gr.Row():
        actions = [("fine-tune", _button("Tune it on the photos", variant="primary", elem_id="tune"), photos)]
        actions.append(("evaluate", _button("Measure it", elem_id="evaluate"), photos))
        actions.append(("ladder", _button("Compare with simpler ways", elem_id="ladder"), photos))
    said = _html("", elem_id="improve-said")
    with gr.Row():
        with gr.Column(min_width=280):
            info = "One a line; images are made of the new classes alone."
            added = gr.Textbox(label="Classes to add", info=info, lines=2, elem_id="add-classes")
            actions.append(("add-class", _button("Add them", elem_id="add"), [added]))
        with gr.Column(min_width=280):
            removed = gr.Dropdown(label="Classes to take out", choices=[], multiselect=True, elem_id="remove-classes")
            actions.append(("remove-class", _button("Take them out", elem_id="remove"), [removed]))
        with gr.Column(min_width=280):
            names = [name for name in formats.names() if name not in ("onnx", "onnx-int8")]
            chosen = gr.CheckboxGroup(names, label="Further formats of the bundle", elem_id="formats")
            actions.append(("export", _button("Write them", elem_id="export"), [chosen]))
    for verb, button, values in actions:
        _connect(button.click, partial(page.improve, verb), [picker, *values], [said, tabs])
    for trigger in (tab.select, picker.change):
        _connect(trigger, page.run_classes, picker, removed)


def _images_tab(page: Page, picker: Any, tab: Any) -> None:
    with gr.Row():
        class_name = gr.Dropdown(label="Class", choices=[("all classes", "")], value="", elem_id="image-class")
        style = gr.Dropdown(label="Style", choices=[("all styles", "")], value="", elem_id="image-style")
        by_score = gr.Checkbox(label="Least sure first", value=False, elem_id="image-order", min_width=160)
    grid = _html("", elem_id="images")
    inputs = [picker, class_name, style, by_score]
    for trigger in (tab.select, picker.change):
        chosen = _connect(trigger, page.image_choices, [picker, class_name, style], [class_name, style])
        _connect(chosen.then, page.images, inputs, grid)
    for each in (class_name, style, by_score):
        _connect(each.input, page.images, inputs, grid)


def _try_tab(page: Page, picker: Any, tab: Any) -> None:
    with gr.Row():
        with gr.Column():
            photo = _photo(elem_id="try-photo")
        with gr.Column():
            kind = gr.Radio([], label="Answered by", visible=False, elem_id="kind")
            answer = _html(note(NO_PHOTO), elem_id="answer")
            threshold = gr.Slider(0, 1, step=0.01, label="Refuse below", visible=False, elem_id="threshold")
            tried = gr.State(None)
    inputs, outputs = [picker, kind, photo, tried], [kind, threshold, tried, answer]
    # A bundle may have been made since the page was opened.
    for trigger in (tab.select, picker.change, photo.change, kind.input):
        _connect(trigger, page.answer, inputs, outputs, preprocess=False)
    # What another threshold would do to this photo; the bundle keeps its own.
    _connect(threshold.input, page.answer, [*inputs, threshold], outputs, preprocess=False, trigger_mode="always_last")


def _compare_tab(page: Page, tab: Any) -> None:
    chosen = gr.Dropdown(label="Classifiers of finished runs", choices=[], multiselect=True, elem_id="compare-runs")
    table = _html("", elem_id="compare-table")
    with gr.Row():
        with gr.Column(scale=2):
            photo = _photo(elem_id="compare-photo")
        with gr.Column(scale=3):
            answers = _html("", elem_id="compare-answers")
    found = _connect(tab.select, page.finished, chosen, chosen)
    for trigger in (found.then, chosen.input):
        _connect(trigger, page.compare, chosen, table, preprocess=False)
    for trigger in (found.then, chosen.input, photo.change):
        _connect(trigger, page.compare_answers, [chosen, photo], answers, preprocess=False)
