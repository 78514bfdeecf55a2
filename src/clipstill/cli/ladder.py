"""``clipstill ladder``: was distilling worth it? Simpler and richer ways to a run's classifier, on the same photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_json, print_table, print_text
from clipstill.core.foresight import measured_photos
from clipstill.core.progress import percent

_HEAD = ("", "top-1", "against ours", "ECE", "MB", "params", "GFLOP", "ms", "minutes", "photos", "labels")


def ladder(
    context: typer.Context,
    run: options.RunFolder,
    photos: options.Photos = None,
    images: options.Images = None,
    examples: options.Examples = None,
    shots: Annotated[int | None, typer.Option(min=1, help="Most examples of a class; all if left out.")] = None,
    unlabelled: options.Unlabelled = None,
    allow_unmatched: options.AllowUnmatched = None,
    rungs: Annotated[
        str, typer.Option(help="Names, joined by commas, such as ours,small-teacher; all if left out.")
    ] = "",
    small_teacher: Annotated[
        str | None, typer.Option(help="Teacher that would ship untrained; the settings' if left out.")
    ] = None,
    out: Annotated[
        Path | None, options.path("--out", "-o", help="Keeps what is made for the next call; RUN/ladder if left out.")
    ] = None,
    device: options.Device = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Ask whether distilling was worth it.

    Measures, on the same photos, the teacher, a small teacher with stored class vectors, the student taught on pictures
    of nothing, the student, and the student with further photos; and says what to ship.

    clipstill ladder runs/zoo photos --examples five-a-class --shots 5
    """
    place = options.photos_of(photos, images, "clipstill ladder RUN photos")
    given = options.shared(context, clipstill.LadderOptions)
    given["rungs"] = [name.strip() for name in rungs.split(",") if name.strip()]
    result = clipstill.ladder(run=run, images=place, **given).to_json()
    if as_json:
        print_json(result)
        return
    advice = result["recommendation"]
    print_text(f"{' '.join(filter(None, (advice['choice'], advice['more'])))}\n")
    measured = [rung for rung in result["rungs"] if rung["measured"]]
    print_table([_HEAD, *(_row(rung, result["against_ours"]) for rung in measured)], indent="", numbers=True)
    for rung in result["rungs"]:
        if not rung["measured"]:
            print_text(f"{rung['title']}: not measured; {rung['missing']}")
    first = measured[0]["measured"] if measured else {}
    measured_on = measured_photos({"n": result["n"], "student": {**first, "classes": result["classes"]}})
    print(
        f"\n{measured_on}; in brackets the p of McNemar's exact test, below 0.05 where it can be measured. "
        "ms: one picture on one core, when the file was made."
    )
    if advice["command"]:
        print_text(advice["command"])


def _row(rung: dict[str, Any], against: dict[str, Any]) -> tuple[str, ...]:
    found, gap = rung["measured"], against.get(rung["name"])
    cost = found["cost"]
    return (
        rung["title"],
        percent(found["top1"]),
        "" if gap is None else f"{100 * gap['share']:+.1f} (p {gap['p']:.2g})",
        f"{found['ece']:.3f}",
        _number(cost["onnx_bytes"], scale=1e-6),
        _number(cost["parameters"], "M", scale=1e-6),
        _number(cost["gflop"], digits=2),
        _number(cost["latency_ms"]),
        _number(cost["minutes"]),
        str(cost["photos"] or "-"),
        str(cost["labels"] or "-"),
    )


def _number(value: float | None, unit: str = "", digits: int = 1, scale: float = 1) -> str:
    return "-" if value is None else f"{value * scale:.{digits}f}{unit}"
