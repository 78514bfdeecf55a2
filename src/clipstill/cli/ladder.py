"""``clipstill ladder``: was distilling worth it? Simpler and richer ways to a run's classifier, on the same photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from clipstill.cli.options import DeviceOption, JsonOption, QuietOption, print_json, set_quiet

_HEAD = ("", "top-1", "against ours", "ECE", "MB", "params", "GFLOP", "ms", "minutes", "photos", "labels")


def ladder(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A finished run folder.")],
    images: Annotated[Path, typer.Option("--images", help="Real photos to measure on: one sub-folder a class.")],
    examples: Annotated[
        Path | None, typer.Option("--examples", help="Labelled photos to learn from: one sub-folder a class.")
    ] = None,
    shots: Annotated[
        int | None, typer.Option("--shots", min=1, help="Most examples of a class; all if left out.")
    ] = None,
    unlabelled: Annotated[
        Path | None, typer.Option("--unlabelled", help="Photos without labels to learn from.")
    ] = None,
    rungs: Annotated[
        str, typer.Option("--rungs", help="Names, joined by commas, such as ours,small-teacher; all if left out.")
    ] = "",
    small_teacher: Annotated[
        str | None,
        typer.Option("--small-teacher", help="Teacher that would ship untrained; the settings' if left out."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Keeps what is made for the next call; RUN/ladder if left out.")
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask whether distilling was worth it.

    Measures, on the same photos, the teacher, a small teacher with stored class vectors, the student taught on pictures
    of nothing, the student, and the student with further photos; and says what to ship.

    clipstill ladder runs/zoo --images photos --examples five-a-class --shots 5
    """
    set_quiet(quiet)
    from clipstill.commands.ladder import LadderRequest, measure_ladder

    names = tuple(name.strip() for name in rungs.split(",") if name.strip())
    request = LadderRequest(run, images, examples, shots, unlabelled, names, small_teacher, out, device)
    result = measure_ladder(request)
    if as_json:
        print_json(result)
    else:
        print("\n".join(ladder_lines(result)))


def ladder_lines(result: dict[str, Any]) -> list[str]:
    """The recommendation, a table of the measured rungs, and what is missing."""
    advice = result["recommendation"]
    rows = [_HEAD, *(_row(rung, result["against_ours"]) for rung in result["rungs"] if rung["measured"])]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEAD))]
    lines = [advice["text"], ""]
    for row in rows:
        cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    missing = [rung for rung in result["rungs"] if not rung["measured"]]
    lines += [f"{rung['title']}: not measured; {rung['missing']}" for rung in missing]
    lines += [
        "",
        f"{result['n']} photos; in brackets the p of McNemar's exact test, below 0.05 where it can be measured.",
    ]
    return [*lines, *([advice["command"]] if advice["command"] else [])]


def _row(rung: dict[str, Any], against: dict[str, Any]) -> tuple[str, ...]:
    found, gap = rung["measured"], against.get(rung["name"])
    cost = found["cost"]
    megabytes = None if cost["onnx_bytes"] is None else cost["onnx_bytes"] / 1e6
    return (
        rung["title"],
        f"{100 * found['top1']:.1f}",
        "" if gap is None else f"{100 * gap['share']:+.1f} (p {gap['p']:.2g})",
        f"{found['ece']:.3f}",
        _number(megabytes),
        _number(None if cost["parameters"] is None else cost["parameters"] / 1e6, "M"),
        _number(cost["gflop"], digits=2),
        _number(cost["latency_ms"]),
        _number(cost["minutes"]),
        str(cost["photos"] or "-"),
        str(cost["labels"] or "-"),
    )


def _number(value: float | None, unit: str = "", digits: int = 1) -> str:
    return "-" if value is None else f"{value:.{digits}f}{unit}"
