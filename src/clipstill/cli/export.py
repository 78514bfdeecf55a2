"""``clipstill export``: further formats of a finished student."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from clipstill.cli.options import JsonOption, QuietOption, SetOption, percent, print_json, set_quiet
from clipstill.core.errors import ConfigError, ExportError

if TYPE_CHECKING:
    from clipstill.commands.export import Exported


def export(
    source: Annotated[Path, typer.Argument(metavar="RUN_OR_BUNDLE", help="A run folder or a bundle.")],
    names: Annotated[list[str], typer.Option("--format", "-f", help="See: clipstill list formats; may be repeated.")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="A new bundle; into the bundle itself if left out.")
    ] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--images",
            metavar="[NAME=]DIR",
            help="Real photos to measure on: one sub-folder a class; may be repeated under different names.",
        ),
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option("--calibration", help="Photos like those in use, for int8; a run has its synthetic images."),
    ] = None,
    set_: SetOption = None,
    as_json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write further formats of a finished student.

    Each is compared with the student and measured: size, time for one picture, share of equal answers, and top-1 on
    photos. One that answers too differently is refused, and the exit code is 2.

    clipstill export runs/zoo --format onnx-int8 --format torch --images photos
    """
    set_quiet(quiet)
    from clipstill.commands.export import export as write

    result = write(source, names, out, named_folders(images or []), calibration, set_ or [])
    if as_json:
        print_json(result.to_json())
    else:
        print("\n".join(table(result)))
    refused = [each for each in result.formats if each.refused]
    if refused:
        raise ExportError(f"{refused[0].format} is refused, and its file is not written: {refused[0].refused}.")


def named_folders(texts: list[str]) -> dict[str, Path]:
    """``NAME=DIR`` or ``DIR``, which is named after its folder.

    Raises:
        ConfigError: two of one name.
    """
    found: dict[str, Path] = {}
    for text in texts:
        name, equals, rest = text.partition("=")
        path = Path(rest if equals else text)
        name = name if equals else path.resolve().name
        if name in found:
            raise ConfigError(f"two folders of photos are named '{name}'. Name them: --images NAME=DIR")
        found[name] = path
    return found


def table(result: Exported) -> list[str]:
    """Lines for people: a row a format."""
    rows = [["format", "file", "MB", "ms, one core", "ms, all", "same answers", "logits differ by", *result.photos]]
    for each in result.formats:
        if each.refused:
            rows.append([each.format, "refused"])
            continue
        rows.append(
            [
                each.format,
                str(each.file),
                f"{each.bytes / 1e6:.1f}",
                f"{each.latency_ms:.1f}",
                f"{each.latency_all_cores_ms:.1f}",
                percent(each.top1_agreement),
                f"{each.max_difference:.1e}",
                *(percent(each.accuracy[name]) for name in result.photos),
            ]
        )
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    lines = [
        "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)).rstrip() for row in rows
    ]
    return [*lines, f"  written to {result.out}"]
