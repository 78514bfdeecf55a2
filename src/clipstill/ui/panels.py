"""What the page shows, as pieces of HTML. Every text from outside is escaped here."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any
from urllib.parse import quote

from clipstill.core.errors import ArtifactError
from clipstill.core.progress import span
from clipstill.runtime.bundle import Answer
from clipstill.ui.pictures import SyntheticImage
from clipstill.ui.runs import Amount, Figures, Run, amount_in
from clipstill.workflow.keys import (
    BUNDLE,
    CALIBRATION,
    CLASS_VECTORS,
    EVALUATION,
    LADDER,
    NEAR_MISSES,
    PROMPTS,
    REPORT,
    STUDENT,
    SURROGATE,
    TEACHER_PROMPTS,
)

FILES = "/files"
STAGE_TITLES = {
    TEACHER_PROMPTS: "The teacher learns from your examples",
    CLASS_VECTORS: "The teacher reads the names",
    PROMPTS: "Plan the images",
    SURROGATE: "Make the images",
    STUDENT: "Teach the student",
    NEAR_MISSES: "Make look-alikes of the classes",
    CALIBRATION: "Find out how sure it may be",
    EVALUATION: "Measure on your photos",
    BUNDLE: "Pack it",
    LADDER: "Compare with simpler ways",
    REPORT: "Write the report",
}
MOST_CELLS = 600
MOST_LINES = 60

BRAND = """<div class="cs-brand">
<svg viewBox="0 0 24 24" fill="none" stroke="currentColor" stroke-width="2" stroke-linecap="round" aria-hidden="true">
<path d="M12 3c3.6 4.4 5.6 7.4 5.6 10.4a5.6 5.6 0 0 1-11.2 0C6.4 10.4 8.4 7.4 12 3z"/>
<path d="M12 17.2a3.6 3.6 0 0 0 2.6-2.2"/></svg>
<b>clipstill</b><span>name your classes, get a classifier</span></div>"""


def note(text: str, kind: str = "plain", items: Sequence[str] = ()) -> str:
    """A short message: ``plain``, ``good``, ``warn`` or ``wrong``."""
    listed = f"<ul>{''.join(f'<li>{escape(item)}</li>' for item in items)}</ul>" if items else ""
    return f'<div class="cs-note {kind}" role="status">{escape(text)}{listed}</div>'


def error_note(error: Exception) -> str:
    """An error in its own words."""
    return note(sentence(error), "wrong")


def sentence(error: Exception) -> str:
    """An error's words with a capital at the front, as it stands alone."""
    text = str(error)
    return text[:1].upper() + text[1:]


def percent(share: float | None, digits: int = 0) -> str:
    """``63 %``; a dash for what is not known."""
    return "–" if share is None else f"{100 * share:.{digits}f} %"


def plan_panel(plan: Mapping[str, Any]) -> str:
    """Findings on the class names, what to expect, and what it costs."""
    findings = list(plan.get("findings") or [])
    cost = dict(plan.get("cost") or {})
    tiles = []
    if plan.get("expected_top1") is not None:
        tiles.append(_tile("Expected to be right", percent(plan["expected_top1"]), "of photos, told from names alone"))
    if cost.get("seconds") is not None:
        tiles.append(_tile("Time", span(float(cost["seconds"])), "on this machine, about"))
    if cost.get("images") is not None:
        tiles.append(_tile("Images", f"{int(cost['images']):,}", "will be made"))
    parts = [f'<div class="cs-tiles">{"".join(tiles)}</div>' if tiles else ""]
    if not findings:
        parts.append(note("The names look fine: nothing to warn of.", "good"))
    for each in findings:
        kind = "warn" if each.get("level") == "warning" else "plain"
        message = escape(str(each.get("message", "")))
        advice = f"<p>{escape(str(each['advice']))}</p>" if each.get("advice") else ""
        parts.append(f'<div class="cs-note {kind}"><b>{message}</b>{advice}</div>')
    per_class = plan.get("expected_per_class") or {}
    if per_class:
        hardest = sorted(per_class.items(), key=lambda item: (item[1] is not None, item[1]))
        rows = "".join(_bar(str(name), value) for name, value in hardest[:12])
        more = f"<p class='cs-hint'>{len(hardest) - 12} easier classes are not shown.</p>" if len(hardest) > 12 else ""
        parts.append(f'<h3>Expected, hardest class first</h3><div class="cs-bars">{rows}</div>{more}')
    return "".join(parts)


