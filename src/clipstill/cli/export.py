"""``clipstill export``: further formats of a finished student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import clipstill
from clipstill.cli import options
from clipstill.cli.printing import print_json, print_table
from clipstill.core.errors import ConfigError, ExportError
from clipstill.core.names import plain
from clipstill.core.paths import user_path
from clipstill.core.progress import percent

if TYPE_CHECKING:
    from clipstill.commands.export import Exported

_HEAD = ("format", "file", "MB", "ms, one core", "ms, all", "same answers", "logits differ by")


def export(
    source: options.Source,
    names: Annotated[list[str], typer.Option("--format", "-f", help="See: clipstill list formats; may be repeated.")],
    out: Annotated[
        Path | None, options.path("--out", "-o", help="A new bundle; into the bundle itself if left out.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Real photos to measure on: one sub-folder a class; may be repeated under different names.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None, options.path(help="Photos like those in use, for int8; a run has its synthetic images.")
    ] = None,
    allow_unmatched: options.AllowUnmatched = None,
    overrides: options.Overrides = None,
    as_json: options.Json = False,
    quiet: options.Quiet = False,
) -> None:
    """Write further formats of a finished student.

    Each is compared with the student and measured: size, time for one picture, share of equal answers, and top-1 on
    photos. One that answers too differently is refused, and the exit code is 2.

    clipstill export runs/zoo --format onnx-int8 --format torch --images photos
    """
    from clipstill.export import formats

    formats.check(*names)  # Before torch is loaded, which takes seconds.
    folders = named_folders(images or [])
    settings = options.with_flags(overrides, {"allow_unmatched": allow_unmatched})
    result = clipstill.export_formats(
        run=source, formats=names, out=out, images=folders, calibration=calibration, settings=settings
    )
    if as_json:
        print_json(result.to_json())
    else:
        print_table(_rows(result))
        print("  ms: one picture on this machine, now; card.md keeps the time of when each file was made")
        print(f"  written to {plain(result.out)}")
    refused = [each for each in result.formats if each.refused]
    if refused:
        raise ExportError(f"{refused[0].format} is refused, and its file is not written: {refused[0].refused}.")


def named_folders(texts: list[str]) -> dict[str, Path]:
    """Folders by name, from ``NAME=DIR`` or ``DIR``, which is named after its folder."""
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        path = user_path(rest if equals else text)
        name = name if equals else plain(path.resolve().name)
        if name in found:
            raise ConfigError(f"two folders of photos are named '{name}'. Name them: --images NAME=DIR")
        found[name] = path
    return found


def _rows(result: Exported) -> list[list[str]]:
    rows = [[*_HEAD, *result.photos]]
    for each in result.formats:
        if each.refused:
            rows.append([each.format, "refused"])
            continue
        rows.append(
            [
                each.format,
                str(each.file),
                f"{each.bytes / 1e6:.1f}",
                _number(each.latency_ms, ".1f"),
                _number(each.latency_all_cores_ms, ".1f"),
                percent(each.top1_agreement),
                _number(each.max_difference, ".1e"),
                *(percent(each.accuracy.get(name)) for name in result.photos),
            ]
        )
    return rows


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)
