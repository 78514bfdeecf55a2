"""The layout of the page in Gradio, and which event calls what."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from clipstill.students import students
from clipstill.teachers import teachers
from clipstill.ui.form import EFFORTS
from clipstill.ui.page import NO_PHOTO, Page
from clipstill.ui.panels import note, panel
from clipstill.ui.theme import theme

_EFFORT_HINT = (
    "Quick try: half the images, half as carefully, and never 'none of these'; to see whether it works. Thorough: "
    "twice of all, about four times as long."
)

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
                bundle_and_report = _html("", elem_id="get")
                for trigger in (get_tab.select, picker.change):
                    _connect(trigger, page.get, picker, bundle_and_report)
        for trigger in (gr.Timer(2.0).tick, blocks.load, picker.input, started):
            _connect(trigger, page.renew, [picker, shown], [picker, strip, *watched, shown])
    css = (Path(__file__).parent / "style.css").read_text(encoding="utf-8")
    return blocks, {"theme": theme(), "css": css}


def _connect(trigger: Any, call: Callable[..., Any], inputs: Any, outputs: Any, **more: Any) -> Any:
    """Connect an event, without the veil that Gradio lays over its outputs and without an entry in its public API."""
    return trigger(call, inputs, outputs, show_progress="hidden", api_visibility="private", **more)


def _start_tab(page: Page, tabs: Any, picker: Any) -> Any:
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
        with gr.Column(scale=2):
            effort = gr.Radio(
                list(EFFORTS), value="Default", label="How much care", info=_EFFORT_HINT, elem_id="effort"
            )
            allowed = "Such as 30min; then it chooses what fits. Empty: as long as it needs."
            budget = _line(label="Time it may take", info=allowed, elem_id="budget")
            name = _line(label="Name of this run", placeholder="made of the first names", elem_id="name")
    photos = _photo_folders()
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
    return _connect(start.click, page.start, inputs, [result, tabs, picker]).then


def _photo_folders() -> list[Any]:
    """A path and an upload for each kind of photos."""
    inputs: list[Any] = []
    with gr.Accordion("I have photos", open=False):
        _html(panel("about_photos"))
        with gr.Row():
            for label, info, name in (
                ("A few examples of each class", "They teach.", "examples"),
                ("Photos without labels", "They teach too: of the place it will work at.", "unlabelled"),
                ("Photos to measure on", "They only measure, so the result is honest.", "measured"),
            ):
                single = name == "unlabelled"
                with gr.Column(min_width=240):
                    inputs.append(_line(label=label, info=info, placeholder="/path/to/folder", elem_id=f"{name}-path"))
                    upload = gr.File(
                        label="or upload a zip" + (", or photos" if single else ""),
                        height=160,
                        elem_id=f"{name}-upload",
                        file_count="multiple",
                        file_types=["image", ".zip"] if single else [".zip"],
                    )
                    inputs.append(upload)
    return inputs


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


def _watch_tab(page: Page, picker: Any) -> list[Any]:
    with gr.Row():
        with gr.Column(scale=3):
            progress = _html("", elem_id="progress")
            with gr.Row():
                stop = _button("Stop", elem_id="stop", interactive=False, min_width=140)
                go_on = _button("Go on", elem_id="go-on", interactive=False, min_width=140)
            result = _html("", elem_id="watch-said")
        with gr.Column(scale=2, min_width=300):
            preview = _html("", elem_id="preview")
    with gr.Accordion("What it says", open=False):
        log = _html("", elem_id="log")
    _connect(stop.click, page.stop, None, result)
    _connect(go_on.click, page.go_on, picker, result)
    return [progress, preview, log, stop, go_on]


def _images_tab(page: Page, picker: Any, tab: Any) -> None:
    with gr.Row():
        class_name = gr.Dropdown(label="Class", choices=[("all classes", "")], value="", elem_id="image-class")
        style = gr.Dropdown(label="Style", choices=[("all styles", "")], value="", elem_id="image-style")
        by_score = gr.Checkbox(label="Least sure first", value=False, elem_id="image-order", min_width=160)
    grid = _html("", elem_id="images")
    inputs = [picker, class_name, style, by_score]
    for trigger in (tab.select, picker.change):
        chosen = _connect(trigger, page.image_choices, picker, [class_name, style])
        _connect(chosen.then, page.images, inputs, grid)
    for each in (class_name, style, by_score):
        _connect(each.input, page.images, inputs, grid)


def _try_tab(page: Page, picker: Any) -> None:
    with gr.Row():
        with gr.Column():
            photo = _photo(elem_id="try-photo")
        with gr.Column():
            answer = _html(note(NO_PHOTO), elem_id="answer")
            threshold = gr.Slider(0, 1, step=0.01, label="Refuse below", visible=False, elem_id="threshold")
    for trigger in (photo.change, picker.change):
        shown = _connect(trigger, page.threshold, picker, threshold, preprocess=False)
        _connect(shown.then, page.answer, [picker, photo], answer, preprocess=False)
    # What another threshold would do to this photo; the bundle keeps its own.
    inputs = [picker, photo, threshold]
    _connect(threshold.input, page.answer, inputs, answer, preprocess=False, trigger_mode="always_last")


def _compare_tab(page: Page, tab: Any) -> None:
    chosen = gr.Dropdown(label="Finished runs", choices=[], multiselect=True, elem_id="compare-runs")
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