def strip(busy: str | None, run: Run | None, lines: Sequence[str]) -> str:
    """One line for the top of every page: what is at work.

    Args:
        busy: name of the run that is, if one is.
        run: the same; None while it has no folder.
        lines: what it said.
    """
    if busy is None:
        return '<div class="cs-strip idle"><i></i>Nothing is at work.</div>'
    stage = next((each for each in run.stages if each.state == "at work"), None) if run is not None else None
    doing = STAGE_TITLES.get(stage.name, stage.name) if stage is not None else "getting ready"
    amount = latest_amount(lines)
    far = f", {amount.done} of {amount.total}" if amount is not None else ""
    return (
        f'<div class="cs-strip busy"><i></i><b>{escape(busy)}</b> is at work: {escape(doing[:1].lower() + doing[1:])}'
        f"{escape(far)}</div>"
    )


def latest_amount(lines: Sequence[str]) -> Amount | None:
    """How far the stage at work is, by the last thing that was said; None where that was something else."""
    for line in reversed(lines):
        if line.strip():
            found = amount_in(line)
            if found is not None:
                return found
            if line.endswith((": at work", ": done already, skipped")) or ": done in " in line:
                return None
    return None


def empty_watch(workspace: str) -> str:
    """Where no run is chosen."""
    return note(f"There is no run in {workspace} yet. Type names on the page Start.")


def progress_panel(
    name: str, run: Run | None, trouble: str | None, lines: Sequence[str], at_work: bool, own: bool
) -> str:
    """State of a run in words, and its stages.

    Args:
        name: of the run.
        run: the same; None before it has a folder.
        trouble: why it ended before its time, where that is known.
        lines: what it said.
        at_work: whether a process works on it.
        own: whether that was started on this page.
    """
    finished = run is not None and run.finished
    task = None if run is None else run.task
    if at_work:
        head = _state("busy", "At work")
    elif finished:
        head = _state("good", "Finished")
    elif trouble is not None:
        head = _state("wrong", "Stopped by an error")
    else:
        head = _state("idle", "Stopped")
    classes = "" if task is None else f"{len(task.names)} classes: {_shortened(', '.join(task.names))}"
    parts = [f'<div class="cs-head"><h2>{escape(name)}</h2>{head}</div><p class="cs-hint">{escape(classes)}</p>']
    if trouble is not None and not at_work and not finished:
        parts.append(note(trouble, "wrong"))
    elif at_work and not own:
        parts.append(
            note("It was started elsewhere, on a command line or by another page, and is to be stopped there.")
        )
    elif not at_work and not finished:
        parts.append(note("Nothing is lost: 'Go on' continues where it was."))
    amount = latest_amount(lines) if at_work else None
    rows = []
    for stage in run.stages if run is not None else ():
        state = stage.state if at_work or stage.state != "at work" else "stopped"
        side = span(stage.seconds) if stage.seconds is not None else "done before" if state == "done" else ""
        bar = ""
        if state == "at work" and amount is not None:
            side = f"{amount.done} of {amount.total}"
            share = 100 * amount.done / amount.total
            bar = f'<div class="cs-bar"><i style="width:{share:.1f}%"></i></div><small>{escape(amount.rest)}</small>'
        title = STAGE_TITLES.get(stage.name, stage.name.replace("_", " "))
        rows.append(
            f'<li class="{state.replace(" ", "-")}"><i></i><div><span>{escape(title)}</span>{bar}</div>'
            f"<em>{escape(side)}</em></li>"
        )
    if rows:
        parts.append(f'<ol class="cs-stages">{"".join(rows)}</ol>')
    elif at_work:
        parts.append(note("Getting ready: the models are being loaded."))
    return "".join(parts)


def preview_panel(run: Run, at_work: bool) -> str:
    """The picture of the images at work."""
    path = run.preview
    if path is None:
        text = "Images appear here a few seconds after they are begun." if at_work else "No images yet."
        return f'<div class="cs-preview empty">{escape(text)}</div>'
    source = f"{FILES}/{quote(run.name)}/preview.png?v={path.stat().st_mtime_ns}"
    drawing = at_work and any(each.name == SURROGATE and each.state == "at work" for each in run.stages)
    caption = "Images at work, renewed every few seconds" if drawing else "Some of the images"
    return (
        f'<figure class="cs-preview"><img src="{source}" alt="synthetic images of this run">'
        f'<figcaption>{caption} <span class="cs-badge">SYNTHETIC</span></figcaption></figure>'
    )


def log_panel(lines: Sequence[str]) -> str:
    """The last lines that a run said."""
    shown = "\n".join(lines[-MOST_LINES:])
    return f'<pre class="cs-log">{escape(shown) or "Nothing was said yet."}</pre>'


def images_panel(
    run: Run, images: Sequence[SyntheticImage], class_name: str | None, style: str | None, by_score: bool
) -> str:
    """A grid of synthetic images: one a class and style, or all of what was chosen.

    Args:
        run: whose they are.
        images: all of them.
        class_name: of the class to show; None for all.
        style: of the style to show; None for all.
        by_score: lowest score first, instead of in the order of making.
    """
    if not images:
        return note("There are no images yet. They appear here as soon as the first group of them is done.")
    classes = run.task.names if run.task is not None else ()
    styles = run.style_names()
    chosen = [
        each
        for each in images
        if class_name in (None, _at(classes, each.record.class_id))
        and style in (None, _at(styles, each.record.style_id))
    ]
    hint = (
        f'<p class="cs-hint"><span class="cs-badge">SYNTHETIC</span> {len(images):,} images, made by clipstill; no '
        f"photo is among them. The number is how sure the teacher is that it sees the class. "
    )
    if class_name is None and style is None and not by_score:
        grid = _by_class_and_style(run, chosen, classes, styles)
        return f"{hint}Choose a class or a style to see all of its images.</p>{grid}"
    if by_score:
        chosen = sorted(chosen, key=lambda each: each.record.score)
    left_out = f" The first {MOST_CELLS} of {len(chosen):,} are shown." if len(chosen) > MOST_CELLS else ""
    cells = "".join(
        f"<figure>{_image(run, each)}<figcaption><b>{escape(_at(classes, each.record.class_id))}</b> "
        f"{escape(_at(styles, each.record.style_id))}<em>{percent(each.record.score)}</em>"
        f"<span>{escape(each.record.prompt)}</span></figcaption></figure>"
        for each in chosen[:MOST_CELLS]
    )
    return f'{hint}{left_out}</p><div class="cs-gallery">{cells}</div>'


def _by_class_and_style(
    run: Run, images: Sequence[SyntheticImage], classes: Sequence[str], styles: Sequence[str]
) -> str:
    first: dict[tuple[int, int], SyntheticImage] = {}
    for each in images:
        first.setdefault((each.record.class_id, each.record.style_id), each)
    columns = sorted({style for _, style in first})
    names = sorted({name for name, _ in first})
    most = max(1, MOST_CELLS // max(1, len(columns)))
    head = "".join(f"<th>{escape(_at(styles, style))}</th>" for style in columns)
    rows = []
    for name in names[:most]:
        cells = "".join(_cell(run, first.get((name, style))) for style in columns)
        rows.append(f"<tr><th>{escape(_at(classes, name))}</th>{cells}</tr>")
    left_out = (
        f'<p class="cs-hint">{len(names) - most} more classes are not shown; choose one.</p>'
        if len(names) > most
        else ""
    )
    return (
        f'<div class="cs-wide"><table class="cs-grid" style="min-width:{96 + 58 * len(columns)}px;'
        f'max-width:{96 + 92 * len(columns)}px"><thead><tr><td></td>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>{left_out}"
    )


def _cell(run: Run, image: SyntheticImage | None) -> str:
    if image is None:
        return "<td></td>"
    return f"<td>{_image(run, image)}<em>{percent(image.record.score)}</em></td>"


def _image(run: Run, image: SyntheticImage) -> str:
    record = image.record
    source = f"{FILES}/{quote(run.name)}/pictures/{image.number}.png?v={image.version}"
    told = escape(f"{record.prompt} (score {percent(record.score)}, {record.generator}, seed {record.seed})")
    return f'<img loading="lazy" src="{source}" alt="synthetic image: {escape(record.prompt)}" title="{told}">'


def _at(names: Sequence[str], position: int) -> str:
    return names[position] if 0 <= position < len(names) else str(position)


def answer_panel(answer: Answer, figures: Figures | None) -> str:
    """What a classifier says of a photo."""
    best = answer.predictions[0]
    if answer.refused:
        head = f'<div class="cs-verdict refused">None of these<small>most like {escape(best.label)}</small></div>'
    else:
        head = f'<div class="cs-verdict">{escape(best.label)}<small>{percent(best.score, 1)} sure</small></div>'
    rows = "".join(_bar(each.label, each.score) for each in answer.predictions[:10])
    right = None if figures is None else figures.top1 if figures.top1 is not None else figures.expected_top1
    told = "" if figures is None or right is None else _how_good(figures, right)
    return f'{head}<div class="cs-bars">{rows}</div>{told}'


def _how_good(figures: Figures, right: float) -> str:
    if figures.top1 is not None:
        text = f"Of {figures.photos:,} real photos it names {percent(right, 1)} right."
    else:
        text = f"About {percent(right)} of its answers are expected to be right; that was not measured."
    return f'<p class="cs-hint">{escape(text)}</p>'


# Title, and whether numbers stand below it.
_COLUMNS = (
    ("Run", False),
    ("Student", False),
    ("Teacher", False),
    ("Right", True),
    ("Teacher right", True),
    ("Expected", True),
    ("Size", True),
    ("Time a picture", True),
    ("Classes", True),
    ("Can refuse", False),
)


def _compare_row(name: str, figures: Figures) -> str:
    texts = (name, figures.student, figures.teacher)
    numbers = (
        f"<b>{percent(figures.top1, 1)}</b><small>{_photos(figures)}</small>",
        percent(figures.teacher_top1, 1),
        percent(figures.expected_top1),
        f"{figures.onnx_bytes / 1e6:.1f} MB",
        f"{figures.latency_ms:.1f} ms",
        str(len(figures.labels)),
    )
    return (
        f"<tr>{''.join(f'<td>{escape(text)}</td>' for text in texts)}"
        f"{''.join(f'<td class=num>{number}</td>' for number in numbers)}"
        f"<td>{'yes' if figures.refuses else 'no'}</td></tr>"
    )


def _photos(figures: Figures) -> str:
    return f"{figures.photos:,} photos" if figures.photos else "not measured"


def compare_table(rows: Sequence[tuple[str, Figures]]) -> str:
    """Finished runs beside each other."""
    if len(rows) < 2:
        return note("Choose two or more finished runs.")
    body = "".join(_compare_row(name, each) for name, each in rows)
    head = "".join(f"<th{' class=num' if number else ''}>{title}</th>" for title, number in _COLUMNS)
    warning = ""
    if len({frozenset(each.labels) for _, each in rows}) > 1:
        warning = note("These runs have different classes, so their accuracies are of different questions.", "warn")
    elif len({each.photos for _, each in rows if each.photos}) > 1:
        warning = note("These runs were measured on different photos, so small differences mean little.", "warn")
    table = f'<table class="cs-table"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
    return (
        f'{warning}<div class="cs-wide">{table}</div><p class="cs-hint">Right: of real photos, where some were given. '
        f"Expected: told without any photo. Time: one picture on one core of the machine that packed it.</p>"
    )


def compare_answers(answers: Sequence[tuple[str, Answer]]) -> str:
    """The same photo, answered by each."""
    cards = "".join(
        f'<div class="cs-card"><h3>{escape(name)}</h3>{answer_panel(answer, None)}</div>' for name, answer in answers
    )
    return f'<div class="cs-cards">{cards}</div>'


def get_panel(run: Run, command: Sequence[str] | None) -> str:
    """The bundle to take away, and the commands that do the same."""
    if not run.has_bundle:
        return note("This run has no classifier yet. Watch it, or go on with it, until it is finished.")
    name = quote(run.name)
    try:
        figures = run.figures()
    except ArtifactError as error:
        return error_note(error)
    tiles = [
        _tile("Measured", percent(figures.top1, 1), f"right of {figures.photos:,} photos")
        if figures.top1 is not None
        else _tile("Expected", percent(figures.expected_top1), "right, not measured"),
        _tile("Size", f"{figures.onnx_bytes / 1e6:.1f} MB", f"{figures.parameters / 1e6:.1f} million parameters"),
        _tile("Time", f"{figures.latency_ms:.1f} ms", "a picture on one core"),
        _tile("Classes", str(len(figures.labels)), 'and "none of these"' if figures.refuses else "always answers one"),
    ]
    report = f'<a class="cs-button second" href="{FILES}/{name}/report.html" target="_blank">Open the report</a>'
    if run.report is None:
        report = ""
    lines = [
        ("The same run from a shell", f"clipstill {shlex.join(command)}" if command is not None else None),
        ("Name a photo", f"clipstill predict {shlex.quote(str(run.path))} photo.jpg"),
    ]
    commands = "".join(f"<h3>{title}</h3><pre>{escape(text)}</pre>" for title, text in lines if text is not None)
    code = escape(
        f"from clipstill.runtime import load_bundle\n\nbundle = load_bundle({str(run.bundle)!r})\n"
        f'for each in bundle.predict("photo.jpg", top=3):\n    print(each.label, each.score)'
    )
    return (
        f'<div class="cs-tiles">{"".join(tiles)}</div><p class="cs-actions"><a class="cs-button" id="bundle-link" '
        f'href="{FILES}/{name}/bundle.zip" download="{escape(run.name)}-bundle.zip">Download the bundle</a>{report}</p>'
        f'<p class="cs-hint">The bundle is a folder: the model (ONNX), its labels, how a photo is prepared, what was '
        f"measured, and the licences. It runs with numpy, onnxruntime and Pillow.</p>"
        f'<div class="cs-commands">{commands}<h3>From Python</h3><pre>{code}</pre></div>'
    )


def report_panel(run: Run) -> str:
    """The report inside the page. It may be anybody's file, so it may run nothing."""
    if run.report is None:
        return ""
    source = f"{FILES}/{quote(run.name)}/report.html?v={run.report.stat().st_mtime_ns}"
    return f'<iframe class="cs-report" sandbox="" src="{source}" title="Report of {escape(run.name)}"></iframe>'


def _tile(name: str, value: str, more: str) -> str:
    return f'<div class="cs-tile"><span>{escape(name)}</span><b>{escape(value)}</b><small>{escape(more)}</small></div>'


def _bar(name: str, share: float | None) -> str:
    width = 0.0 if share is None else 100 * share
    return (
        f'<span>{escape(name)}</span><div class="cs-bar"><i style="width:{width:.1f}%"></i></div>'
        f"<em>{percent(share, 1)}</em>"
    )


def _state(kind: str, text: str) -> str:
    return f'<span class="cs-state {kind}">{escape(text)}</span>'


def _shortened(text: str, limit: int = 160) -> str:
    return text if len(text) <= limit else text[: limit - 3] + "..."
